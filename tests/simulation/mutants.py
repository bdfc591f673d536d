"""Planted bugs: the net is worth what it catches.

Each is a mistake that somebody could make in the product's own code, and each breaks a promise only
where several things come together. `planted(name)` puts one in place for a while; the simulator
must then find a world in which it shows. A bug that nothing finds is a hole in the net.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from actors import (
    appender,
    clock,
    host,
    journal,
    owner,
    ownership,
    pending,
    recovery,
    redis_wire,
    replay,
    snapshotter,
)
from actors.patience import patiently
from actors.pending import NOT_DONE
from actors.phase import ENDED
from engine import (
    batch,
    dedication_rules,
    dedications,
    limits,
    reservation_rules,
    shard,
    snapshot,
    state,
    stock,
    wire,
)
from engine import reservation as holds
from engine.codec import Position
from engine.messages import (
    Answer,
    Bind,
    Dedicate,
    Dedicated,
    DedicatedTo,
    Expired,
    Extended,
    Head,
    Opened,
    Part,
    Settle,
    State,
    Status,
)
from engine.slices import Slices
from gateway import client, dedication, lane, map_watch, router
from tests.simulation.patch import Place, patched

Plant = Callable[[], list[Place]]
MUTANTS: Final[dict[str, Plant]] = {}
"""What to patch, by the name of the bug."""


def _mutant(name: str) -> Callable[[Plant], Plant]:
    def keep(plant: Plant) -> Plant:
        MUTANTS[name] = plant
        return plant

    return keep


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The bug of that name is in the product."""
    with patched(MUTANTS[name]()):
        yield


# --- the journal protocol --------------------------------------------------------------------


@_mutant("reply before append")
def _() -> list[Place]:
    honest = owner.Owner._open

    def begin(self: Any) -> None:
        honest(self)
        waiting, start = list(self.in_flight), 0
        head = Head(self.number, *self.appender.next)
        if self._batch.encoded:
            for waiter, index, commands in waiting:
                waiter.answer_all(index, self._batch.answers[start : start + len(commands)], head)
                start += len(commands)

    return [(owner.Owner, "_open", begin)]


@_mutant("no fencing")
def _() -> list[Place]:
    honest = appender.Appender._place

    async def place(self: Any, entry: Any, failed: Any) -> bool:
        try:
            return await honest(self, entry, failed)
        except appender.FencedError:
            return False

    async def prove(self: Any, **_: Any) -> None:
        return

    return [(appender.Appender, "_place", place), (appender.Appender, "prove", prove)]


@_mutant("no read barrier")
def _() -> list[Place]:
    async def prove(self: Any, **_: Any) -> None:
        return

    return [(appender.Appender, "prove", prove)]


@_mutant("the journal's client retries writes")
def _() -> list[Place]:
    honest = journal.RedisJournal._ask

    async def ask(self: Any, command: bytes, *, moves: bool = True) -> Any:
        for _ in range(9):
            try:
                return await honest(self, command)
            except (journal.LostError, journal.BusyError):
                await asyncio.sleep(0.01)
        return await honest(self, command)

    sending = journal.RedisJournal.send

    def send(self: Any, shard: int, entry: Any, done: Any, left: int = 9) -> None:
        def again(failed: Any) -> None:
            if left and isinstance(failed, journal.LostError | journal.BusyError):
                loop = asyncio.get_running_loop()
                loop.call_later(0.01, send, self, shard, entry, done, left - 1)
            else:
                done(failed)

        sending(self, shard, entry, again)

    return [(journal.RedisJournal, "_ask", ask), (journal.RedisJournal, "send", send)]


@_mutant("resend after regress without the ring")
def _() -> list[Place]:
    async def give_back(self: Any, last: Position, run_id: str) -> bool:
        return True

    honest = appender.Appender._look

    async def look(self: Any, sent: Any) -> bool:
        [last], run_id = await self._newest(1)
        if sent is None or last.position >= self.position:
            return await honest(self, sent)
        self._run_id = run_id
        return False

    return [(appender.Appender, "_give_back", give_back), (appender.Appender, "_look", look)]


