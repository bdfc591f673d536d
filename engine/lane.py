"""The lane: reserves, commits and releases as buyers send them, many in one pass.

What most commands are alike in is decided here without an object for each: one line, of a SKU that
one location has and no pool, for a channel without a policy. Then the event, what is remembered and
the answer are the same few bytes in three orders, and are put together from pieces instead of being
built and encoded. Everything else, and every refusal, is left to `engine.reservation_rules`: the
lane stops in front of it, and goes on behind it.

The lane knows nothing that the rules do not know. For every command that it takes, its bytes are
those of `encode_event`, `encode_answer` and `holds.pack` over what the rules would have made, and
what it leaves in memory is what `ShardState.apply` leaves; tests hold each against the other.

    event           98 01 │ id │ fingerprint │ channel │ deadline │ lines │ 00 90
    what is kept    96 01 │ deadline │ 00 │ fingerprint │ channel │ lines
    answer          92 00 97 01 │ id │ home │ 01 │ channel │ deadline │ lines, as a view
"""

from typing import Final

import msgspec

from engine import limits
from engine.batch import Batch, fingerprint
from engine.counters import (
    ALLOCATED,
    COPIED,
    FLAGS,
    ON_HAND,
    PLACE,
    PLACE_SHIFT,
    RESERVED,
    ROW,
    SAFETY_STOCK,
    VERSION,
)
from engine.messages import AnyAnswer, Command, Commit, Line, Release, Reserve, State
from engine.reservation import is_reserved, unpack
from engine.state import InvariantError

EVENT_BYTES_MAX: Final = 4 * (limits.ID_CHARS_MAX + 2) + 64
"""Of an event that is made here: four names, and little else."""
_ID_BYTES: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-"
"""What an id is made of; see `limits.ID_PATTERN`."""
_encode: Final = msgspec.msgpack.Encoder().encode
_HEADS: Final = [_encode("x" * length)[:-length] for length in range(1, limits.ID_CHARS_MAX + 1)]
_HEADS.insert(0, _encode(""))
"""By its length, what stands before a string."""
_NUMBERS: Final = [_encode(number) for number in range(128)]
_NONE: Final = _encode(None)
_RESERVED: Final = int(State.RESERVED)
_COMMITTED: Final = int(State.COMMITTED)
_RELEASED: Final = int(State.RELEASED)
assert limits.ID_PATTERN == r"^[A-Za-z0-9._:-]{1,128}$", "the lane spells it out"


