"""Commands as a Redis server reads them from the bytes of a connection.

Arrays of byte strings, as every client sends them, and inline commands, as a probe of a few lines
does (words between blanks; quotes mean nothing here). What is no command ends a connection, with
the server's own words. Numbers are read as strictly as the server reads them: a sign, a leading
zero or a blank is none.
"""

import re
from typing import Final

BULK_BYTES_MAX: Final = 4 << 20
"""proto-max-bulk-len of the embedded server."""
_LINE_BYTES_MAX: Final = 64 << 10
_WORDS_MAX: Final = 2**31 - 1
_INTEGER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_SMALL: Final = {b"%d" % number: number for number in range(4_096)}
_CRLF: Final = b"\r\n"


class ProtocolError(Exception):
    """Bytes that are no command; the message is what the server says before it hangs up."""


def integer(text: bytes) -> int | None:
    """The signed number of 64 bits that is written there, or None if it is none."""
    small = _SMALL.get(text)
    if small is not None:
        return small
    if not _INTEGER.fullmatch(text):
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None


def parse(buffer: bytes, at: int) -> tuple[list[bytes], int] | None:
    """The words of the command at `at` and where the next one begins; None if it is not complete.

    A command without words asks for nothing and is answered by nothing. Raises ProtocolError.
    """
    if at >= len(buffer):
        return None
    if buffer[at] != 42:  # an asterisk
        return _parse_inline(buffer, at)
    end = _line_end(buffer, at, "too big mbulk count string")
    if end < 0:
        return None
    count = integer(buffer[at + 1 : end])
    if count is None or count > _WORDS_MAX:
        raise ProtocolError("invalid multibulk length")
    words = list[bytes]()
    at = end + 2
    for _ in range(count):
        end = buffer.find(_CRLF, at)
        if end < 0:
            _line_end(buffer, at, "too big bulk count string")
            return None
        if buffer[at] != 36:  # a dollar sign
            raise ProtocolError(f"expected '$', got '{_printed(buffer[at])}'")
        size = integer(buffer[at + 1 : end])
        if size is None or not 0 <= size <= BULK_BYTES_MAX:
            raise ProtocolError("invalid bulk length")
        start = end + 2
        at = start + size + 2
        if at > len(buffer):
            return None
        words.append(buffer[start : start + size])
    return words, at


def _parse_inline(buffer: bytes, at: int) -> tuple[list[bytes], int] | None:
    end = buffer.find(b"\n", at)
    if end >= 0:
        return buffer[at:end].split(), end + 1
    if len(buffer) - at > _LINE_BYTES_MAX:
        raise ProtocolError("too big inline request")
    return None


def _line_end(buffer: bytes, at: int, reason: str) -> int:
    end = buffer.find(_CRLF, at)
    if end < 0 and len(buffer) - at > _LINE_BYTES_MAX:
        raise ProtocolError(reason)
    return end


def _printed(byte: int) -> str:
    """A byte in an error, which must stay one line."""
    return " " if byte in _CRLF else chr(byte)
