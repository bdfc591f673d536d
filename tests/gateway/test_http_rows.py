"""Rows of an import: cut from bytes however they come, and judged one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import limits
from gateway.http_rows import CsvRows, JsonRows, Lines, Row
from gateway.http_types import CountedMovement, ReceivedMovement
from gateway.problems import RefusedError

HEADER = b"sku,location,quantity,reason\n"


def csv_rows(data: bytes, size: int = 1 << 20) -> list[Row]:
    reader = CsvRows(ReceivedMovement)
    rows: list[Row] = []
    for start in range(0, len(data), size):
        rows += filter(None, reader.feed(data[start : start + size]))
    return [*rows, *filter(None, reader.end())]


def test_a_csv_is_read() -> None:
    """Quotes, line feeds of both sorts, blank lines, a byte order mark, columns in any order."""
    data = b"\xef\xbb\xbfquantity,sku,location,reason\r\n"
    data += b'5,A,berlin,"so, ""so"""\r\n\r\n6,B,paris,\n7,C,x,y'

    assert [
        Row(2, ReceivedMovement("A", "berlin", 5, 'so, "so"')),
        Row(4, ReceivedMovement("B", "paris", 6)),
        Row(5, ReceivedMovement("C", "x", 7, "y")),
    ] == csv_rows(data)


@given(st.integers(1, 40))
def test_where_a_read_ends_means_nothing(size: int) -> None:
    """The rows are the same whatever pieces the bytes come in."""
    data = (
        HEADER + b'A,berlin,1,"a\nb"\nB,berlin,x,\n"C,berlin,1,\n\n' + b"z" * 5_000 + b"\nD,x,1,\n"
    )

    assert csv_rows(data) == csv_rows(data, size)


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (b"A,berlin,1", "3 cells, the header has 4"),
        (b"A,berlin,1,x,y", "5 cells"),
        (b"A,berlin,,", "missing required field `quantity`"),
        (b",berlin,1,", "missing required field `sku`"),
        (b"A,berlin,1.0,", "no whole number"),
        (b"A,berlin,1e3,", "no whole number"),
        (b"A,berlin,0,", ">= 1"),
        (b"A,berlin,-1,", ">= 1"),
        (b"A,berlin,2147483648,", "<= 2147483647"),
        (b"A,berlin,99999999999999999999,", "no whole number"),
        ("A,berlin,٣,".encode(), "no whole number"),
        (b"A B,berlin,1,", "regex"),
        (b"A,berlin,1,\x00", "regex"),
        (b"A,berlin,1,\xff", "utf-8"),
        (b'A,"berlin" x,1,', "expected"),
        (b'A,berlin,1,"a', "a quote is not closed on its line"),
        (b'"' * limits.IMPORT_ROW_BYTES_MAX, "header has 4"),
        (b'"' * (limits.IMPORT_ROW_BYTES_MAX - 1), "not closed"),
        (b'"A,berlin,1,' + b"x" * limits.IMPORT_ROW_BYTES_MAX, "longer than"),
        (b"A,berlin,1," + b"x" * 257, "length"),
        (b"A,berlin,1," + b"x" * limits.IMPORT_ROW_BYTES_MAX, "longer than"),
    ],
)
def test_a_bad_row_costs_only_itself(record: bytes, fault: str) -> None:
    """What is wrong is said in words, and the rows around it are read."""
    first, bad, last = csv_rows(HEADER + b"A,berlin,1,\n" + record + b"\nB,berlin,2,\n")

    assert bad.movement is None
    assert fault in bad.fault
    assert (2, 4) == (first.number, last.number)
    assert ReceivedMovement("B", "berlin", 2) == last.movement


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\n",
        b"A,berlin,1\n",
        b"sku,location\n",
        b"sku,location,quantity,colour\n",
        b"sku,sku,location,quantity\n",
        b"sku,location,quantity,expected_on_hand\n",
        b"\xff\n",
        b'sku,"location\n',
        b"x" * 10_000,
    ],
)
def test_a_file_needs_a_header(header: bytes) -> None:
    """Without knowing the columns, nothing is applied."""
    with pytest.raises(RefusedError):
        csv_rows(header)


def test_lines_of_json_are_read() -> None:
    """One object each; what a line gets wrong is its own fault."""
    reader = JsonRows(CountedMovement)
    data = b'{"sku": "A", "location": "x", "quantity": 0}\r\n\n{"sku": "A"}\n'
    data += b'{"sku": "A", "location": "x", "quantity": 1, "expected_on_hand": 2}'
    rows = [*filter(None, reader.feed(data)), *filter(None, reader.end())]

    assert [1, 3, 4] == [row.number for row in rows]
    assert CountedMovement("A", "x", 0) == rows[0].movement
    assert "missing required field" in rows[1].fault
    assert CountedMovement("A", "x", 1, expected_on_hand=2) == rows[2].movement


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    """Editors write one before lines of JSON, too."""
    reader = JsonRows(CountedMovement)
    (row,) = reader.feed(b'\xef\xbb\xbf{"sku": "A", "location": "x", "quantity": 0}\n')

    assert Row(1, CountedMovement("A", "x", 0)) == row


def test_a_quote_that_is_not_closed_costs_its_own_line() -> None:
    """The good rows after it are read, and mending it shifts no number."""
    good = b"".join(b"SKU-%d,berlin,1,\n" % number for number in range(100))
    broken = csv_rows(HEADER + b'A,berlin,1,"never closed\n' + good)
    mended = csv_rows(HEADER + b'A,berlin,1,"closed"\n' + good)

    assert "a quote is not closed on its line" == broken[0].fault
    assert 101 == len(broken)
    assert mended[1:] == broken[1:]


def test_numbers_are_those_of_lines() -> None:
    """Lines that are too long, broken or blank count once each, wherever a read ends."""
    data = HEADER + b"\n" + b"x" * 10_000 + b'\n"\n\r\n' + b"A,berlin,1,\n" + b"y" * 5_000

    for size in (1, 100, 4_096, 1 << 20):
        assert [3, 4, 6, 7] == [row.number for row in csv_rows(data, size)]


def test_blank_lines_are_handed_out() -> None:
    """Whoever reads a file of nothing else can take turns."""
    rows = CsvRows(ReceivedMovement).feed(HEADER + b"\n" * 1_000)

    assert [None] * 1_001 == list(rows)


def test_nothing_grows_without_a_bound() -> None:
    """A file without line feeds is dropped as it comes."""
    lines = Lines()
    found: list[bytes | None] = []
    for _ in range(100):
        found += lines.feed(b"x" * 1_000)
        assert len(lines._rest) <= limits.IMPORT_ROW_BYTES_MAX

    assert [None] == found