@_mutant("two appends in flight")
def _() -> list[Place]:
    def send_batch(self: Any) -> Any:
        if self.phase in ENDED or not self._may_join():
            return self._come_home()
        self._open()
        if not self._batch.encoded:
            self._stranded = owner._UNSENT
            return self._come_home()
        entry, answers = (
            self.appender.entry(self.shard.state.now, self._batch.encoded),
            self._batch.answers,
        )
        self.appender.acknowledged(entry)
        waiting, self.in_flight = self.in_flight, []
        head = Head(self.number, *entry.position)

        def landed(failed: Any) -> None:
            start = 0
            for waiter, index, commands in waiting if failed is None else ():
                waiter.answer_all(index, answers[start : start + len(commands)], head)
                start += len(commands)

        self._journal.send(self.number, entry, landed)
        return self._come_home()

    return [(owner.Owner, "_send_batch", send_batch)]


@_mutant("trim before pointer")
def _() -> list[Place]:
    honest = snapshotter.Snapshotter._store

    async def store(self: Any, writer: Any, run_id: str) -> None:
        await honest(self, writer, run_id)
        await patiently(lambda: self._journal.trim(self._shard.number, writer.position))

    return [(snapshotter.Snapshotter, "_store", store)]


@_mutant("the last record is not replayed")
def _() -> list[Place]:
    honest = replay.Replay._applying

    def applying(self: Any, record: Any) -> Slices[None]:
        held, self._held_back = getattr(self, "_held_back", None), record
        if held is not None:
            yield from honest(self, held)
        if record.position.sequence < 2:
            self._held_back = None
            yield from honest(self, record)

    return [(replay.Replay, "_applying", applying)]


@_mutant("floors are not looked at")
def _() -> list[Place]:
    async def check_floors(*_: Any) -> None:
        return

    return [(recovery.Recovery, "_check_floors", check_floors)]


@_mutant("a vanished stream is begun anew")
def _() -> list[Place]:
    def command(key: bytes, position: Position, record: bytes, create: bool) -> bytes:
        return redis_wire.pack(b"XADD", key, b"%d-%d" % position, b"r", record)

    return [(journal, "_append_command", command)]


@_mutant("in-flight commands are called not done when the owner ends")
def _() -> list[Place]:
    return [(owner, "OUTCOME_UNKNOWN", NOT_DONE)]


@_mutant("answers of a batch are swapped")
def _() -> list[Place]:
    honest = owner.Owner._execute

    def execute(self: Any) -> None:
        honest(self)
        self._batch.answers[-2:] = self._batch.answers[-2:][::-1]

    return [(owner.Owner, "_execute", execute)]


# --- time ------------------------------------------------------------------------------------


@_mutant("expiry by wall clock at replay")
def _() -> list[Place]:
    honest = recovery.Recovery.finish

    async def finish(self: Any, *arguments: Any) -> Any:
        found = await honest(self, *arguments)
        now = asyncio.get_running_loop().wall() // 1_000  # type: ignore[attr-defined]
        found.shard.begin(now)
        found.shard.close().clear()
        return found

    return [(recovery.Recovery, "finish", finish)]


@_mutant("milliseconds for microseconds")
def _() -> list[Place]:
    honest = reservation_rules.ReservationRules._extend

    def extend(self: Any, command: Any) -> Any:
        found = self._visible(command)
        if found is None or found.state is not State.RESERVED:
            return honest(self, command)
        deadline = self._state.now + command.ttl_seconds * 1_000
        if deadline > self._state.deadline(found):
            self._batch.do(Extended(command.reservation_id, deadline))
        return self._now(command.reservation_id)

    return [(reservation_rules.ReservationRules, "_extend", extend)]


@_mutant("a commit after the deadline")
def _() -> list[Place]:
    def current(self: Any, name: str) -> Any:
        return self._state.reservation(name)

    def due(self: Any, now: int) -> bool:
        soon = self._soon
        late = 200_000
        if soon and soon[0][0] + late <= now:
            return True
        return bool(self.state.deadlines.due(now - late + 1_000_000))

    return [(reservation_rules.ReservationRules, "_current", current), (shard.Shard, "due", due)]


