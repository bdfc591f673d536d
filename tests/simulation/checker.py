"""The judge of a simulated world: was everything that it answered true, and is all of it there?

`judge` reads a `History` and returns what was wrong, in one sentence each; nothing means green. The
rules are the naive model's (`tests.engine.model`), not the engine's, which may have bugs: of the
engine only the vocabulary, the decoding of a record and the placement of SKUs are used. What must
hold:

- *The journal.* Every record proves itself and follows the one before; an epoch has one writer, and
  none writes after a newer claim. Replayed on the model, every event is the doing of a command that
  was asked for, or was due at its stamp; none has an effect that its caller was told it has not.
- *Answers.* Whatever an answer says was right at the record it rests on, and that record was
  durable before the answer left. Who asks after a record was durable is answered from there on.
- *Clients.* What a call was told, some host gave to it; what gateways say of their own accord (that
  an id is known nowhere, or twice) was so at some moment of the call.
- *Sums.* What is on hand is what the movements add up to, and audits find no more and no less.
- *The end.* Each shard is served, in the state that its journal tells, or has stopped for a reason
  that the world has given it. None has ever stopped without.

Where the server has lost what was durable, a shard may stop, and what it answered may be gone with
it; a shard that is served must have everything all the same.
"""

from bisect import bisect_left
from collections import defaultdict
from itertools import accumulate
from math import inf
from typing import Final

from engine.codec import START, Position
from engine.messages import (
    UNKNOWN_HOME,
    Answer,
    Audit,
    AuditView,
    Command,
    Detail,
    Find,
    GetChannel,
    GetMap,
    GetReservation,
    GetStatistics,
    GetStock,
    GetStockAsOf,
    Head,
    Homes,
    ListMovements,
    Opened,
    SnapshotBegun,
    SnapshotTaken,
    State,
    Status,
    StockAsOf,
)
from engine.placement import shard_of
from engine.shard import Shard
from tests.simulation.calls import NOTHING_DONE, Arrivals, Call, Calls
from tests.simulation.history import Asked, Given, History, Told
from tests.simulation.replay import Replay, differs

WITHOUT_HEAD: Final = NOTHING_DONE | {Status.OUTCOME_UNKNOWN, Status.AMBIGUOUS_RESERVATION}
"""What hosts, gateways and clients may answer without having looked at a record."""
LATE_NS: Final = 50_000_000
"""After its deadline a call is told within that."""
LOSS: Final = ("Regressed: ", "Genesis: ")
"""How reasons begin for which a shard may stop where the server has lost something."""
BESIDE: Final = (Find, GetMap, Audit, GetStatistics, GetStockAsOf, ListMovements)
"""Commands whose answers are judged by what they say, not by the record they rest on."""


def judge(history: History) -> list[str]:
    """What was wrong, one sentence each."""
    return Judge(history).judge()


def said(given: Given) -> str:
    return f"{given.host} answered {given.command} with {given.answer}"


