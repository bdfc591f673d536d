"""API keys: what is kept of them, what they open, how long, and who may come in without one."""

import stat
from pathlib import Path

import pytest

from actors.config import Settings
from actors.keys import RELOAD_SECONDS, Authenticator, KeyFile, KeysError, check_keys
from engine.scope import ALL_VERBS, CHANNEL_VERBS, ENGINE, OPERATOR, READ, SELL, STOCK, Scope

TCP = "tcp:127.0.0.1:5555"
AWAY = "tcp:192.0.2.1:5555"


class Clock:
    """Seconds since 1970, as told."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def operator(text: str) -> Scope:
    """What the holder of an operator's key may do, and as whom."""
    return Scope(None, ALL_VERBS, text.split("_")[1])


def test_a_link_is_not_written_through(path: Path, tmp_path: Path) -> None:
    """Keys are changed where they are kept: of a link nothing is changed, and what it leads to is
    read."""
    kept = tmp_path / "mounted" / "keys.json"
    key = KeyFile(kept).create()
    path.symlink_to(kept)

    for change in (KeyFile(path).create, lambda: KeyFile(path).revoke(key.split("_")[1])):
        with pytest.raises(KeysError, match=f"is a link.*--data-dir {kept.parent}"):
            change()

    assert path.is_symlink()
    assert KeyFile(kept).read() == KeyFile(path).read()
    assert KeyFile(path).has_valid()


def test_an_operators_key_opens_everything(path: Path, clock: Clock) -> None:
    """The text that is shown once is the operator's scope from then on."""
    text = KeyFile(path, clock).create()

    assert operator(text) == Authenticator(Settings(), path, clock)(text, AWAY)


def test_a_channels_key_opens_its_channel(path: Path, clock: Clock) -> None:
    """By default a channel's key has every verb that one may have, and no other."""
    text = KeyFile(path, clock).create("shop")

    expected = Scope("shop", CHANNEL_VERBS, text.split("_")[1])
    assert expected == Authenticator(Settings(), path, clock)(text, AWAY)


def test_verbs_narrow(path: Path, clock: Clock) -> None:
    """A key has the verbs that it was made with."""
    text = KeyFile(path, clock).create("shop", [READ])

    expected = Scope("shop", frozenset({READ}), text.split("_")[1])
    assert expected == Authenticator(Settings(), path, clock)(text, AWAY)


@pytest.mark.parametrize(
    ("channel", "verbs", "said"),
    [
        ("shop", [STOCK], "a channel's key may have these verbs: fulfil, read, sell"),
        (None, ["fly"], "an operator's key may have these verbs: admin, fulfil, read, sell, stock"),
        ("shop", [], "a channel's key may have these verbs"),
        ("a b", None, "'a b' is no channel"),
    ],
)
def test_impossible_keys_are_refused(
    path: Path, channel: str | None, verbs: list[str] | None, said: str
) -> None:
    """Stock is no channel's business, and unknown verbs are nobody's."""
    with pytest.raises(KeysError) as caught:
        KeyFile(path).create(channel, verbs)

    assert str(caught.value).startswith(said)
    assert [] == KeyFile(path).read()


def test_the_file_holds_no_secret(path: Path) -> None:
    """What is on disk opens nothing, and only this user may read it."""
    text = KeyFile(path).create("shop")

    assert text.split("_", 2)[2] not in path.read_text()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_near_misses_open_nothing(path: Path, clock: Clock) -> None:
    """A right prefix with a wrong secret, other words, and long noise are all nobody."""
    text = KeyFile(path, clock).create()
    authenticate = Authenticator(Settings(), path, clock)
    wrong = ["", text[:-1], text + "x", text.replace("onhand", "offhand"), "onhand_", "x" * 10**6]
    wrong.append(f"{text[:-1]}{'a' if text[-1] != 'a' else 'b'}")

    assert [None] * len(wrong) == [authenticate(each, TCP) for each in wrong]


