"""The commands that a journal sends, and the replies of the real servers to them.

Refusals come in the servers' words and in their order: unknown or too short, OOM, MISCONF, LOADING,
and only then what the command itself finds wrong. So an append that is a duplicate *and* finds no
memory is OOM, and so is one to a stream that is gone. A command counts itself as memory, so a large
one may be OOM where a small one still is not. The words are Valkey's where it differs from
Redis, which is one word of LOADING.

What no journal asks for is not there: a command that is unknown here gets the reply to unknown
commands, an option that the real servers have and this one has not raises UnsupportedError.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from tests.simulation.redis_protocol import integer
from tests.simulation.redis_store import (
    ID_MAX,
    ID_MIN,
    Append,
    Effect,
    Id,
    Set,
    Stream,
    Trim,
    Unlink,
)

_WORD_CHARACTERS_MAX: Final = 128

_OK: Final = b"+OK\r\n"
_NULL: Final = b"$-1\r\n"
_NULL_ARRAY: Final = b"*-1\r\n"
_EMPTY_ARRAY: Final = b"*0\r\n"


def error(words: str) -> bytes:
    """A refusal in those words, in one line."""
    return b"-%b\r\n" % words.replace("\r", " ").replace("\n", " ").encode("latin-1")


_SYNTAX: Final = error("ERR syntax error")
_NOT_AN_INTEGER: Final = error("ERR value is not an integer or out of range")
_INVALID_ID: Final = error("ERR Invalid stream ID specified as stream command argument")
_WRONG_TYPE: Final = error("WRONGTYPE Operation against a key holding the wrong kind of value")
_FULL: Final = error("OOM command not allowed when used memory > 'maxmemory'.")
_MISCONF: Final = error("MISCONF Errors writing to the AOF file: No space left on device")
_LOADING: Final = error("LOADING Valkey is loading the dataset in memory")
_NOT_POSITIVE: Final = error("ERR The ID specified in XADD must be greater than 0-0")
_NOT_LARGER: Final = error(
    "ERR The ID specified in XADD is equal or smaller than the target stream top item"
)
_EXHAUSTED: Final = error(
    "ERR The stream has exhausted the last possible ID, unable to add more items"
)
_TWO_STRATEGIES: Final = error(
    "ERR syntax error, MAXLEN and MINID options at the same time are not compatible"
)
_NO_STRATEGY: Final = error(
    "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy"
)
_EXACT_LIMIT: Final = error("ERR syntax error, LIMIT cannot be used without the special ~ option")
_NEGATIVE_LIMIT: Final = error("ERR The LIMIT argument must be >= 0.")
_NO_PASSWORD: Final = error(
    "ERR AUTH <password> called without any password configured for the default user."
    " Are you sure your configuration is correct?"
)
_WRONG_PASSWORD: Final = error("WRONGPASS invalid username-password pair or user is disabled.")


class UnsupportedError(Exception):
    """A real server would do what was asked; this one does not know how."""


class Process(Protocol):
    """What commands need of the server process that executes them."""

    settings: dict[str, str]
    loading: bool
    misconf: bool
    node_entries: int

    def has_room(self, size: int) -> bool:
        """Whether there is memory for a command of so many bytes."""

    def key(self, key: bytes) -> Stream | bytes | None:
        """What is stored there."""

    def change(self, effect: Effect) -> None:
        """Apply an effect, and log it."""

    def information(self) -> dict[str, dict[str, str]]:
        """What INFO tells, by section."""


class _Command(NamedTuple):
    """A command of the table; `words` is how many it has, at least if negative."""

    run: Callable[[Process, list[bytes]], bytes]
    words: int
    needs_memory: bool = False
    needs_disk: bool = False
    while_loading: bool = False


def execute(server: Process, words: list[bytes]) -> bytes:
    """The reply: the checks that all commands share, in the server's order; then the command."""
    command = _COMMANDS.get(words[0]) or _COMMANDS.get(words[0].upper())
    if command is None:
        return _unknown(words)
    count = len(words)
    if count != command.words and (command.words > 0 or count < -command.words):
        return _wrong_number(words[0].decode("latin-1").lower())
    if command.needs_memory and not server.has_room(sum(map(len, words))):
        return _FULL
    if command.needs_disk and server.misconf:
        return _MISCONF
    if server.loading and not command.while_loading:
        return _LOADING
    return command.run(server, words)


def _unknown(words: list[bytes]) -> bytes:
    """The reply to an unknown command, which repeats some of it."""
    texts = [word.split(b"\0")[0].decode("latin-1") for word in words]
    arguments = ""
    for text in texts[1:]:
        if len(arguments) >= _WORD_CHARACTERS_MAX:
            break
        arguments += f"'{text[: _WORD_CHARACTERS_MAX - len(arguments)]}' "
    name = texts[0][:_WORD_CHARACTERS_MAX]
    return error(f"ERR unknown command '{name}', with args beginning with: {arguments}")


def _wrong_number(name: str) -> bytes:
    return error(f"ERR wrong number of arguments for '{name}' command")


def _bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


# Ids.