class Lane:
    """The fast way through one shard."""

    __slots__ = ("_answers", "_batch", "_encoded", "_home", "_places", "_plain", "_state", "done")

    def __init__(self, batch: Batch, plain: set[str]) -> None:
        """`plain`: the channels that are known to have no policy."""
        self._batch = batch
        self._state = batch.state
        self._plain = plain
        self.done: dict[type[Command], int] = {Reserve: 0, Commit: 0, Release: 0}
        """How many of each were decided here, all with success; for whoever counts to take."""
        self._home = _encode(batch.number)
        self._answers: list[AnyAnswer] = []
        self._encoded: list[bytes] = []
        self._places: list[bytes] = []
        """By number, the name of a location, encoded."""

    def run(
        self,
        commands: list[Command],
        start: int,
        end: int,
        answers: list[AnyAnswer],
        encoded: list[bytes],
    ) -> int:
        """Decide and apply those from number `start` on, up to the first that is not for the lane,
        or `end`; its number. Answers and events are added to the lists, encoded."""
        self._answers, self._encoded, index = answers, encoded, start
        while index < end:
            kind = type(commands[index])
            if kind is Reserve:
                done = self._reserve(commands, index, end)
            elif kind is Commit or kind is Release:
                done = self._finish(commands, index, end)
            else:
                break
            if done == index:
                break
            index = done
        return index

    def _reserve(self, commands: list[Command], start: int, end: int) -> int:
        state, copying, places = self._state, self._state.copying, self._encoded_places()
        skus, reservations, counters = state.skus, state.reservations, state.skus.counters
        names, numbers, slots, mask = counters.names, counters.numbers, skus.slots, skus.mask
        buckets, uncopied = reservations.buckets, reservations.uncopied
        spread, answers, events = len(buckets) - 1, self._answers, self._encoded
        index, end = start, min(end, start + self._batch.room_left)
        seconds: int = 0
        of: str | None = None
        while index < end:
            command = commands[index]
            if type(command) is not Reserve:
                break
            requests = command.lines
            name = command.reservation_id.encode()
            number = hash(name) & spread
            bucket = buckets[number]
            if name in bucket or len(requests) != 1 or name.translate(None, _ID_BYTES):
                break
            ttl_seconds, channel = command.ttl_seconds, command.channel
            if ttl_seconds != seconds or channel != of:
                if channel is not None and channel not in self._plain:
                    break
                seconds, of = ttl_seconds, channel
                head, spoken, middle, shown, due = self._terms(ttl_seconds, channel)
            request = requests[0]
            sku, quantity, location = request.sku, request.quantity, request.location
            slot = hash(sku) & mask
            while (row := slots[slot]) and names[row] != sku:
                slot = (slot + 1) & mask
            base = row * ROW  # of an unknown SKU it is 0, where no unit is on hand
            word = numbers[base + PLACE]
            reserved = numbers[base + RESERVED] + quantity
            promised = reserved + numbers[base + ALLOCATED] + numbers[base + SAFETY_STOCK]
            if word & FLAGS or numbers[base + ON_HAND] < promised:
                break
            place = word >> PLACE_SHIFT
            if location is not None and location != counters.places[place]:
                break
            if numbers[base + COPIED] != copying:
                state.touch(sku)
            # Past this line it succeeds.
            numbers[base + RESERVED] = reserved
            numbers[base + VERSION] += 1
            mark = fingerprint((channel, ttl_seconds, command.policy, requests))
            raw = _HEADS[len(name)] + name
            units = _NUMBERS[quantity] if quantity < 128 else _encode(quantity)
            at = sku.encode()
            at = _HEADS[len(at)] + at
            where = places[place]
            lines = b"".join((b"\x91\x93", at, b"\x91\x95", where, units, b"\0\0\0\x90"))
            if uncopied and number in uncopied:
                reservations.copy(number)
            bucket[name] = b"".join((head, mark, spoken, lines))
            due.append(name)
            events.append(b"".join((b"\x98\x01", raw, b"\xc4\x08", mark, middle, lines, b"\0\x90")))
            answers.append(
                b"".join(
                    (b"\x92\0\x97\x01", raw, shown, at, units, b"\x91\x92", where, units, b"\0\0\0")
                )
            )
            index += 1
        reservations.size += index - start
        state.counts[_RESERVED] += index - start
        self.done[Reserve] += index - start
        return index

    def _terms(
        self, ttl_seconds: int, channel: str | None
    ) -> tuple[bytes, bytes, bytes, bytes, list[bytes]]:
        """What reserves of one batch for as long and by the same channel share: what is kept up to
        the fingerprint, the channel, the event from the channel to the lines, the answer from the
        home to the SKU, and who has the same deadline."""
        state = self._state
        deadline = state.now + ttl_seconds * limits.SECOND_US
        at, spoken = _encode(deadline), _encode(channel)
        shown = at if deadline >= state.grace_until else _encode(state.grace_until)
        return (
            b"\x96\x01" + at + b"\0\xc4\x08",
            spoken,
            spoken + at,
            self._home + b"\x01" + spoken + shown + b"\x91\x96",
            state.deadlines.names_of(deadline),
        )

    def _finish(self, commands: list[Command], start: int, end: int) -> int:
        """Commits and releases of all that was reserved, in time."""
        state, reservations = self._state, self._state.reservations
        answers, events = self._answers, self._encoded
        now = _encode(state.now)
        for index in range(start, end):
            command = commands[index]
            if type(command) is Commit:
                if command.lines is not None or command.if_available:
                    return index
            elif type(command) is not Release:
                return index
            name = command.reservation_id.encode()
            packed = reservations.get(name)
            if packed is None or not is_reserved(packed):
                return index
            found = unpack(packed)
            if found.expires_at <= state.now or command.scope not in (None, found.channel):
                return index
            lines = found.lines
            base = self._base(lines[0]) if len(lines) == 1 else 0
            if not base:
                return index
            # Past this line it succeeds.
            quantity = lines[0].parts[0].quantity
            raw, at = _HEADS[len(name)] + name, _encode(found.expires_at)
            turned = self._turn(base, lines[0].sku, quantity, type(command) is Commit)
            self.done[type(command)] += 1
            if type(command) is Commit:
                kept = b"".join((b"\x96\x02", packed[2:]))
                events.append(b"".join((b"\x93\x02", raw, _NONE)))
            else:
                kept = b"".join((b"\x96\x03", at, now, packed[len(at) + 3 :]))
                events.append(b"".join((b"\x92\x03", raw)))
                state.windows_end.add(state.window_from_now, name)
            reservations.put(name, kept)
            spoken = _encode(found.channel)
            answers.append(
                b"".join((b"\x92\0\x97\x01", raw, self._home, kept[1:2], spoken, at, turned))
            )
        return end

    def _base(self, line: Line) -> int:
        """Where the numbers are that a line is held of; 0 = not one place, or short of units."""
        parts, counters, skus = line.parts, self._state.skus.counters, self._state.skus
        row = skus.row(line.sku)
        if len(parts) != 1 or line.draws or row in counters.shorts:
            return 0
        word = counters.numbers[row * ROW + PLACE]
        if word & FLAGS or counters.places[word >> PLACE_SHIFT] != parts[0].location:
            return 0
        return row * ROW

    def _turn(self, base: int, sku: str, quantity: int, is_commit: bool) -> bytes:
        """Held units are allocated, or free; the line as callers see it."""
        state = self._state
        numbers = state.skus.counters.numbers
        if numbers[base + COPIED] != state.copying:
            state.touch(sku)
        numbers[base + RESERVED] -= quantity
        if numbers[base + RESERVED] < 0:
            raise InvariantError(f"reserved of {sku} below 0")
        numbers[base + VERSION] += 1
        state.counts[_RESERVED] -= 1
        if is_commit:
            numbers[base + ALLOCATED] += quantity
            state.counts[_COMMITTED] += 1
        else:
            state.counts[_RELEASED] += 1
        raw = sku.encode()
        units = _NUMBERS[quantity] if quantity < 128 else _encode(quantity)
        where = self._encoded_places()[numbers[base + PLACE] >> PLACE_SHIFT]
        head = _HEADS[len(raw)]
        return b"".join((b"\x91\x96", head, raw, units, b"\x91\x92", where, units, b"\0\0\0"))

    def _encoded_places(self) -> list[bytes]:
        """By number, the name of a location."""
        known, places = self._state.skus.counters.places, self._places
        if len(places) < len(known):
            places += map(_encode, known[len(places) :])
        return places
