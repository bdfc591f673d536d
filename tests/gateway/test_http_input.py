"""Reading strictly: what is not exactly a request is refused, and refused as a value."""

import json
from typing import Any

import pytest

from gateway.http_calls import COMMIT, RESERVE, SET_STOCK
from gateway.http_input import (
    is_json,
    parse_bearer,
    parse_idempotency_key,
    parse_number,
    parse_query,
    unquote,
)
from gateway.http_movements import MOVEMENTS
from gateway.problems import RefusedError

LINE = '{"sku": "A", "quantity": 1}'


def body(line: str = LINE, more: str = "") -> bytes:
    return f'{{"lines": [{line}]{more}}}'.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"lines"',
        b"{",
        body() + b"}",
        body() + b"\x00",
        b"\xef\xbb\xbf" + body(),
        body().decode().encode("utf-16"),
        body('{"sku": "A", "quantity": 1.0}'),
        body('{"sku": "A", "quantity": 1e0}'),
        body('{"sku": "A", "quantity": true}'),
        body('{"sku": "A", "quantity": "1"}'),
        body('{"sku": "A", "quantity": null}'),
        body('{"sku": "A", "quantity": NaN}'),
        body('{"sku": "A", "quantity": Infinity}'),
        body('{"sku": "A", "quantity": 1e400}'),
        body('{"sku": "A", "quantity": 01}'),
        body('{"sku": "A", "quantity": 0}'),
        body('{"sku": "A", "quantity": -1}'),
        body('{"sku": "A", "quantity": 2147483648}'),
        body('{"sku": "A", "quantity": 18446744073709551617}'),
        body(f'{{"sku": "A", "quantity": {"9" * 5_000}}}'),
        body('{"sku": "", "quantity": 1}'),
        body('{"sku": "A\\n", "quantity": 1}'),
        body('{"sku": "A\\u0000", "quantity": 1}'),
        body('{"sku": "A B", "quantity": 1}'),
        body('{"sku": "\\ud800", "quantity": 1}'),
        body('{"sku": "\\udc00\\ud800", "quantity": 1}'),
        body('{"sku": "Å", "quantity": 1}'),
        body(f'{{"sku": "{"A" * 129}", "quantity": 1}}'),
        body('{"sku": "A", "quantity": 1, "colour": "red"}'),
        body('{"sku": "A", "quantity": 1, "quantity": 2}'),
        body('{"sku": "A", "sku": "A", "quantity": 1}'),
        body(more=', "lines": []'),
        body(more=', "li\\u006ees": [' + LINE + "]"),
        body(more=', "ttl_seconds": 0'),
        body(more=', "ttl_seconds": 86401'),
        body(more=', "policy": "some"'),
        body(more=', "extra": ' + "[" * 50_000),
        body(",".join([LINE] * 101)),
        b'{"lines": []}',
        b"[" * 60_000,
        b'{"lines": ' + b"[" * 60_000,
        body().replace(b"A", b"\xff"),
        body().replace(b"A", b"\xed\xa0\x80"),
        body().replace(b"A", b"A\x00"),
    ],
    ids=lambda data: repr(data[:48]),
)
def test_what_is_no_reserve_is_refused(data: bytes) -> None:
    """Nothing malformed gets through, and nothing raises anything but a refusal with a detail."""
    with pytest.raises(RefusedError) as caught:
        RESERVE.decode(data)

    assert (400, "invalid") == (caught.value.kind.http, caught.value.kind.code)
    assert caught.value.detail


@pytest.mark.parametrize(
    "data",
    [
        body(),
        b" \t\r\n" + body() + b"\n",
        body('{"quantity": 1, "sku": "A"}'),
        body('{"\\u0073ku": "\\u0041", "quantity": 1}'),
        body('{"sku": "A", "quantity": 1, "location": null}'),
        body(more=', "channel": null, "ttl_seconds": null, "policy": null'),
        body('{"sku": "sku", "quantity": 1, "location": "quantity"}'),
    ],
    ids=lambda data: repr(data[:48]),
)
def test_all_ways_of_writing_a_reserve_are_read(data: bytes) -> None:
    """White space, order, escapes and nulls for what is optional make no difference."""
    (line,) = RESERVE.read(data).lines

    assert 1 == line.quantity
    assert line.sku in {"A", "sku"}


def test_a_repeated_key_is_found_in_maps_too() -> None:
    """The keys of maps are the caller's; repeating one is refused like any other."""
    with pytest.raises(RefusedError, match="'berlin' stands twice"):
        SET_STOCK.decode(b'{"safety_stock": {"berlin": 1, "berlin": 1}}')