def _parse_id(text: bytes, missing: int = 0) -> Id | None:
    """`<number>-<number>`, or a number alone, to which `missing` is added; None if it is none."""
    first, dash, second = text.partition(b"-")
    if not first.isdigit() or (dash and not second.isdigit()):
        return None
    found = int(first), int(second) if dash else missing
    return found if found[0] <= ID_MAX[0] and found[1] <= ID_MAX[1] else None


def _parse_bound(text: bytes, missing: int) -> tuple[Id, bool] | None:
    """An end of an interval, and whether it is left out of it."""
    if text == b"-":
        return ID_MIN, False
    if text == b"+":
        return ID_MAX, False
    exclusive = len(text) > 1 and text.startswith(b"(")
    found = _parse_id(text[1:] if exclusive else text, missing)
    return None if found is None else (found, exclusive)


def _interval(low: bytes, high: bytes) -> tuple[Id, Id] | bytes:
    """Both ends, inclusive; or the error."""
    first = _parse_bound(low, 0)
    if first is None:
        return _INVALID_ID
    begin, exclusive = first
    if exclusive:
        if begin == ID_MAX:
            return error("ERR invalid start ID for the interval")
        begin = (begin[0], begin[1] + 1) if begin[1] < ID_MAX[1] else (begin[0] + 1, 0)
    last = _parse_bound(high, ID_MAX[1])
    if last is None:
        return _INVALID_ID
    end, exclusive = last
    if exclusive:
        if end == ID_MIN:
            return error("ERR invalid end ID for the interval")
        end = (end[0], end[1] - 1) if end[1] else (end[0] - 1, ID_MAX[1])
    return begin, end


# Commands.


def _xadd(server: Process, words: list[bytes]) -> bytes:
    at = 2
    while at < len(words) and words[at].upper() == b"NOMKSTREAM":
        at += 1
    if at == len(words):
        return _wrong_number("xadd")
    text = words[at]
    if text == b"*" or text.endswith(b"-*") or text.upper() in _TRIM_OPTIONS:
        raise UnsupportedError(f"XADD with {text!r}")
    identity = _parse_id(text)
    if identity is None:
        return _INVALID_ID
    pairs = len(words) - at - 1
    if pairs < 2 or pairs % 2:
        return _wrong_number("xadd")
    if pairs > 2:
        raise UnsupportedError("XADD with several fields")
    if identity == ID_MIN:
        return _NOT_POSITIVE
    stream = server.key(words[1])
    if stream is None:
        if at > 2:
            return _NULL
    elif not isinstance(stream, Stream):
        return _WRONG_TYPE
    elif identity <= stream.last:
        return _EXHAUSTED if stream.last == ID_MAX else _NOT_LARGER
    server.change(Append(words[1], identity, words[at + 1], words[at + 2]))
    return _bulk(b"%d-%d" % identity)


_TRIM_OPTIONS: Final = (b"MAXLEN", b"MINID", b"LIMIT")


def _xrange(server: Process, words: list[bytes]) -> bytes:
    return _range(server, words, _interval(words[2], words[3]), 1)


def _xrevrange(server: Process, words: list[bytes]) -> bytes:
    return _range(server, words, _interval(words[3], words[2]), -1)


def _range(
    server: Process, words: list[bytes], interval: tuple[Id, Id] | bytes, step: int
) -> bytes:
    if isinstance(interval, bytes):
        return interval
    count: int | None = None
    for at in range(4, len(words), 2):
        if words[at].upper() != b"COUNT" or at + 1 == len(words):
            return _SYNTAX
        count = integer(words[at + 1])
        if count is None:
            return _NOT_AN_INTEGER
    stream = server.key(words[1])
    if stream is None:
        return _EMPTY_ARRAY
    if not isinstance(stream, Stream):
        return _WRONG_TYPE
    if count is not None and count <= 0:
        return _NULL_ARRAY
    begin, end = stream.between(*interval)
    if count is not None and end - begin > count:
        begin, end = (begin, begin + count) if step > 0 else (end - count, end)
    entries = stream.entries[begin:end][::step]
    return b"*%d\r\n%b" % (len(entries), b"".join(map(_entry, entries)))


def _entry(entry: Append) -> bytes:
    _, identity, field, record = entry
    name = b"%d-%d" % identity
    return b"*2\r\n$%d\r\n%b\r\n*2\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
        *(len(name), name),
        *(len(field), field),
        *(len(record), record),
    )


class _Trimming(NamedTuple):
    """What XTRIM was asked for; a limit of 0 is none."""

    below: Id
    approximate: bool
    limit: int


def _xtrim(server: Process, words: list[bytes]) -> bytes:
    asked = _parse_trimming(words, 100 * server.node_entries)
    if isinstance(asked, bytes):
        return asked
    stream = server.key(words[1])
    if stream is None:
        return b":0\r\n"
    if not isinstance(stream, Stream):
        return _WRONG_TYPE
    below = asked.below
    if asked.approximate:
        count = stream.whole_nodes(below, asked.limit)
        below = stream.ids[count] if count < len(stream.ids) else ID_MAX
    else:
        count, _ = stream.between(below, ID_MAX)
    if count:
        server.change(Trim(words[1], below))
    return b":%d\r\n" % count