def test_a_revoked_key_is_refused_within_seconds(path: Path, clock: Clock) -> None:
    """Whoever has read the file reads it again soon."""
    file = KeyFile(path, clock)
    text = file.create()
    authenticate = Authenticator(Settings(), path, clock)
    assert operator(text) == authenticate(text, AWAY)

    file.revoke(text.split("_")[1])
    clock.now += RELOAD_SECONDS

    assert authenticate(text, AWAY) is None
    assert [clock.now - RELOAD_SECONDS] == [key.revoked for key in file.read()]


def test_a_new_key_is_known_within_seconds(path: Path, clock: Clock) -> None:
    """No process needs a restart for a key."""
    authenticate = Authenticator(Settings(), path, clock)
    assert authenticate("onhand_x_y", AWAY) is None

    text = KeyFile(path, clock).create()
    clock.now += RELOAD_SECONDS

    assert operator(text) == authenticate(text, AWAY)


def test_rotation_overlaps(path: Path, clock: Clock) -> None:
    """Old and new are both good for a while; then only the new one is, with the same scope."""
    file = KeyFile(path, clock)
    old = file.create("shop", [SELL])
    new = file.rotate(old.split("_")[1], overlap_seconds=3600)
    authenticate = Authenticator(Settings(), path, clock)
    scope = authenticate(new, AWAY)
    before = authenticate(old, AWAY)

    clock.now += 3600

    expected = [Scope("shop", frozenset({SELL}), each.split("_")[1]) for each in (old, new)]
    assert expected == [before, scope]
    assert (None, scope) == (authenticate(old, AWAY), authenticate(new, AWAY))
    with pytest.raises(KeysError, match="not valid any more"):
        file.rotate(old.split("_")[1], overlap_seconds=60)


def test_unknown_keys_cannot_be_changed(path: Path) -> None:
    """Revoking what is not there says so."""
    with pytest.raises(KeysError, match="there is no key abc"):
        KeyFile(path).revoke("abc")


@pytest.mark.parametrize(
    ("settings", "peers"),
    [
        (Settings(), {"unix:": True, TCP: True, "tcp:[::1]:1": True, AWAY: False}),
        (Settings(require_keys=True), {"unix:": False, TCP: False, AWAY: False}),
        (Settings(bind="0.0.0.0"), {"unix:": True, TCP: False, AWAY: False}),
        (Settings(address="ray:1", redis=("redis://r",)), {"unix:": True, TCP: True, AWAY: False}),
    ],
)
def test_who_comes_in_without_a_key(path: Path, settings: Settings, peers: dict[str, bool]) -> None:
    """Loopback and unix sockets, unless keys are required; behind an open address, no TCP at all:
    a proxy on this machine would vouch for the whole world."""
    authenticate = Authenticator(settings, path)

    assert peers == {peer: authenticate(None, peer) is OPERATOR for peer in peers}


def test_the_engines_own_secret_opens(path: Path) -> None:
    """Gateways come to hosts with the secret of the run, also where keys are required."""
    settings = Settings(require_keys=True, control_token="of this run")

    assert ENGINE is Authenticator(settings, path)("of this run", AWAY)
    assert Authenticator(Settings(require_keys=True), path)("", AWAY) is None


def test_an_open_address_needs_keys(path: Path) -> None:
    """Without a key nobody could come in, or everybody; so it does not start."""
    settings = Settings(bind="0.0.0.0")
    with pytest.raises(KeysError, match=r"--bind 0\.0\.0\.0 needs API keys"):
        check_keys(settings, path)

    KeyFile(path).create()

    check_keys(settings, path)
    check_keys(Settings(), path.parent / "none")


def test_an_illegible_file_is_named_and_changes_nobody(path: Path, clock: Clock) -> None:
    """Commands say which file is broken; a running process keeps to what it knew."""
    file = KeyFile(path, clock)
    text = file.create()
    authenticate = Authenticator(Settings(), path, clock)
    assert operator(text) == authenticate(text, AWAY)

    path.write_text("{")
    clock.now += RELOAD_SECONDS

    assert operator(text) == authenticate(text, AWAY)
    with pytest.raises(KeysError, match=str(path)):
        file.create()


def test_all_verbs_are_somebodys() -> None:
    """What a channel may do, an operator may."""
    assert CHANNEL_VERBS < ALL_VERBS