@_mutant("no grace after an opening")
def _() -> list[Place]:
    def deadline(self: Any, reservation: Any) -> int:
        return int(reservation.expires_at)

    return [(state.ShardState, "deadline", deadline)]


@_mutant("the windows of an opening are swapped")
def _() -> list[Place]:
    honest = ownership.Ownership.opened

    def opened(self: Any, found: Any, stamp: int) -> Opened:
        event = honest(self, found, stamp)
        event.keys_window_us, event.finished_window_us = (
            event.finished_window_us,
            event.keys_window_us,
        )
        return event

    return [(ownership.Ownership, "opened", opened)]


@_mutant("every takeover is an hour late")
def _() -> list[Place]:
    honest = ownership.Ownership.opened

    def opened(self: Any, found: Any, stamp: int) -> Opened:
        return honest(self, found, stamp + 3_600 * limits.SECOND_US)

    return [(ownership.Ownership, "opened", opened)]


@_mutant("time goes back at a takeover")
def _() -> list[Place]:
    honest = clock.Clock.__init__

    def begin(self: Any, last_stamp: int = 0, **clocks: Any) -> None:
        honest(self, 0, **clocks)

    return [(clock.Clock, "__init__", begin)]


# --- memory and snapshots --------------------------------------------------------------------


@_mutant("no snapshot can be written")
def _() -> list[Place]:
    async def store(self: Any, *arguments: Any) -> None:
        raise TypeError("a bug")

    return [(snapshotter.Snapshotter, "_store", store)]


@_mutant("a host that was full takes no new work ever after")
def _() -> list[Place]:
    honest = host.Host._refuse

    def refuse(self: Any, server: Any, kinds: Any) -> None:
        honest(self, server, kinds or server.refused)

    return [(host.Host, "_refuse", refuse)]


@_mutant("idempotency missing from snapshots")
def _() -> list[Place]:
    def keys(self: Any) -> Iterator[tuple[str, bytes]]:
        while self._state.keys.take_copy() is not None:
            yield from ()

    return [(snapshot.SnapshotWriter, "_keys", keys)]


@_mutant("a snapshot of more than one moment")
def _() -> list[Place]:
    def touch(self: Any, sku: str, location: str | None = None) -> Any:
        found = self.skus.get(sku)
        if found is None:
            found = self.skus.add(sku, location)
            found.copied = self.copying
        return found

    return [(state.ShardState, "touch", touch)]


@_mutant("finished reservations are forgotten at once")
def _() -> list[Place]:
    def window_end(self: Any, reservation: Any) -> int:
        return int(reservation.finished_at)

    return [(state.ShardState, "window_end", window_end)]


@_mutant("fingerprint ignored")
def _() -> list[Place]:
    return [(reservation_rules, "fingerprint", lambda content: bytes(8))]


@_mutant("a movement's key is not remembered")
def _() -> list[Place]:
    def use_key(self: Any, key: str | None, fingerprint: bytes) -> None:
        return

    return [(state.ShardState, "_use_key", use_key)]


# --- stock -----------------------------------------------------------------------------------


@_mutant("off by one in sourcing")
def _() -> list[Place]:
    def fewest(free: dict[str, int], quantity: int) -> Iterator[tuple[str, int]]:
        for name, units in free.items():
            if units > quantity:
                yield name, quantity
                return
        for name, units in sorted(free.items(), key=lambda item: -item[1]):
            taken = min(units, quantity)
            if not taken:
                return
            yield name, taken
            quantity -= taken

    return [(stock, "_fewest", fewest)]


@_mutant("the pool is not returned on expiry")
def _() -> list[Place]:
    def expired(self: Any, event: Any) -> None:
        found = self._held(event.reservation_id)
        for line in found.lines:
            line.draws = []
        self._return(found.lines, [])
        self._bump(found.lines)
        self._turn(event.reservation_id, found, State.EXPIRED)

    return [(state.ShardState, "_expired", expired)]