class Judge:
    """One history, while it is judged."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.violations: list[str] = []
        self.calls = Calls(history)
        self.arrivals = Arrivals(history, self.calls)
        shards = range(history.total)
        self.stored_at: list[dict[Position, int]] = [{} for _ in shards]
        """Per shard: since when each record of the lineage has been durable, for the last time."""
        self.first_stored_at: list[dict[Position, int]] = [{} for _ in shards]
        self.given: list[dict[Position, list[Given]]] = [defaultdict(list) for _ in shards]
        self.audits: list[dict[Position, list[Given]]] = [defaultdict(list) for _ in shards]
        self.searched: list[Given] = []
        """Answers of hosts that have asked all shards, and so rest on no one record."""
        self.replays: list[Replay] = []
        deadline_ns = history.deadline_ns
        self._patience = inf if deadline_ns is None else deadline_ns + LATE_NS

    def judge(self) -> list[str]:
        self._check_stored()
        for given in self.history.given:
            self._sort(given)
        for shard in range(self.history.total):
            replay = Replay(
                shard,
                self.history,
                self.calls,
                self.arrivals,
                self.given[shard],
                self.audits[shard],
                self.first_stored_at[shard],
                self.stored_at[shard],
            )
            replay.run()
            self.replays.append(replay)
            if not self._may_lack(shard):
                self.violations += replay.violations
        self._check_order()
        self._check_clients()
        self._check_ends()
        self._check_lives()
        return self.violations

    def _may_lack(self, shard: int) -> bool:
        """Whether the shard has stopped for a reason, and so may lack what it has answered; or is
        served because nobody could tell."""
        history = self.history
        if history.lossy and shard in history.unknowable:
            return True
        if shard in history.damaged:
            return shard in history.stopped
        return history.lossy and history.stopped.get(shard, "").startswith(LOSS)

    # --- the journal ---

    def _check_stored(self) -> None:
        """Nothing is written after a newer claim, and what was durable stays."""
        history = self.history
        lineages = [dict(history.lineage.get(shard, ())) for shard in range(history.total)]
        seen: set[tuple[int, Position]] = set()
        for stored in history.stored:
            shard, position = stored.shard, stored.position
            where = f"shard {shard}: record {position}"
            if lineages[shard].get(position) == stored.record:
                self.stored_at[shard][position] = stored.at
                self.first_stored_at[shard].setdefault(position, stored.at)
            elif not history.lossy and shard not in history.damaged:
                self.violations.append(f"{where} was durable, and is not in the journal")
            if (shard, position) in seen and not history.lossy:
                self.violations.append(f"{where} was stored twice")
            seen.add((shard, position))
        for shard, lineage in enumerate(lineages):
            self._check_writers(shard, list(lineage))

    def _check_writers(self, shard: int, lineage: list[Position]) -> None:
        before, since = START, 0
        for position in lineage:
            at = self.stored_at[shard].get(position)
            if at is None:
                if shard not in self.history.damaged:
                    self.violations.append(
                        f"shard {shard}: record {position} is in the journal and was never stored"
                    )
                continue
            if at < since:
                self.violations.append(
                    f"shard {shard}: record {position} was stored before {before}, behind which"
                    " it stands"
                )
            before, since = position, at

    # --- answers ---

    def _sort(self, given: Given) -> None:
        """Put an answer to the record that it rests on, and check that it may rest on it."""
        answer, head = given.answer, given.head
        if isinstance(given.command, BESIDE):
            if isinstance(answer.body, AuditView):
                view = answer.body
                self._rest(given, Head(view.shard, view.epoch, view.sequence), self.audits)
            elif isinstance(answer.body, StockAsOf):
                past = answer.body
                shard = shard_of(past.stock.sku, self.history.shards)
                self._rest(given, Head(shard, past.epoch, past.sequence), self.audits)
            return
        if is_a_bug(answer) or answer.status in self.history.impossible:
            self.violations.append(f"{said(given)}")
        if head is None:
            if answer.status is Status.UNKNOWN_RESERVATION:
                self.searched.append(given)
            elif answer.status not in WITHOUT_HEAD:
                self.violations.append(f"{said(given)}, which rests on no record")
            return
        if answer.status not in WITHOUT_HEAD or answer.status is Status.INVALID:
            self._rest(given, head, self.given)

    def _rest(self, given: Given, head: Head, whole: list[dict[Position, list[Given]]]) -> None:
        """`given` rests on `head`, which must be durable by then."""
        position = Position(head.epoch, head.sequence)
        at = self.first_stored_at[head.shard].get(position)
        if at is not None and at <= given.at:
            whole[head.shard][position].append(given)
        elif not self._may_lack(head.shard):
            fault = "missing" if at is None else f"durable only at {at}"
            self.violations.append(
                f"shard {head.shard}: {said(given)} at {given.at} upon {position}, which is {fault}"
            )

    def _check_order(self) -> None:
        """Who asks after a record was durable is answered upon that one or a later one, and by
        whoever has claimed the epoch."""
        times = [sorted(stored.values()) for stored in self.stored_at]
        newest = [
            list(accumulate(sorted(stored, key=stored.__getitem__), max))
            for stored in self.stored_at
        ]
        for given in self.history.given:
            head = given.head
            if head is None or isinstance(given.command, BESIDE):
                continue
            shard, position = head.shard, Position(head.epoch, head.sequence)
            if self._may_lack(shard):
                continue
            index = bisect_left(times[shard], given.arrived)
            if index and newest[shard][index - 1] > position:
                self.violations.append(
                    f"shard {shard}: {given.host} answered {given.command}, which reached it at"
                    f" {given.arrived}, upon {position}; by then {newest[shard][index - 1]} stood"
                )
            claimant = self.replays[shard].lineage.hosts.get(head.epoch, given.host)
            if claimant != given.host:
                self.violations.append(
                    f"shard {shard}: {given.host} answered {given.command} upon {position}, but"
                    f" {claimant} had claimed that epoch"
                )

    # --- clients ---

    def _check_clients(self) -> None:
        given: dict[bytes, list[Given]] = defaultdict(list)
        for each in self.history.given:
            if each.head is not None or isinstance(each.command, BESIDE):
                for spelling in self.calls.spellings(each.command):
                    given[spelling].append(each)
        for call in self.calls.by_number.values():
            if call.told is not None:
                self._check_told(call, call.told, given[self.calls.equal(call.asked.command)])
        if len(self.history.told) > len({told.call for told in self.history.told}):
            self.violations.append("a call was told twice how it ended")
        for each in self.history.given:
            if isinstance(each.command, Find) and isinstance(each.answer.body, Homes):
                self._check_homes(each)
        for each in self.searched:
            known = self._known(each.command, each.arrived, each.at, scope_of(each.command))
            if not all(False in shard for shard in known):
                self.violations.append(f"{said(each)}, though it was known all the time")

    def _check_told(self, call: Call, told: Told, given: list[Given]) -> None:
        """Some host gave this answer to this call, or the edge may have said so by itself."""
        asked, answer = call.asked, told.answer
        if told.at < asked.at:
            self.violations.append(f"{call} was told at {told.at} what it asked at {asked.at}")
        if told.at > asked.at + self._patience:
            self.violations.append(f"{call} was told at {told.at} only what it asked at {asked.at}")
        if answer.status in self.history.impossible:
            self.violations.append(f"{call} asked {asked.command} and was told {answer}")
        if answer.status in WITHOUT_HEAD and answer.status is not Status.AMBIGUOUS_RESERVATION:
            return
        heard = [each for each in given if asked.at <= each.arrived and each.at <= told.at]
        scopes = {scope_of(each.command) for each in heard}
        if answer.status is Status.UNKNOWN_RESERVATION and not is_its_home(asked, answer, heard):
            right = self._is_known_nowhere(call, told, scopes)
        else:
            right = any(each.answer == answer for each in heard)
        if not right and not self._may_be_said_by_an_edge(call, told):
            self.violations.append(
                f"{call} asked {asked.command} and was told {answer}, which no host gave to it"
            )

    def _is_known_nowhere(self, call: Call, told: Told, scopes: set[str | None]) -> bool:
        """Whether each shard did not know the reservation, at some moment of the call."""
        command = call.asked.command
        return any(
            all(False in known for known in self._known(command, call.asked.at, told.at, scope))
            for scope in scopes | {scope_of(command)}
        )

    def _known(self, command: Command, start: int, end: int, scope: str | None) -> list[set[bool]]:
        """Per shard, whether it knew the reservation that the command is about."""
        name = getattr(command, "reservation_id", "")
        return [
            {True, False} if self._may_lack(replay.shard) else replay.knew(name, scope, start, end)
            for replay in self.replays
        ]

    def _may_be_said_by_an_edge(self, call: Call, told: Told) -> bool:
        """Whether a search over all shards, or the scope of a key, can have ended like that."""
        command, answer = call.asked.command, told.answer
        if isinstance(command, GetStatistics):
            return True
        if isinstance(command, GetChannel):
            return answer.status is Status.UNKNOWN_CHANNEL
        if not hasattr(command, "reservation_id"):
            return False
        known = self._known(command, call.asked.at, told.at, scope_of(command))
        if isinstance(command, Find) and isinstance(answer.body, Homes):
            homes = answer.body
            return all((shard in homes.shards) in known[shard] for shard in homes.asked)
        if answer.status is Status.AMBIGUOUS_RESERVATION:
            return sum(True in each for each in known) > 1
        return False

    def _check_homes(self, given: Given) -> None:
        """What a host says of where a reservation is."""
        command, body = given.command, given.answer.body
        assert isinstance(command, Find)
        assert isinstance(body, Homes)
        for shard in body.asked:
            if self._may_lack(shard):
                continue
            known = self.replays[shard].knew(
                command.reservation_id, command.scope, given.arrived, given.at
            )
            if (shard in body.shards) not in known:
                self.violations.append(
                    f"shard {shard}: {given.host} answered {command} with {body}, wrongly"
                )

    # --- the end ---

    def _check_ends(self) -> None:
        history = self.history
        for shard in range(history.total):
            if shard in history.stopped:
                if not self._may_lack(shard):
                    self.violations.append(
                        f"shard {shard} has stopped without a reason: {history.stopped[shard]}"
                    )
            elif shard in history.once_stopped and not history.lossy:
                self.violations.append(
                    f"shard {shard} had stopped without a reason: {history.once_stopped[shard]}"
                )
            elif shard not in history.digests:
                self.violations.append(f"shard {shard} is not served in the end")
            elif not self.replays[shard].violations:
                self._check_digest(shard, history.digests[shard])

    def _check_lives(self) -> None:
        """No SKU has ever had stock in two shards, or in one that it was not declared to."""
        lives: dict[str, int] = {}
        for replay in self.replays:
            if replay.violations or self._may_lack(replay.shard):
                return
            model = replay.model
            if model.settled and model.bound is not None:
                hashed = self.replays[shard_of(model.bound, self.history.shards)].model
                if hashed.declared.get(model.bound) != replay.shard:
                    self.violations.append(
                        f"shard {replay.shard} sells {model.bound}, which was never declared to it"
                    )
            for sku in model.skus:
                first = lives.setdefault(sku, replay.shard)
                if first != replay.shard:
                    self.violations.append(f"{sku} lives in shards {first} and {replay.shard}")

    def _check_digest(self, shard: int, living: bytes) -> None:
        """What each owner found, what snapshots hold, and what lives in the end, is what the
        journal makes: the one rule that asks the engine."""
        replay = self.replays[shard]
        engine = Shard(shard, self.history.shards)
        lived_at, lived = self.history.lived.get(shard, (START, b""))
        cuts: dict[Position, bytes] = {}
        for number, record in enumerate(replay.lineage.records):
            following = replay.lineage.records[number + 1 : number + 2]
            for event in following[0].events if following and not record.position.sequence else ():
                if isinstance(event, Opened) and event.digest:
                    self._compare(replay, engine, event.digest, f"found at {record.position}")
            for event in record.events:
                if isinstance(event, SnapshotTaken) and event.digest:
                    self._check_cut(replay, event, cuts)
            engine.replay(record.stamp, record.events)
            if any(isinstance(event, SnapshotBegun) for event in record.events):
                cuts[record.position] = engine.digest()
            if record.position == lived_at:
                self._compare(replay, engine, lived, f"served at {lived_at}", leaps=True)
        self._compare(replay, engine, living, "served", leaps=True)
        self._check_views(replay, engine)

    def _check_cut(self, replay: Replay, event: SnapshotTaken, cuts: dict[Position, bytes]) -> None:
        """A snapshot is the state at the record where it was begun."""
        cut = Position(event.epoch, event.sequence)
        if cuts.get(cut) != event.digest:
            self.violations.append(
                f"shard {replay.shard}: snapshot {cut} has digest {event.digest.hex()}, its journal"
                f" makes {cuts.get(cut, b'').hex()}"
            )

    def _check_views(self, replay: Replay, engine: Shard) -> None:
        """Of every SKU and reservation, a shard with this journal says what the model says."""
        model = replay.model
        reads: list[Command] = [GetStock(sku) for sku in model.skus]
        reads += [
            GetReservation(name)
            for name, known in model.reservations.items()
            if known.state is not State.RESERVED or model.deadline(known) > engine.state.now
        ]
        for read in reads:
            expected, found = model.execute(read), engine.execute(read)
            if differs(expected, found):
                self.violations.append(
                    f"shard {replay.shard} ends in a state in which {read} is answered {found},"
                    f" right is {expected}"
                )

    def _compare(
        self, replay: Replay, engine: Shard, digest: bytes, where: str, *, leaps: bool = False
    ) -> None:
        """The digest, now or, if time `leaps`, when more has been forgotten."""
        found, now = engine.digest(), engine.state.now
        moments = iter(replay.windows if leaps else ())
        while found != digest:
            moment = next(moments, None)
            if moment is None:
                self.violations.append(
                    f"shard {replay.shard} is {where} with digest {digest.hex()}, its journal makes"
                    f" {engine.digest().hex()}"
                )
                break
            if moment > engine.state.now:
                engine.state.now = moment
                found = engine.digest()
        engine.state.now = now


def scope_of(command: Command) -> str | None:
    scope: str | None = getattr(command, "scope", None)
    return scope


def is_a_bug(answer: Answer) -> bool:
    """Whether the answer says that the rules themselves have failed."""
    body = answer.body
    return isinstance(body, Detail) and "engine failed" in body.message


def is_its_home(asked: Asked, answer: Answer, heard: list[Given]) -> bool:
    """Whether the caller named a home, and that shard said that it does not know."""
    home = getattr(asked.command, "home", UNKNOWN_HOME)
    return any(
        each.answer == answer and each.head is not None and each.head.shard == home
        for each in heard
    )
