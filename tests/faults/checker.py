"""The oracle: holds the history of all clients against what the engine and its journal hold.

    history ──possible()──► where each reservation may stand ◄── read back by id
       │                                                            │ summed up by SKU
       │                                                            ▼
       └── acknowledged units ──► on_hand, reserved, allocated ◄── the engine's stock
    journal ──► one event per acknowledged effect, in the very record that the answer named;
                replayed from the first record, the digest of what is served

Five questions, of which every one can fail alone:

1. Does every answer agree with those before it? An effect is acknowledged once; NOT_DONE was not
   done; what nobody was told may have happened, may happen later, and happens at most once.
2. Does every reservation stand, in the end, where its answers allow?
3. Do the sums of each SKU equal those of the reservations and movements, exactly? Nothing else is
   there, and no more is promised than there is.
4. Do answers rest on records in the order in which they were given?
5. Does the journal hold each effect once, all of a SKU in one shard and in none that is dedicated
   to another, and does replaying it give what is served?
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from actors.journal import RedisJournal
from actors.journal_servers import Servers
from engine.codec import GENESIS, START, Position, Record, check_link, decode_record
from engine.messages import (
    Audit,
    AuditView,
    Claimed,
    Commit,
    Committed,
    Dedicated,
    GetReservation,
    GetStock,
    Receive,
    Received,
    Release,
    Released,
    ReservationView,
    Reserve,
    Reserved,
    State,
    Status,
    StockView,
)
from engine.shard import Shard
from tests.faults.engine_process import EngineProcess
from tests.faults.history import UNKNOWN, Attempt, History
from tests.faults.till import Till

ABSENT: Final = None
Stand = State | None
PAGE = 256
FINDINGS_MAX = 10
AUDIT_DEADLINE_MS = 60_000
"""A shard that remembers a hundred thousand reservations takes seconds to add up."""
AUDIT_SECONDS = 240.0
CONNECT_SECONDS = 30.0

EFFECTS: Final[dict[type, tuple[Stand, State]]] = {
    Reserve: (ABSENT, State.RESERVED),
    Commit: (State.RESERVED, State.COMMITTED),
    Release: (State.RESERVED, State.RELEASED),
}
"""What a command does: where it must find the reservation, and where it leaves it."""
TOLD: Final[dict[tuple[type, Status], tuple[Stand, ...]]] = {
    (Reserve, Status.REPLAYED): (State.RESERVED, State.COMMITTED),
    (Reserve, Status.INSUFFICIENT_STOCK): (ABSENT,),
    (Reserve, Status.RESERVATION_RELEASED): (State.RELEASED,),
    (Commit, Status.REPLAYED): (State.COMMITTED,),
    (Commit, Status.UNKNOWN_RESERVATION): (ABSENT,),
    (Commit, Status.ILLEGAL_TRANSITION): (State.RELEASED,),
    (Release, Status.REPLAYED): (State.RELEASED,),
    (Release, Status.UNKNOWN_RESERVATION): (ABSENT,),
    (Release, Status.ILLEGAL_TRANSITION): (State.COMMITTED,),
}
"""What an answer without an effect says about where the reservation stands."""
NO_EFFECT: Final = frozenset(
    {
        Status.NOT_DONE,
        Status.OVERLOADED,
        Status.MEMORY_FULL,
        Status.MOVED,
        Status.SHARD_STOPPED,
    }
)
EVENTS: Final[dict[type, type]] = {
    Reserve: Reserved,
    Commit: Committed,
    Release: Released,
    Receive: Received,
}


@dataclass
class Books:
    """What was found, and how much was looked at."""

    findings: list[str] = field(default_factory=list)
    acknowledged: int = 0
    unknown: int = 0
    reservations: int = 0
    records: int = 0
    epochs: int = 0

    @property
    def figures(self) -> dict[str, int]:
        return {
            "acknowledged": self.acknowledged,
            "unknown": self.unknown,
            "reservations_read_back": self.reservations,
            "records_replayed": self.records,
            "epochs": self.epochs,
        }


class Contradiction(Exception):
    """No course of events explains the answers."""


# --- 1: the answers among themselves ---------------------------------------------------------

Course = tuple[Stand, tuple[type, ...]]
"""Where a reservation may stand, and what was sent and may still take effect."""


def possible(attempts: Sequence[Attempt]) -> set[Stand]:
    """Where a reservation may stand after these attempts. Raises Contradiction."""
    courses: set[Course] = {(ABSENT, ())}
    for each in attempts:
        courses = _closure(_after(courses, each))
        if not courses:
            told = "; ".join(
                f"{type(a.command).__name__} {a.status.name if a.status else None}"
                f"{' direct' if a.direct else ''} @{a.sent:.3f}"
                for a in attempts
            )
            raise Contradiction(told)
    return {stand for stand, _ in courses}


def _after(courses: set[Course], attempt: Attempt) -> set[Course]:
    kind, status = type(attempt.command), attempt.status
    before, effect = EFFECTS[kind]
    if status in UNKNOWN:
        return {(stand, (*pending, kind)) for stand, pending in courses}
    if status in NO_EFFECT:
        return courses
    if status is Status.OK:
        return {(effect, pending) for stand, pending in courses if stand is before}
    allowed = TOLD.get((kind, Status(status or 0)), ())
    if not attempt.direct:  # a gateway may have sent it twice: its own effect may lie before
        courses = courses | {(effect, pending) for stand, pending in courses if stand is before}
    return {(stand, pending) for stand, pending in courses if stand in allowed}


def _closure(courses: set[Course]) -> set[Course]:
    """Anything that is pending may take effect at any time."""
    found, unseen = set(courses), list(courses)
    while unseen:
        stand, pending = unseen.pop()
        for index, kind in enumerate(pending):
            before, effect = EFFECTS[kind]
            course = effect, (*pending[:index], *pending[index + 1 :])
            if stand is before and course not in found:
                found.add(course)
                unseen.append(course)
    return found


# --- 2 and 3: what the engine holds ----------------------------------------------------------


async def check(
    engine: EngineProcess,
    history: History,
    *,
    redis_url: str | Sequence[str] | None = None,
    whole: bool = True,
) -> Books:
    """All five questions. `whole`: the journal must be there from its first record on."""
    books = Books(acknowledged=history.acknowledged(), unknown=history.unknown())
    status = await engine.status()
    async with Till(engine.binary) as till:
        assert await till.connected(CONNECT_SECONDS)
        hashed = till.hello.shards
        audits = await _audit(till, status.shards, books)
        stands = await _read_back(till, history, books)
        received = await _settle_received(till, history)
        await _check_stock(till, history, stands, received, books)
        _check_counts(audits, stands, books)
        audits = await _audit(till, status.shards, books)
    check_heads(history.attempts, books)
    journal = await read_journal(redis_url or engine.redis_url, status.shards)
    books.findings += check_journal(
        journal, history, stands, audits, books, whole=whole, hashed=hashed
    )
    told = "\n".join(books.findings[:FINDINGS_MAX])
    assert not books.findings, f"{len(books.findings)} findings, the first of them:\n{told}"
    return books


async def _audit(till: Till, shards: int, books: Books) -> dict[int, AuditView]:
    """Of every shard, behind everything that is still queued there."""
    found = {}
    answers = await till.insist(
        [Audit(shard, quick=True) for shard in range(shards)],
        seconds=AUDIT_SECONDS,
        frame=1,
        deadline_ms=AUDIT_DEADLINE_MS,
    )
    for shard, answer in enumerate(answers):
        if isinstance(answer.body, AuditView):
            found[shard] = answer.body
            if answer.body.drift:
                books.findings += [f"shard {shard}: {each}" for each in answer.body.findings]
        else:
            books.findings.append(f"shard {shard}: no audit: {answer.status.name}")
    return found


async def _read_back(till: Till, history: History, books: Books) -> dict[str, State]:
    """Every reservation that anybody ever named; where those stand that there are."""
    reservations = history.reservations()
    books.reservations = len(reservations)
    commands = [GetReservation(name, found[0].shard) for name, found in reservations.items()]
    answers = await till.insist(commands, seconds=120)
    stands: dict[str, State] = {}
    for (name, attempts), answer in zip(reservations.items(), answers, strict=True):
        view = answer.body
        if isinstance(view, ReservationView):
            stands[name] = view.state
            books.findings += _check_view(attempts[0], view)
        elif answer.status is not Status.UNKNOWN_RESERVATION:
            books.findings.append(f"{name}: {answer.status.name}")
            continue
        try:
            allowed = possible(attempts)
        except Contradiction as error:
            books.findings.append(f"{name}: answers contradict each other: {error}")
            continue
        if stands.get(name) not in allowed:
            books.findings.append(
                f"{name}: stands at {stands.get(name)!r}, its answers allow {allowed}"
            )
    return stands


def _check_view(first: Attempt, view: ReservationView) -> Iterable[str]:
    command = first.command
    assert isinstance(command, Reserve)
    asked = [(line.sku, line.quantity) for line in command.lines]
    found = [(line.sku, line.quantity) for line in view.lines]
    if asked != found or view.home != first.shard:
        yield f"{view.reservation_id}: asked for {asked} at {first.shard}, is {view}"


async def _settle_received(till: Till, history: History) -> Counter[str]:
    """Units by SKU, each key once: a retry tells what came of those that nobody knows of."""
    keys = history.received()
    commands = [attempts[0].command for attempts in keys.values()]
    open_ones = [
        command
        for command, attempts in zip(commands, keys.values(), strict=True)
        if not any(each.done for each in attempts)
    ]
    await till.insist(open_ones)
    units: Counter[str] = Counter()
    for command in commands:
        assert isinstance(command, Receive)
        units[command.sku] += command.quantity
    return units


async def _check_stock(
    till: Till,
    history: History,
    stands: dict[str, State],
    received: Counter[str],
    books: Books,
) -> None:
    held: dict[State, Counter[str]] = {state: Counter() for state in State}
    for name, attempts in history.reservations().items():
        command = attempts[0].command
        assert isinstance(command, Reserve)
        if name in stands:
            for line in command.lines:
                held[stands[name]][line.sku] += line.quantity
    skus = history.skus()
    for sku, answer in zip(skus, await till.insist([GetStock(s) for s in skus]), strict=True):
        view = answer.body
        if not isinstance(view, StockView):
            books.findings.append(f"{sku}: {answer.status.name}")
            continue
        expected = received[sku], held[State.RESERVED][sku], held[State.COMMITTED][sku]
        found = view.on_hand, view.reserved, view.allocated
        if expected != found:
            books.findings.append(f"{sku}: on_hand, reserved, allocated {found}, not {expected}")
        if view.available < 0:
            books.findings.append(f"{sku}: oversold by {-view.available}")


def _check_counts(audits: dict[int, AuditView], stands: dict[str, State], books: Books) -> None:
    """No reservation is there that nobody has asked for."""
    there = sum(sum(view.reservations.values()) for view in audits.values())
    if there != len(stands):
        books.findings.append(f"{there} reservations are there, {len(stands)} of them ours")


# --- 4: the order of answers -----------------------------------------------------------------


def check_heads(attempts: Iterable[Attempt], books: Books) -> None:
    """What was answered before another was sent rests on a record that is not later."""
    by_shard: dict[int, list[Attempt]] = {}
    for each in attempts:
        if each.head is not None:
            by_shard.setdefault(each.shard, []).append(each)
    for shard, found in by_shard.items():
        answered = sorted(found, key=lambda each: each.answered)
        highest, seen = START, 0
        for each in sorted(found, key=lambda each: each.sent):
            while seen < len(answered) and answered[seen].answered < each.sent:
                highest = max(highest, _head(answered[seen]))
                seen += 1
            if _head(each) < highest:
                books.findings.append(f"shard {shard}: {_head(each)} answered after {highest}")


def _head(attempt: Attempt) -> Position:
    assert attempt.head is not None
    return Position(attempt.head.epoch, attempt.head.sequence)


# --- 5: the journal --------------------------------------------------------------------------

Journal = dict[int, list[Record]]


async def read_journal(urls: str | Sequence[str], shards: int) -> Journal:
    """Every record of every shard, each proven."""
    journals = [RedisJournal(url) for url in ([urls] if isinstance(urls, str) else urls)]
    servers = Servers(journals)
    for journal in journals:
        await journal.open()
    try:
        return {shard: await _read_stream(servers.of(shard), shard) for shard in range(shards)}
    finally:
        for journal in journals:
            await journal.close()


async def _read_stream(journal: RedisJournal, shard: int) -> list[Record]:
    records: list[Record] = []
    after = START
    while page := await journal.read(shard, after, PAGE):
        for entry in page:
            record = decode_record(entry.record, shard, entry.position)
            check_link(records[-1] if records else None, record)
            records.append(record)
        after = page[-1].position
        await asyncio.sleep(0)
    return records


def check_journal(
    journal: Journal,
    history: History,
    stands: dict[str, State],
    audits: dict[int, AuditView],
    books: Books,
    *,
    whole: bool,
    hashed: int | None = None,
) -> list[str]:
    """Each effect once, where its answer says; replayed, the digest of what is served. `hashed`:
    how many of the shards are; all of them, if it is left out."""
    places: dict[tuple[type, str], list[tuple[int, Position]]] = {}
    findings: list[str] = []
    for shard, records in journal.items():
        books.records += len(records)
        for record in records:
            for event in record.events:
                books.epochs += isinstance(event, Claimed)
                name = getattr(event, "reservation_id", None) or getattr(event, "key", None)
                if isinstance(name, str):
                    places.setdefault((type(event), name), []).append((shard, record.position))
        if whole:
            findings += _check_replay(shard, records, hashed or len(journal), audits)
    for (kind, name), found in places.items():
        if len(found) > 1:
            findings.append(f"{name}: {kind.__name__} {len(found)} times: {found}")
    findings += _check_lives(journal)
    if whole:
        findings += _check_events(places, stands)
        findings += _check_places(places, history)
    return findings


def _check_replay(
    shard: int, records: list[Record], shards: int, audits: dict[int, AuditView]
) -> Iterable[str]:
    if records[0].position != GENESIS:
        yield f"shard {shard}: the journal begins with {records[0].position}"
        return
    replayed = Shard(shard, shards)
    audit = audits.get(shard)
    audited = None if audit is None else Position(audit.epoch, audit.sequence)
    digest = b""
    for record in records:
        replayed.replay(record.stamp, record.events)
        if record.position == audited:  # the shard may have moved since
            digest = replayed.digest()
    if audit is not None and digest != audit.digest:
        yield f"shard {shard}: what is served is not what its journal says at {audited}"


def _check_lives(journal: Journal) -> Iterable[str]:
    """No SKU has effects in two shards, nor in any but the one that it was dedicated to."""
    lives: dict[str, int] = {}
    found: dict[str, set[int]] = {}
    for shard, records in journal.items():
        for event in (event for record in records for event in record.events):
            if isinstance(event, Dedicated):
                lives[event.sku] = event.shard
            elif isinstance(event, Received):
                found.setdefault(event.sku, set()).add(shard)
            elif isinstance(event, Reserved):
                for line in event.lines:
                    found.setdefault(line.sku, set()).add(shard)
    for sku, shards in found.items():
        if len(shards) > 1 or (sku in lives and {lives[sku]} != shards):
            yield f"{sku}: has effects in shards {sorted(shards)}, lives in {lives.get(sku)}"


def _check_events(
    places: dict[tuple[type, str], list[tuple[int, Position]]], stands: dict[str, State]
) -> Iterable[str]:
    """Those reservations are there that were journaled, and stand where their events say."""
    after = {State.COMMITTED: Committed, State.RELEASED: Released}
    reserved = {name for kind, name in places if kind is Reserved}
    for name in reserved ^ stands.keys():
        yield f"{name}: {'lost' if name in reserved else 'not journaled'}"
    for name, state in stands.items():
        for wanted, event in after.items():
            if ((event, name) in places) != (state is wanted):
                yield f"{name}: stands at {state!r}, unlike its events"


def _check_places(
    places: dict[tuple[type, str], list[tuple[int, Position]]], history: History
) -> Iterable[str]:
    for each in history.attempts:
        if each.status is not Status.OK:
            continue
        command = each.command
        name = getattr(command, "reservation_id", None) or getattr(command, "key", None)
        found = places.get((EVENTS[type(command)], str(name)), [])
        if not found:
            yield f"{name}: {type(command).__name__} was acknowledged and is not in the journal"
        elif each.head is not None and found[0] != (each.shard, _head(each)):
            yield f"{name}: {type(command).__name__} is at {found[0]}, answered with {each.head}"
