"""Rows of an import, from bytes that come in pieces: CSV with a header, or one JSON per line.

Sans-I/O: bytes in, movements out, a fault in place of each row that is none. A row is a line of the
file, and its number is the line's: whatever stands in a line, a quote that is never closed or more
than a row may have, costs that line and shifts no other. Hence a quoted cell ends on the line on
which it began; nothing that a movement holds has a line feed in it.

Lines are cut one by one, as they are asked for, and each costs as much as it is long. Blank ones
are handed out too, so that whoever reads can take turns with others.
"""

import csv
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from engine import limits
from gateway import problems
from gateway.http_input import BodyDecoder
from gateway.http_types import (
    AdjustedMovement,
    CountedMovement,
    ReceivedMovement,
)
from gateway.problems import RefusedError

RowMovement = ReceivedMovement | CountedMovement | AdjustedMovement
KINDS: Final[dict[str, type[RowMovement]]] = {
    "received": ReceivedMovement,
    "counted": CountedMovement,
    "adjusted": AdjustedMovement,
}
REQUIRED: Final = ("sku", "location", "quantity")
_NUMBERS: Final = frozenset({"quantity", "unit_cost", "expected_on_hand", "physical_version"})
_number: Final = re.compile(r"-?[0-9]{1,16}").fullmatch
_BOM: Final = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """A row of the file, by its line, from 1: a movement, or what is wrong with it."""

    number: int
    movement: RowMovement | None
    fault: str = ""


class Lines:
    """Cuts bytes into lines, without their line feeds; None for one that is too long."""

    def __init__(self) -> None:
        self._rest = b""
        """A line whose end has not come."""
        self._skipping = False
        """That line is too long, and was reported."""

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """The lines that `data` completes, cut one by one; to be exhausted."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            line, self._rest = self._rest + data[start:end], b""
            start = end + 1
            if not self._skipping:
                yield line if len(line) <= limits.IMPORT_ROW_BYTES_MAX else None
            self._skipping = False
        self._rest += data[start:]
        if len(self._rest) > limits.IMPORT_ROW_BYTES_MAX:
            self._rest = b""
            if not self._skipping:
                self._skipping = True
                yield None

    def end(self) -> Iterator[bytes | None]:
        """The last line, if no line feed ended it."""
        if self._rest and not self._skipping:
            yield self._rest


class Rows(ABC):
    """The rows of one file; `None` stands for a line that has none."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._number = 0

    def feed(self, data: bytes) -> Iterator[Row | None]:
        """What stands in the lines that `data` completes, read one by one; to be exhausted.

        Raises RefusedError if the file cannot be read at all.
        """
        return map(self._read, self._lines.feed(data))

    def end(self) -> Iterator[Row | None]:
        """The last row, if no line feed ended it. Raises RefusedError likewise."""
        return map(self._read, self._lines.end())

    def _read(self, line: bytes | None) -> Row | None:
        self._number += 1
        if self._number == 1 and line is not None:
            line = line.removeprefix(_BOM)
        return self._row(line)

    def _row(self, line: bytes | None) -> Row | None:
        if line is None:
            return Row(self._number, None, _TOO_LONG)
        if not line.strip():
            return None
        try:
            return Row(self._number, self._movement(line))
        except (RefusedError, ValueError) as error:  # msgspec's too is a ValueError
            return Row(self._number, None, str(error))

    @abstractmethod
    def _movement(self, line: bytes) -> RowMovement:
        """What stands in `line`. Raises RefusedError or ValueError if that is no movement."""


class JsonRows(Rows):
    """Rows of newline-delimited JSON."""

    def __init__(self, kind: type[RowMovement]) -> None:
        super().__init__()
        self._decoder = BodyDecoder(kind)

    def _movement(self, line: bytes) -> RowMovement:
        return self._decoder.read(line)


class CsvRows(Rows):
    """Rows of CSV; the first names the columns, in any order."""

    def __init__(self, kind: type[RowMovement]) -> None:
        super().__init__()
        self._kind = kind
        self._columns: list[str] = []

    def end(self) -> Iterator[Row | None]:
        """The last row, if no line feed ended it. Raises RefusedError if there was no header."""
        yield from super().end()
        if not self._columns:
            raise RefusedError(problems.INVALID, "The file is empty; a header row is expected")

    def _row(self, line: bytes | None) -> Row | None:
        if self._columns:
            return super()._row(line)
        self._columns = self._header(line)
        return None

    def _header(self, line: bytes | None) -> list[str]:
        columns: list[str] = []
        if line is not None:
            try:
                columns = [name.strip() for name in _cells(line)]
            except ValueError as error:
                raise RefusedError(problems.INVALID, f"The header row: {error}") from error
        known = set(msgspec.structs.asdict(self._kind("", "", 0)))
        for name in columns:
            if name not in known:
                raise RefusedError(problems.INVALID, f"The header row: no column {name[:64]!r}")
        if len(set(columns)) < len(columns) or not set(REQUIRED) <= set(columns):
            expected = ",".join(REQUIRED)
            raise RefusedError(problems.INVALID, f"The header row: {expected} expected, each once")
        return columns

    def _movement(self, line: bytes) -> RowMovement:
        cells = _cells(line)
        if len(cells) != len(self._columns):
            raise ValueError(f"{len(cells)} cells, the header has {len(self._columns)}")
        named = {name: _value(name, cell) for name, cell in zip(self._columns, cells, strict=True)}
        fields = {name: value for name, value in named.items() if value != ""}
        return msgspec.convert(fields, self._kind)


_TOO_LONG: Final = f"longer than {limits.IMPORT_ROW_BYTES_MAX} bytes"


def _cells(line: bytes) -> list[str]:
    """Raises ValueError if the line is no CSV by itself, or no UTF-8."""
    try:
        return next(csv.reader([line.decode().removesuffix("\r")], strict=True))
    except csv.Error as error:
        fault = "a quote is not closed on its line" if "end of data" in str(error) else str(error)
        raise ValueError(fault) from error


def _value(name: str, cell: str) -> Any:
    """Raises ValueError where a number is expected, and the cell holds none."""
    if name not in _NUMBERS or not cell:
        return cell
    if _number(cell.strip()) is None:
        raise ValueError(f"{name} is no whole number: {cell[:32]!r}")
    return int(cell)