@_mutant("double restock")
def _() -> list[Place]:
    def returnable(part: Part) -> int:
        return part.shipped

    return [(holds, "returnable", returnable)]


@_mutant("a held line is free while it moves")
def _() -> list[Place]:
    def move(self: Any, event: Any) -> None:
        found = self._known(event.reservation_id)
        for units in event.units:
            line = found.lines[units.line]
            place = self.touch(line.sku).locations[units.location]
            if found.state is State.RESERVED:
                place.reserved -= units.quantity
            else:
                place.allocated -= units.quantity
            holds.move(line, units)
        self._bump([found.lines[units.line] for units in event.units])
        self.reservations.put(event.reservation_id.encode(), holds.pack(found))
        self._use_key(event.key, event.fingerprint)

    return [(state.ShardState, "_lines_moved", move)]


@_mutant("safety stock is sold")
def _() -> list[Place]:
    def available(self: Any) -> int:
        return int(self.on_hand - self.reserved - self.allocated)

    return [(stock.LocationStock, "available", property(available))]


@_mutant("a late commit takes what is not there")
def _() -> list[Place]:
    def commit_late(self: Any, command: Any, found: Any) -> Any:
        return msgspec.structs.replace(self._now(command.reservation_id), status=Status.OK)

    return [(reservation_rules.ReservationRules, "_commit_late", commit_late)]


@_mutant("a buried id can be reserved")
def _() -> list[Place]:
    return [(holds, "is_tombstone", lambda reservation: False)]


# --- the edge --------------------------------------------------------------------------------


@_mutant("what must not be repeated is repeated")
def _() -> list[Place]:
    return [(module, "is_repeatable", lambda command: True) for module in (lane, router, client)]


@_mutant("the gateway answers from the wrong flight")
def _() -> list[Place]:
    honest = router.Router._landed

    def landed(self: Any, at: Any, flight: Any, response: Any) -> None:
        if response is not None and len(response.answers) > 1:
            answers = [*response.answers[1:], response.answers[0]]
            response = msgspec.structs.replace(response, answers=answers)
        honest(self, at, flight, response)

    return [(router.Router, "_landed", landed)]


@_mutant("a lost connection is called not done")
def _() -> list[Place]:
    def give_up(self: Any, ticket: Any, status: Status = Status.NOT_DONE) -> None:
        self._finish(ticket, Answer(status))

    return [(router.Router, "_give_up", give_up)]


@_mutant("a client keeps its first map")
def _() -> list[Place]:
    honest = map_watch.MapWatch._learn

    def learn(self: Any, view: Any, link: Any) -> bool:
        return not self.told.is_set() and honest(self, view, link)

    return [(map_watch.MapWatch, "_learn", learn)]


# --- what was once so ------------------------------------------------------------------------
#
# Found by the simulator in the product itself, and mended: planted again, to be found again.


@_mutant("once: a claim's stamp is no time")
def _() -> list[Place]:
    honest = owner.Owner._look_after

    def look_after(self: Any, found: Any, end: Any) -> None:
        self._clock = self._clock_from(self.shard.state.now)
        honest(self, found, end)

    return [(owner.Owner, "_look_after", look_after)]


@_mutant("the beginning of a torn frame is forgotten")
def _() -> list[Place]:
    honest = wire.FrameReader.feed

    def feed(self: Any, data: bytes) -> list[bytes]:
        self._buffer = bytearray()
        return honest(self, data)

    return [(wire.FrameReader, "feed", feed)]


@_mutant("a gateway learns only where things are first")
def _() -> list[Place]:
    honest = router.Router.update_map

    def update_map(self: Any, version: int, *arguments: Any) -> None:
        if self.map_version < 1:
            honest(self, version, *arguments)

    return [(router.Router, "update_map", update_map)]


# --- dedicated shards ------------------------------------------------------------------------


@_mutant("a SKU is declared although it has had stock")
def _() -> list[Place]:
    def dedicate(self: Any, command: Any) -> Answer:
        declared = self._state.dedications.dedicated
        if command.sku not in declared:
            self._batch.do(Dedicated(command.sku, command.shard, command.by))
        return Answer(Status.OK, DedicatedTo(command.sku, declared[command.sku]))

    return [(dedication_rules.DedicationRules, "_dedicate", dedicate)]