def _parse_trimming(words: list[bytes], limit_default: int) -> _Trimming | bytes:
    """The options behind the key; or the error."""
    below: Id | None = None
    limit: int | None = None
    approximate, at = False, 2
    while at < len(words):
        option, more = words[at].upper(), len(words) - 1 - at
        if option == b"MAXLEN":
            raise UnsupportedError("XTRIM MAXLEN")
        if option == b"MINID" and more:
            if below is not None:
                return _TWO_STRATEGIES
            marked = more >= 2 and words[at + 1] in (b"~", b"=")
            approximate = marked and words[at + 1] == b"~"
            at += 1 + marked
            below = _parse_id(words[at])
            if below is None:
                return _INVALID_ID
        elif option == b"LIMIT" and more:
            at += 1
            limit = integer(words[at])
            if limit is None:
                return _NOT_AN_INTEGER
            if limit < 0:
                return _NEGATIVE_LIMIT
        else:
            return _SYNTAX
        at += 1
    if below is None:
        return _NO_STRATEGY
    if limit is not None and not approximate:
        return _EXACT_LIMIT
    return _Trimming(below, approximate, limit_default if limit is None else limit)


def _set(server: Process, words: list[bytes]) -> bytes:
    options = {word.upper() for word in words[3:]}
    if options & _SET_OPTIONS:
        raise UnsupportedError(f"SET with {options}")
    if options - {b"NX"}:
        return _SYNTAX
    if options and server.key(words[1]) is not None:
        return _NULL
    server.change(Set(words[1], words[2]))
    return _OK


_SET_OPTIONS: Final = {b"XX", b"GET", b"EX", b"PX", b"EXAT", b"PXAT", b"KEEPTTL", b"IFEQ"}


def _get(server: Process, words: list[bytes]) -> bytes:
    value = server.key(words[1])
    if isinstance(value, Stream):
        return _WRONG_TYPE
    return _NULL if value is None else _bulk(value)


def _unlink(server: Process, words: list[bytes]) -> bytes:
    keys = tuple(dict.fromkeys(key for key in words[1:] if server.key(key) is not None))
    if keys:
        server.change(Unlink(keys))
    return b":%d\r\n" % len(keys)


def _ping(server: Process, words: list[bytes]) -> bytes:
    if len(words) > 2:
        return _wrong_number("ping")
    return b"+PONG\r\n" if len(words) == 1 else _bulk(words[1])


def _info(server: Process, words: list[bytes]) -> bytes:
    sections = server.information()
    asked = {word.decode("latin-1").lower() for word in words[1:]}
    if asked and not asked & {"all", "default", "everything"}:
        sections = {name: lines for name, lines in sections.items() if name in asked}
    texts = (
        f"# {name.capitalize()}\r\n"
        + "".join(f"{field}:{value}\r\n" for field, value in lines.items())
        for name, lines in sections.items()
    )
    return _bulk("\r\n".join(texts).encode())


def _config(server: Process, words: list[bytes]) -> bytes:
    if words[1].upper() != b"GET":
        subcommand = words[1].split(b"\0")[0].decode("latin-1")[:_WORD_CHARACTERS_MAX]
        return error(f"ERR unknown subcommand '{subcommand}'. Try CONFIG HELP.")
    if len(words) < 3:
        return _wrong_number("config|get")
    lines = list[bytes]()
    for word in dict.fromkeys(words[2:]):
        setting = server.settings.get(word.decode("latin-1").lower())
        if setting is not None:
            lines += (_bulk(word), _bulk(setting.encode()))
    return b"*%d\r\n%b" % (len(lines), b"".join(lines))


def _select(server: Process, words: list[bytes]) -> bytes:
    number = integer(words[1])
    if number is None:
        return _NOT_AN_INTEGER
    return _OK if number == 0 else error("ERR DB index is out of range")


def _auth(server: Process, words: list[bytes]) -> bytes:
    if len(words) > 3:
        return _SYNTAX
    if len(words) == 2:
        return _NO_PASSWORD
    return _OK if words[1] == b"default" else _WRONG_PASSWORD


_COMMANDS: Final = {
    b"XADD": _Command(_xadd, -5, needs_memory=True, needs_disk=True),
    b"XRANGE": _Command(_xrange, -4),
    b"XREVRANGE": _Command(_xrevrange, -4),
    b"XTRIM": _Command(_xtrim, -4, needs_disk=True),
    b"SET": _Command(_set, -3, needs_memory=True, needs_disk=True),
    b"GET": _Command(_get, 2),
    b"UNLINK": _Command(_unlink, -2, needs_disk=True),
    b"PING": _Command(_ping, -1, needs_disk=True),
    b"INFO": _Command(_info, -1, while_loading=True),
    b"CONFIG": _Command(_config, -2, while_loading=True),
    b"SELECT": _Command(_select, 2, while_loading=True),
    b"AUTH": _Command(_auth, -2, while_loading=True),
}
