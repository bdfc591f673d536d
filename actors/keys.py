"""API keys: who may come in, as whom, and to do what.

    onhand_<prefix>_<secret>      what the caller holds; shown once, when it is made
    prefix, sha256 of all of it   what the file holds, with channel, verbs and dates

The secret is 32 random bytes, so a fast hash is as good as a slow one; the prefix finds the record,
and the hash is compared in constant time. A key belongs to a channel, or to an operator. Rotating
makes a new key of the same scope and lets the old one live on for a while; revoking ends it. Every
process notices a changed file within RELOAD_SECONDS, and hangs up on who came in by a key that is
no longer valid. A change puts a new file in the place of the old one, which a file that is a link
would not survive: whoever reads it by its other name would go on with the old keys, a revoked one
among them. So keys are changed where they are kept.

Without a key, callers come in over loopback and over unix sockets, unless keys are required; never
over any other address, where a gateway does not even start before there are keys. The engine's own
processes show each other a secret of their own, which lives as long as the run.
"""

import fcntl
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from actors.config import Settings
from engine.limits import ID_PATTERN
from engine.scope import ALL_VERBS, CHANNEL_VERBS, ENGINE, OPERATOR, Scope

RELOAD_SECONDS: Final = 2.0
KEYS_MAX: Final = 10_000
KEY_CHARS_MAX: Final = 128
_MARK: Final = "onhand"
_log = structlog.get_logger(__name__)


class KeysError(Exception):
    """What was asked for is impossible; the message is one line for the operator."""


class Key(Struct, frozen=True, kw_only=True):
    """What is known of one key. Times are seconds since 1970."""

    prefix: str
    digest: str
    channel: str | None
    verbs: list[str]
    created: int
    expires: int | None = None
    revoked: int | None = None

    def is_valid(self, now: float) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)

    @property
    def scope(self) -> Scope:
        verbs = ALL_VERBS if ALL_VERBS == set(self.verbs) else frozenset(self.verbs)
        return Scope(self.channel, verbs, self.prefix)


class KeyFile:
    """The file of all keys; changes are whole, and one at a time."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock

    def read(self) -> list[Key]:
        """All keys, the revoked ones as well. Raises KeysError if the file is illegible."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[Key])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as error:
            raise KeysError(f"cannot read {self._path}: {error}") from error

    def has_valid(self) -> bool:
        """Whether anybody can come in."""
        return any(key.is_valid(self._clock()) for key in self.read())

    def create(self, channel: str | None = None, verbs: Collection[str] | None = None) -> str:
        """A new key, whose text is kept nowhere else. Raises KeysError.

        `channel` None = an operator's; `verbs` None = all that the one or the other may have.
        """
        with self._changing() as keys:
            key, text = self._make(channel, verbs)
            keys.append(key)
        return text

    def revoke(self, prefix: str) -> Key:
        """End a key at once; it stays on the list. Raises KeysError if there is none."""
        with self._changing() as keys:
            place = self._find(keys, prefix)
            keys[place] = revoked = msgspec.structs.replace(keys[place], revoked=self._now())
        return revoked

    def rotate(self, prefix: str, overlap_seconds: int) -> str:
        """A new key for the holder of an old one, which lives on for the overlap.

        Raises KeysError if there is none, or it is no longer valid.
        """
        with self._changing() as keys:
            place = self._find(keys, prefix)
            old = keys[place]
            if not old.is_valid(self._clock()):
                raise KeysError(f"key {prefix} is not valid any more; create a new one")
            ends = self._now() + overlap_seconds
            if old.expires is not None:
                ends = min(ends, old.expires)
            keys[place] = msgspec.structs.replace(old, expires=ends)
            key, text = self._make(old.channel, old.verbs)
            keys.append(key)
        return text

    def _make(self, channel: str | None, verbs: Collection[str] | None) -> tuple[Key, str]:
        possible = ALL_VERBS if channel is None else CHANNEL_VERBS
        wanted = possible if verbs is None else frozenset(verbs)
        whose = "an operator" if channel is None else "a channel"
        if channel is not None and not re.fullmatch(ID_PATTERN, channel):
            raise KeysError(f"{channel!r} is no channel: it must match {ID_PATTERN}")
        if not wanted or not wanted <= possible:
            known = ", ".join(sorted(possible))
            raise KeysError(f"{whose}'s key may have these verbs: {known}")
        prefix, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        text = f"{_MARK}_{prefix}_{secret}"
        key = Key(
            prefix=prefix,
            digest=_digest(text),
            channel=channel,
            verbs=sorted(wanted),
            created=self._now(),
        )
        return key, text

    @staticmethod
    def _find(keys: list[Key], prefix: str) -> int:
        for place, key in enumerate(keys):
            if key.prefix == prefix:
                return place
        raise KeysError(f"there is no key {prefix}")

    @contextmanager
    def _changing(self) -> Iterator[list[Key]]:
        """The keys, to be changed in place; written back whole if nothing is raised."""
        if self._path.is_symlink():
            kept = self._path.resolve().parent
            raise KeysError(f"{self._path} is a link: change the keys with --data-dir {kept}")
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(
            self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = self.read()
            yield keys
            if len(keys) > KEYS_MAX:
                raise KeysError(f"there are {KEYS_MAX} keys already")
            self._write(keys)
        finally:
            os.close(lock)

    def _write(self, keys: list[Key]) -> None:
        fresh = self._path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(keys)))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)

    def _now(self) -> int:
        return int(self._clock())


