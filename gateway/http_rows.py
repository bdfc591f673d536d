"""Rows of an import, from bytes that come in pieces: CSV with a header, or one JSON per line.

Sans-I/O: bytes in, movements out, a fault in place of each row that is none. A row is bounded; one
that is too long is a fault and the next begins after the next line feed, so that a quote that is
never closed costs one row and not the rest of the file.
"""

import csv
import re
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
    """A row of the file, from 1: a movement, or what is wrong with it."""

    number: int
    movement: RowMovement | None
    fault: str = ""


class Splitter:
    """Cuts bytes into records at line feeds; with `quoted`, not at those inside quotes."""

    def __init__(self, *, quoted: bool) -> None:
        self._quoted = quoted
        self._rest = b""
        """A line whose end has not come."""
        self._record = b""
        """Lines of a record whose closing quote has not come."""
        self._skipping = False
        """The line that has begun is too long, and was reported."""

    def feed(self, data: bytes) -> list[bytes | None]:
        """The records that `data` completes; None for one that is too long."""
        *lines, rest = (self._rest + data).split(b"\n")
        records: list[bytes | None] = []
        for line in lines:
            if self._skipping:
                self._skipping = False
            else:
                self._take(line, records)
        self._rest = rest
        if len(self._record) + len(rest) > limits.IMPORT_ROW_BYTES_MAX:
            if not self._skipping:
                records.append(None)
            self._skipping, self._record, self._rest = True, b"", b""
        return records

    def end(self) -> list[bytes | None]:
        """What is left once no more comes."""
        records: list[bytes | None] = []
        if self._rest and not self._skipping:
            self._take(self._rest, records)
        if self._record:
            records.append(self._record)
        return records

    def _take(self, line: bytes, records: list[bytes | None]) -> None:
        record = self._record + line
        if len(record) > limits.IMPORT_ROW_BYTES_MAX:
            records.append(None)
            self._record = b""
        elif self._quoted and record.count(b'"') % 2:
            self._record = record + b"\n"
        else:
            records.append(record)
            self._record = b""


class JsonRows:
    """Rows of newline-delimited JSON."""

    def __init__(self, kind: type[RowMovement]) -> None:
        self._splitter = Splitter(quoted=False)
        self._decoder = BodyDecoder(kind)
        self._number = 0

    def feed(self, data: bytes) -> Iterator[Row]:
        """The rows that `data` completes, read one by one; to be exhausted."""
        return self._rows(self._splitter.feed(data))

    def end(self) -> Iterator[Row]:
        """The last row, if no line feed ended it."""
        return self._rows(self._splitter.end())

    def _rows(self, records: list[bytes | None]) -> Iterator[Row]:
        for record in records:
            self._number += 1
            if record is None:
                yield Row(self._number, None, _TOO_LONG)
            elif record.strip():
                yield self._row(record)

    def _row(self, record: bytes) -> Row:
        try:
            return Row(self._number, self._decoder.read(record))
        except RefusedError as error:
            return Row(self._number, None, str(error))


class CsvRows:
    """Rows of CSV; the first names the columns, in any order."""

    def __init__(self, kind: type[RowMovement]) -> None:
        self._kind = kind
        self._splitter = Splitter(quoted=True)
        self._number = 0
        self._columns: list[str] = []

    def feed(self, data: bytes) -> Iterator[Row]:
        """The rows that `data` completes, read one by one; to be exhausted.

        Raises RefusedError if the header is none.
        """
        return self._rows(self._splitter.feed(data))

    def end(self) -> Iterator[Row]:
        """The last row, if no line feed ended it. Raises RefusedError if there was no header."""
        yield from self._rows(self._splitter.end())
        if not self._columns:
            raise RefusedError(problems.INVALID, "The file is empty; a header row is expected")

    def _rows(self, records: list[bytes | None]) -> Iterator[Row]:
        for record in records:
            self._number += 1
            if self._number == 1:
                self._columns = self._header(record)
            elif record is None:
                yield Row(self._number, None, _TOO_LONG)
            elif record.strip():
                yield self._row(record)

    def _header(self, record: bytes | None) -> list[str]:
        columns: list[str] = []
        if record is not None:
            try:
                columns = [name.strip() for name in _cells(record.removeprefix(_BOM))]
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

    def _row(self, record: bytes) -> Row:
        try:
            cells = _cells(record)
            if len(cells) != len(self._columns):
                fault = f"{len(cells)} cells, the header has {len(self._columns)}"
                return Row(self._number, None, fault)
            named = {
                name: _value(name, cell) for name, cell in zip(self._columns, cells, strict=True)
            }
            fields = {name: value for name, value in named.items() if value != ""}
            return Row(self._number, msgspec.convert(fields, self._kind))
        except ValueError as error:  # msgspec's too is one
            return Row(self._number, None, str(error))


_TOO_LONG: Final = f"longer than {limits.IMPORT_ROW_BYTES_MAX} bytes"


def _cells(record: bytes) -> list[str]:
    """Raises ValueError if the record is no CSV, or no UTF-8."""
    try:
        return next(csv.reader([record.decode().removesuffix("\r")], strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from error


def _value(name: str, cell: str) -> Any:
    """Raises ValueError where a number is expected, and the cell holds none."""
    if name not in _NUMBERS or not cell:
        return cell
    if _number(cell.strip()) is None:
        raise ValueError(f"{name} is no whole number: {cell[:32]!r}")
    return int(cell)
