"""Reading what a caller sent, strictly: a typed value comes out, or RefusedError.

JSON is decoded straight into bounded types: an integer is written as one (`1.0`, `"1"` and `true`
are not), unknown fields, NaN, lone surrogates, other encodings than UTF-8 and bytes after the
document are refused, nesting ends where the types end. msgspec does all this but one: of two equal
keys it silently takes the last, and two readers that disagree about a request are a hole. Hence
`decode`: nothing is shorter than a body's own encoding, and a body that was sent without detours
is as long, but for white space. Where the lengths differ (an escape, a null, `-0`, or indeed a key
that stands twice) a slower look decides. The comparison costs a quarter of what the decoding does.
"""

import json
import re
from collections.abc import Collection
from typing import Any, Final, Generic, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec

from engine import limits
from gateway import problems
from gateway.problems import RefusedError

_T = TypeVar("_T")

_WHITE: Final = b" \t\r\n"
_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_is_id: Final = re.compile(limits.ID_PATTERN[1:-1]).fullmatch
_is_number: Final = re.compile(r"[0-9]{1,16}").fullmatch
_structured_string: Final = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"').fullmatch


class BodyDecoder(Generic[_T]):
    """Decodes the bodies of one call; if they are `optional`, none at all is an empty one."""

    def __init__(self, body: type[_T], *, optional: bool = False) -> None:
        self.body = body
        self.optional = optional
        self._decode = msgspec.json.Decoder(body).decode

    def read(self, data: bytes) -> _T:
        """The body that `data` is. Raises RefusedError if it is none."""
        return self.decode(data)[0]

    def decode(self, data: bytes) -> tuple[_T, bytes]:
        """The body, and its canonical bytes: the same for all ways of writing it down.

        Raises RefusedError if `data` is not such a body.
        """
        if not data and self.optional:
            return self.body(), b"{}"
        try:
            value = self._decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RefusedError(problems.INVALID, f"The body: {error}") from error
        canonical = _encode(value)
        if len(canonical) != len(data) and len(canonical.translate(None, _WHITE)) != len(
            data.translate(None, _WHITE)
        ):
            json.loads(data, object_pairs_hook=_refuse_repeated)
        return value, canonical


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise RefusedError(problems.INVALID, f"The body: {repeated!r} stands twice in one object")
    return found


def check_id(text: str, name: str) -> str:
    """`text`, which is an id; `name` says of what."""
    if _is_id(text) is None:
        raise RefusedError(problems.INVALID, f"{name} is no id: {limits.ID_PATTERN} is expected")
    return text


def unquote(raw: str, name: str) -> str:
    """A part of the URL, percent-decoded."""
    if "%" not in raw:
        return raw
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise RefusedError(problems.INVALID, f"{name} is not UTF-8") from None


def parse_query(raw: bytes, allowed: Collection[str]) -> dict[str, str]:
    """The parameters of the query, each at most once, none that is not `allowed`."""
    found: dict[str, str] = {}
    for pair in raw.decode("latin-1").split("&"):
        if not pair:
            continue
        name, _, value = pair.replace("+", " ").partition("=")
        name = unquote(name, "The query")
        if name not in allowed:
            raise RefusedError(problems.INVALID, f"Unknown query parameter {name[:64]!r}")
        if name in found:
            raise RefusedError(problems.INVALID, f"The query parameter {name} stands twice")
        found[name] = unquote(value, name)
    return found


def parse_number(text: str, name: str, low: int, high: int) -> int:
    """A decimal number of the query, in [low, high]."""
    if _is_number(text) is None or not low <= int(text) <= high:
        raise RefusedError(problems.INVALID, f"{name} must be a number from {low} to {high}")
    return int(text)


def parse_flag(text: str, name: str) -> bool:
    """A yes or no of the query."""
    if text not in ("true", "false"):
        raise RefusedError(problems.INVALID, f"{name} must be true or false")
    return text == "true"


def parse_idempotency_key(raw: str) -> str:
    """The value of Idempotency-Key: a structured field string, or the same without quotes."""
    quoted = _structured_string(raw)
    return check_id(quoted[1] if quoted else raw, "Idempotency-Key")


def parse_bearer(raw: str) -> str | None:
    """The key in an Authorization header; None if it carries none."""
    scheme, _, key = raw.partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def is_json(content_type: bytes) -> bool:
    """Whether a Content-Type says JSON in the only encoding that JSON has."""
    media, _, parameter = content_type.lower().partition(b";")
    if media.strip() != b"application/json":
        return False
    return parameter.strip().replace(b'"', b"") in (b"", b"charset=utf-8")