@_mutant("a hashed shard takes stock of what it has declared")
def _() -> list[Place]:
    honest = batch.Batch.elsewhere

    def elsewhere(self: Any, sku: str) -> Answer | None:
        return honest(self, sku) if self.is_dedicated else None

    return [(batch.Batch, "elsewhere", elsewhere)]


@_mutant("a dedicated shard sells before it is settled")
def _() -> list[Place]:
    honest = batch.Batch.elsewhere

    def elsewhere(self: Any, sku: str) -> Answer | None:
        answer = honest(self, sku)
        return None if answer is not None and answer.status is Status.NOT_DONE else answer

    return [(batch.Batch, "elsewhere", elsewhere)]


@_mutant("a snapshot leaves out what is dedicated")
def _() -> list[Place]:
    return [(dedications.Dedications, "pack", lambda self: None)]


@_mutant("a shard is settled whatever came of the declaration")
def _() -> list[Place]:
    async def take(self: Any, wanted: int | None) -> int:
        shard = await self._choose() if wanted is None else wanted
        await self._must(Bind(shard, self._sku))
        await self._asker.ask(Dedicate(self._sku, shard))
        await self._must(Settle(shard, self._sku))
        return shard

    return [(dedication.Steps, "take", take)]


@_mutant("a gateway knows where a SKU lives before its flights have landed")
def _() -> list[Place]:
    honest = router.Router._hear_where

    def hear_where(self: Any, lane: Any, body: Any) -> None:
        honest(self, lane, body)
        lane.departing.clear()

    return [(router.Router, "_hear_where", hear_where)]


@_mutant("once: who wants a SKU elsewhere than it lives is told nothing")
def _() -> list[Place]:
    honest = router.Router._comes_back

    def comes_back(self: Any, lane: Any, ticket: Any, answer: Answer) -> bool:
        return answer.status is Status.DEDICATED or honest(self, lane, ticket, answer)

    return [(router.Router, "_comes_back", comes_back)]


@_mutant("once: a claim that was made again vouches for a past that is gone")
def _() -> list[Place]:
    async def check_tail(self: Any, *_: Any) -> None:
        return

    return [(recovery.Recovery, "_check_tail", check_tail)]


# --- what was found --------------------------------------------------------------------------


@_mutant("once: a client forgets its doubt when it is refused")
def _() -> list[Place]:
    return [(client, "NOT_APPLIED", frozenset({Status.NOT_DONE}))]


@_mutant("once: an extended hold expires at its old place in the queue")
def _() -> list[Place]:
    def sweep(self: Any) -> None:
        state, soon = self.state, self._soon
        for name in state.deadlines.take(state.now + limits.SECOND_US, limits.SWEEP_PER_BATCH_MAX):
            self._await_deadline(name)
        while soon and soon[0][0] <= state.now:
            _, name = heapq.heappop(soon)
            packed = state.reservations.get(name)
            if packed is None or not holds.is_reserved(packed):
                continue
            if state.deadline(holds.unpack(packed)) <= state.now:
                self._batch.do(Expired(name.decode()))
            else:
                self._await_deadline(name)

    return [(shard.Shard, "_sweep", sweep)]


@_mutant("once: who was fenced goes on when the server has forgotten it")
def _() -> list[Place]:
    return [(appender.Appender, "check_marked", lambda self: None)]


@_mutant("once: nobody looks whether the journal is still there, and still ours")
def _() -> list[Place]:
    async def look(self: Any) -> None:
        return

    return [(owner.Owner, "_look", look)]


@_mutant("once: an answer of several shards rests on a record of one")
def _() -> list[Place]:
    def answer(self: Any, index: int, answer: Answer, head: Head | None = None) -> None:
        if index not in self._answers:
            self._answers[index] = answer
            if len(self._answers) == self._missing:
                self._pending.answer(self._index, self._combine([*self._answers.values()]), head)

    return [(pending.Gathered, "answer", answer)]
