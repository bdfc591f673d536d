"""Hypothesis strategies for every message, derived from the types and bounds it declares."""

from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

ENTRIES_MAX = 3
CHARS_MAX = 12


def messages(kind: Any) -> st.SearchStrategy[Any]:
    """Messages of the type or union `kind`, fields within their declared bounds."""
    return _values(inspect.type_info(kind))


def _values(info: inspect.Type) -> st.SearchStrategy[Any]:
    match info:
        case inspect.IntType():
            low = info.ge if info.ge is not None else -(2**31)
            high = info.le if info.le is not None else info.lt - 1 if info.lt else 2**31
            return st.integers(int(low), int(high))
        case inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern)
        case inspect.StrType():
            low = info.min_length or 0
            return st.text(min_size=low, max_size=max(low, min(info.max_length or 99, CHARS_MAX)))
        case inspect.BytesType():
            return st.binary(max_size=min(info.max_length or 99, CHARS_MAX))
        case inspect.ListType():
            return st.lists(
                _values(info.item_type), min_size=info.min_length or 0, max_size=ENTRIES_MAX
            )
        case inspect.DictType():
            keys, values = _values(info.key_type), _values(info.value_type)
            return st.dictionaries(keys, values, max_size=ENTRIES_MAX)
        case inspect.TupleType():
            return st.tuples(*map(_values, info.item_types))
        case inspect.UnionType():
            return st.one_of(*map(_values, info.types))
        case inspect.EnumType():
            return st.sampled_from(info.cls)
        case inspect.StructType():
            fields = {field.name: _values(field.type) for field in info.fields}
            return st.builds(info.cls, **fields)
        case inspect.Metadata():
            return _values(info.type)
        case inspect.RawType():
            return st.just(msgspec.Raw(b"\xc0"))
    return _SCALARS[type(info)]


_SCALARS: dict[type[inspect.Type], st.SearchStrategy[Any]] = {
    inspect.BoolType: st.booleans(),
    inspect.NoneType: st.none(),
    inspect.FloatType: st.floats(allow_nan=False),
}
