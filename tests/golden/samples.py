"""One message of each type with every field filled, and one with nothing that may be left out.

Made from the declarations, so a new type or field is in the next edition by itself.
"""

from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec
from msgspec import inspect

from engine.messages import (
    MAGIC,
    PROTOCOL_VERSION,
    Answer,
    Body,
    Command,
    Head,
    Hello,
    Request,
    Response,
    Status,
)
from engine.wire import encode_frame


def samples(union: Any) -> Iterator[tuple[Any, Any]]:
    """Of each type of a union: a message with every field, and one with the required ones."""
    info = inspect.type_info(union)
    assert isinstance(info, inspect.UnionType)
    for each in info.types:
        if isinstance(each, inspect.StructType):
            numbers = count(1)
            yield _message(each, numbers, whole=True), _message(each, numbers, whole=False)


def _message(info: inspect.StructType, numbers: "count[int]", *, whole: bool) -> Any:
    return info.cls(
        *(_value(field.type, numbers, whole) for field in info.fields if whole or field.required)
    )


def _value(info: inspect.Type, numbers: "count[int]", whole: bool) -> Any:
    match info:
        case inspect.IntType():
            low = int(info.ge) if info.ge is not None else 0
            high = int(info.le) if info.le is not None else int(info.lt or 2**53) - 1
            return min(max(low, next(numbers)), high)
        case inspect.FloatType():
            return next(numbers) / 4
        case inspect.StrType():
            text = f"text-{next(numbers)}"
            return text[: info.max_length] if info.max_length else text
        case inspect.BytesType():
            return f"b{next(numbers)}".encode()
        case inspect.BoolType():
            return True
        case inspect.NoneType():
            return None
        case inspect.ListType():
            return [_value(info.item_type, numbers, whole) for _ in range(2)]
        case inspect.DictType():
            return {
                _value(info.key_type, numbers, whole): _value(info.value_type, numbers, whole)
                for _ in range(2)
            }
        case inspect.TupleType():
            return tuple(_value(item, numbers, whole) for item in info.item_types)
        case inspect.EnumType():
            return list(info.cls)[-1]
        case inspect.UnionType():
            choices = [each for each in info.types if not isinstance(each, inspect.NoneType)]
            return _value(choices[0], numbers, whole)
        case inspect.Metadata():
            return _value(info.type, numbers, whole)
        case inspect.StructType():
            return _message(info, numbers, whole=whole)
    raise AssertionError(f"no sample of {info}")


def frames() -> list[msgspec.Struct]:
    """What two sides say: a handshake, requests of every command, every status and every body."""
    commands = [list(pair) for pair in samples(Command)]
    asked = [Request(number, 5_000, pair) for number, pair in enumerate(commands, 1)]
    bodies = [body for pair in samples(Body) for body in pair]
    answers = [Answer(status) for status in Status] + [Answer(Status.OK, body) for body in bodies]
    heads = [Head(3, 7, 2**40), Head(4, 1, 1)]
    return [
        Hello(MAGIC, PROTOCOL_VERSION, "a key"),
        Hello(MAGIC, PROTOCOL_VERSION, None, "host-1", 8),
        *asked,
        *(Response(number, [answer], heads) for number, answer in enumerate(answers, 1)),
        Response(0, []),
    ]


def encoded_frames() -> bytes:
    return b"".join(encode_frame(each) for each in frames())  # type: ignore[arg-type]
