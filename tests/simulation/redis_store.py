"""What a Redis server keeps: streams and strings, and the effects that made them.

A command that changes something comes down to one `Effect`, the line that the real server writes
into its append-only file. `Store.apply` is the only thing that changes the store, for a command and
for a start that reads the file alike; so what is loaded is what was lived.

    XADD ──► Append      SET ──► Set      XTRIM ~ ──► Trim, exactly at the first entry left
                         UNLINK ──► Unlink

A stream is a row of nodes, each with up to `node_entries` entries, trimmed ones included: XTRIM
with a tilde takes whole nodes only, never more than its LIMIT, and a node's memory is free only
when all of it is gone. Real nodes are closed by their bytes as well (`stream-node-max-bytes`),
which is left out here. When all entries are trimmed the last id stays, until the key is deleted.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from typing import Final, NamedTuple

Id = tuple[int, int]
ID_MIN: Final[Id] = (0, 0)
ID_MAX: Final[Id] = (2**64 - 1, 2**64 - 1)

_KEY_BYTES: Final = 96
"""Of a key besides its name and value: an object, a place in the dictionary."""
_ENTRY_BYTES: Final = 16
"""Of an entry besides its field and its record."""


class Append(NamedTuple):
    """An entry, which is kept in its stream just as it stands in the file."""

    key: bytes
    id: Id
    field: bytes
    record: bytes

    @property
    def size(self) -> int:
        return len(self.field) + len(self.record) + _ENTRY_BYTES


class Trim(NamedTuple):
    """Everything below `below` has gone."""

    key: bytes
    below: Id


class Set(NamedTuple):
    """A string was stored, over whatever there was."""

    key: bytes
    value: bytes


class Unlink(NamedTuple):
    """Keys were deleted."""

    keys: tuple[bytes, ...]


Effect = Append | Trim | Set | Unlink


class _Node:
    __slots__ = ("live", "size", "total")

    def __init__(self) -> None:
        self.live = 0
        """Entries that can be read."""
        self.total = 0
        """Those and the trimmed ones."""
        self.size = 0


class Stream:
    """Entries in the order of their ids, and the last id there ever was."""

    __slots__ = ("_nodes", "entries", "ids", "last")

    def __init__(self) -> None:
        self.ids = list[Id]()
        self.entries = list[Append]()
        self.last = ID_MIN
        self._nodes = deque[_Node]()

    @property
    def size(self) -> int:
        return sum(node.size for node in self._nodes)

    def append(self, entry: Append, node_entries: int) -> None:
        """Add an entry whose id is larger than the last."""
        nodes = self._nodes
        if not nodes or nodes[-1].total >= node_entries:
            nodes.append(_Node())
        node = nodes[-1]
        node.live += 1
        node.total += 1
        node.size += entry.size
        self.ids.append(entry.id)
        self.entries.append(entry)
        self.last = entry.id

    def between(self, first: Id, last: Id) -> tuple[int, int]:
        """Where the entries from `first` to `last` begin and end in `entries`."""
        begin = bisect_left(self.ids, first)
        return begin, max(begin, bisect_right(self.ids, last))

    def whole_nodes(self, below: Id, limit: int) -> int:
        """How many entries lie in leading nodes that are all below; `limit` entries at most, or 0
        for any number."""
        count = 0
        for node in self._nodes:
            more = count + node.live
            if (limit and more > limit) or self.ids[more - 1] >= below:
                break
            count = more
        return count

    def trim(self, below: Id) -> int:
        """Remove all entries below. How many bytes became free: those of whole nodes."""
        count = gone = bisect_left(self.ids, below)
        nodes, freed = self._nodes, 0
        while nodes and nodes[0].live <= count:
            node = nodes.popleft()
            count -= node.live
            freed += node.size
        if count:
            nodes[0].live -= count
        del self.ids[:gone]
        del self.entries[:gone]
        return freed


class Store:
    """All keys, and how much memory they take."""

    def __init__(self, node_entries: int) -> None:
        self._node_entries = node_entries
        self.keys: dict[bytes, Stream | bytes] = {}
        self.used = 0

    def apply(self, effect: Effect) -> None:
        """Do what the effect says."""
        match effect:
            case Append():
                self._append(effect)
            case Trim(key, below):
                stream = self.keys.get(key)
                if isinstance(stream, Stream):
                    self.used -= stream.trim(below)
            case Set(key, value):
                self._remove(key)
                self.keys[key] = value
                self.used += _KEY_BYTES + len(key) + len(value)
            case Unlink(keys):
                for key in keys:
                    self._remove(key)

    def _append(self, entry: Append) -> None:
        stream = self.keys.get(entry.key)
        if stream is None:
            stream = self.keys[entry.key] = Stream()
            self.used += _KEY_BYTES + len(entry.key)
        assert isinstance(stream, Stream), f"{entry.key!r} is a string"
        stream.append(entry, self._node_entries)
        self.used += entry.size

    def _remove(self, key: bytes) -> None:
        value = self.keys.pop(key, None)
        if value is not None:
            size = value.size if isinstance(value, Stream) else len(value)
            self.used -= _KEY_BYTES + len(key) + size