class Authenticator:
    """What a caller may do: called with the key that it shows, or None, and its address."""

    def __init__(
        self,
        settings: Settings,
        path: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._file = KeyFile(path, clock)
        self._path = path
        self._clock = clock
        self._keyless = not settings.require_keys
        self._keyless_tcp = self._keyless and settings.is_loopback
        self._internal = settings.control_token.encode()
        self._keys: dict[str, Key] = {}
        self._seen: tuple[int, int, int] | None = None
        self._check_at = 0.0

    def __call__(self, key: str | None, peer: str) -> Scope | None:
        """The caller's scope; None = nobody whom we know."""
        if key is None:
            return OPERATOR if self._may_lack_key(peer) else None
        if len(key) > KEY_CHARS_MAX:
            return None
        if self._internal and hmac.compare_digest(key.encode(), self._internal):
            return ENGINE
        self._reload()
        known = self._keys.get(key.split("_", 2)[1] if key.startswith(f"{_MARK}_") else "")
        digest = _digest(key)
        if known is None or not hmac.compare_digest(digest, known.digest):
            return None
        return known.scope if known.is_valid(self._clock()) else None

    def _may_lack_key(self, peer: str) -> bool:
        if peer.startswith("unix:"):
            return self._keyless
        return self._keyless_tcp and _is_loopback(peer)

    def _reload(self) -> None:
        now = self._clock()
        if self._check_at - RELOAD_SECONDS <= now < self._check_at:
            return
        self._check_at = now + RELOAD_SECONDS
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            self._keys, self._seen = {}, None
            return
        seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        if seen != self._seen:
            try:
                self._keys = {key.prefix: key for key in self._file.read()}
            except KeysError as error:  # who was known before stays known
                _log.error("keys not reloaded", reason=str(error))
            self._seen = seen


def check_keys(settings: Settings, path: Path) -> None:
    """Raises KeysError if the settings need keys and there are none."""
    if settings.require_keys or not settings.is_loopback:
        why = "--require-keys" if settings.require_keys else f"--bind {settings.bind}"
        if not KeyFile(path).has_valid():
            raise KeysError(f"{why} needs API keys and there are none: create one (onhand keys)")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_loopback(peer: str) -> bool:
    host = peer.removeprefix("tcp:").rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