def test_no_body_is_an_empty_one_where_it_is_optional() -> None:
    """A commit of everything needs no body; a reserve does."""
    assert not COMMIT.read(b"").lines


def test_the_canonical_form_does_not_depend_on_the_writing() -> None:
    """Fingerprints of requests compare what was asked, not how it was written."""
    movement = {"kind": "received", "sku": "A", "location": "berlin", "quantity": 1}
    plain = json.dumps({"movements": [movement]}).encode()
    turned = dict(reversed(movement.items()))
    spaced = json.dumps({"movements": [turned]}, indent=2).encode()

    assert MOVEMENTS.decode(plain)[1] == MOVEMENTS.decode(spaced)[1]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", {}),
        (b"&&", {}),
        (b"home=3", {"home": "3"}),
        (b"home=3&channel=web%2D1", {"home": "3", "channel": "web-1"}),
        (b"home=", {"home": ""}),
        (b"h%6Fme=1", {"home": "1"}),
        (b"home=1=2", {"home": "1=2"}),
    ],
)
def test_a_query_is_read(query: bytes, expected: dict[str, str]) -> None:
    """Parameters are percent-decoded, names as well as values."""
    assert expected == parse_query(query, {"home", "channel"})


@pytest.mark.parametrize("query", [b"house=1", b"home=1&home=1", b"home=%ff", b"=1", b"%ff=1"])
def test_a_query_that_is_not_understood_is_refused(query: bytes) -> None:
    """A misspelt parameter is not ignored."""
    with pytest.raises(RefusedError):
        parse_query(query, {"home"})


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "4", "٣", " 1", "1\n", "9" * 5_000])
def test_a_number_of_the_query_is_digits_in_its_range(text: str) -> None:
    """Whatever else `int` would take is refused."""
    with pytest.raises(RefusedError):
        parse_number(text, "home", 0, 3)


@pytest.mark.parametrize("raw", ['"cart-7"', "cart-7"])
def test_an_idempotency_key_may_be_quoted(raw: str) -> None:
    """A structured field string, or the same without its quotes, is the same key."""
    assert "cart-7" == parse_idempotency_key(raw)


@pytest.mark.parametrize(
    "raw", ["", '""', '"', '"a', "a b", '"a"b"', "a;b=1", "a,b", "å", "a" * 129]
)
def test_an_idempotency_key_is_an_id(raw: str) -> None:
    """What could not be the id of a reservation cannot be a key."""
    with pytest.raises(RefusedError):
        parse_idempotency_key(raw)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Bearer k", "k"),
        ("bearer  k", "k"),
        ("Basic k", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("", None),
    ],
)
def test_a_key_comes_as_a_bearer_token(raw: str, expected: str | None) -> None:
    """Other schemes carry no key."""
    assert expected == parse_bearer(raw)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/json", True),
        (b"Application/JSON", True),
        (b"application/json; charset=utf-8", True),
        (b'application/json;charset="UTF-8"', True),
        (b"application/json; charset=latin-1", False),
        (b"application/x-www-form-urlencoded", False),
        (b"text/plain", False),
        (b"application/json+x", False),
        (b"", False),
    ],
)
def test_json_is_what_says_so(content_type: bytes, *, expected: bool) -> None:
    """A form of a foreign page cannot pass for JSON."""
    assert expected == is_json(content_type)


@pytest.mark.parametrize(
    ("raw", "expected"), [("A", "A"), ("%41", "A"), ("A%2FB", "A/B"), ("%C3%A5", "å"), ("%", "%")]
)
def test_a_part_of_the_path_is_decoded(raw: str, expected: str) -> None:
    """What it decodes to is judged afterwards."""
    assert expected == unquote(raw, "x")


def test_decoding_never_raises_anything_else() -> None:
    """Every prefix and every flipped byte of a body is a body or a refusal."""
    good = body(more=', "channel": "web", "ttl_seconds": 60, "policy": "all"')
    mangled: list[Any] = [good[:end] for end in range(len(good))]
    mangled += [
        good[:at] + bytes([flipped]) + good[at + 1 :]
        for at in range(len(good))
        for flipped in (0, 0x22, 0x5C, 0x7F, 0xFF, good[at] ^ 1)
    ]
    refused = 0
    for data in mangled:
        try:
            RESERVE.decode(data)
        except RefusedError:
            refused += 1

    assert len(mangled) > refused > len(mangled) // 2
