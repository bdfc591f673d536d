"""A world without a network: real shards, journals in memory, and everything that happens told.

Clients ask, an owner decides in batches, appends, and answers; answers get lost, owners die before
or after their append, and others recover the shard from its journal. Time is a number. What comes
of it is a `History` that must be judged green: it is what its judge is tested with.
"""

from copy import deepcopy
from random import Random
from typing import Any, Final

import msgspec

from engine import limits
from engine.codec import GENESIS, START, Position, decode_record, encode_record
from engine.messages import (
    Answer,
    Audit,
    AuditView,
    Claimed,
    Command,
    Event,
    Find,
    Genesis,
    GetAvailability,
    GetChannel,
    GetReservation,
    GetStock,
    Head,
    Homes,
    ListShortfalls,
    Opened,
    Passed,
    Release,
    ReservationCommand,
    Reserve,
    SetChannel,
    SnapshotBegun,
    SnapshotTaken,
    Status,
)
from engine.placement import HASH, home_of, shard_of
from engine.shard import Shard
from tests.engine.comparison import CHANNELS, NAMES, SKUS, START_US, wired
from tests.engine.traffic import Traffic
from tests.simulation.history import Arrived, Asked, Given, History, Stored, Told
from tests.simulation.quick_model import QuickModel

MILLISECOND: Final = 1_000_000
UNKNOWN: Final = Answer(Status.OUTCOME_UNKNOWN)
NOT_DONE: Final = Answer(Status.NOT_DONE)


class Tenure:
    """One shard, its present owner, and a model to aim by."""

    def __init__(self, number: int, shards: int) -> None:
        self.number = number
        self.shard = Shard(number, shards)
        self.model = QuickModel(number, shards)
        self.position, self.checksum, self.pointer = START, 0, START
        self.begun = START
        self.host = ""
        self.skew_us = 0

    @property
    def head(self) -> Head:
        return Head(self.number, *self.position)


class SmallWorld:
    """`run` it, then look at `history`."""

    def __init__(
        self, seed: int, shards: int = 2, window_seconds: int = 3_600, *, calm: bool = False
    ) -> None:
        """`calm`: nobody dies, and every answer is heard."""
        self.calm = calm
        self.random = Random(seed)
        self.traffic = Traffic(self.random)
        self.history = History(shards)
        self.at = 0
        self.window_us = window_seconds * limits.SECOND_US
        self.tenures = [Tenure(number, shards) for number in range(shards)]
        for tenure in self.tenures:
            self.history.lineage[tenure.number] = []
            self.write(tenure, GENESIS, START_US, [Genesis("cluster", shards, HASH)])
            self.take_over(tenure)
        for command in self.traffic.opening():
            for tenure in self.tenures:
                if isinstance(command, SetChannel):
                    self.batch(tenure, [msgspec.structs.replace(command, shard=tenure.number)])
                elif shard_of(command.sku, shards) == tenure.number:  # type: ignore[union-attr]
                    self.batch(tenure, [command])

    def run(self, batches: int) -> History:
        """So many batches, and what happens between them; then all is quiet."""
        for _ in range(batches):
            self.wait()
            tenure = self.random.choice(self.tenures)
            match self.random.randrange(12):
                case 0:
                    self.take_over(tenure)
                case 1:
                    self.announce(tenure)
                case 2:
                    self.audit(tenure)
                case 3:
                    scope = self.random.choice([None, *CHANNELS])
                    self.find(self.random.choice(NAMES), scope)
            commands = [self.command(tenure) for _ in range(self.random.randint(1, 4))]
            here = [command for command in commands if self.home(command, tenure) is tenure]
            self.batch(tenure, here)
        for tenure in self.tenures:
            self.history.digests[tenure.number] = tenure.shard.digest()
        return self.history

    # --- time ---

    def wait(self) -> None:
        """Until something is due, or just for a while."""
        most = self.random.choice([1, 10, 1_000, 7_000, 30_000])
        self.pass_by(self.random.randint(1, most))

    def pass_by(self, milliseconds: int = 1) -> int:
        self.at += milliseconds * MILLISECOND
        return self.at

    def clock(self, tenure: Tenure) -> int:
        """What the owner's clock shows: it does not go back behind a stamp, and then runs on."""
        now = START_US + self.at // 1_000 + tenure.skew_us
        behind = max(0, tenure.shard.state.now - now)
        tenure.skew_us += behind
        return now + behind

    # --- the journal ---

    def write(self, tenure: Tenure, position: Position, stamp: int, events: list[Any]) -> None:
        previous = tenure.checksum if position.sequence and position != GENESIS else 0
        number = tenure.number
        record, checksum = encode_record(number, position, stamp, previous, tenure.pointer, events)
        tenure.position, tenure.checksum = position, checksum
        self.history.lineage[number].append((position, record))
        self.history.stored.append(Stored(number, position, record, self.pass_by()))

    def next(self, tenure: Tenure) -> Position:
        return Position(tenure.position.epoch, tenure.position.sequence + 1)

    def take_over(self, tenure: Tenure) -> None:
        """Somebody else claims the shard, and recovers it from its journal."""
        (epoch, sequence), checksum = tenure.position, tenure.checksum
        tenure.host = f"host-{self.random.randrange(3)}"
        tenure.skew_us = self.random.randrange(3) * limits.SECOND_US
        recovered = Shard(tenure.number, self.history.shards)
        for position, data in self.history.lineage[tenure.number]:
            record = decode_record(data, tenure.number, position)
            recovered.replay(record.stamp, record.events)
        tenure.shard = recovered
        digest = recovered.digest()
        claim: list[Event] = [Claimed(b"nonce", tenure.host)]
        stamp = START_US + self.at // 1_000 + tenure.skew_us
        self.write(tenure, Position(epoch + 1, 0), stamp, claim)
        self.pass_by()
        stamp = max(stamp, self.clock(tenure))
        opened = Opened(
            *(epoch, sequence, checksum, digest, stamp, stamp + limits.GRACE_US),
            *(self.window_us, 10 * self.window_us, 5 * self.window_us),
        )
        recovered.replay(stamp, [opened])
        self.write(tenure, Position(epoch + 1, 1), stamp, [opened])
        tenure.model.opened(opened.grace_until)
        tenure.model.finished_window_us = opened.finished_window_us
        tenure.model.returns_window_us = opened.returns_window_us
        tenure.model.keys_window_us = opened.keys_window_us
        tenure.model.begin(stamp)

    def announce(self, tenure: Tenure) -> None:
        """A snapshot is begun, or taken."""
        event: SnapshotBegun | SnapshotTaken = SnapshotBegun()
        begun, tenure.begun = tenure.begun, START
        if begun != START:
            event, tenure.pointer = SnapshotTaken(*begun, 1, b""), begun
        else:
            tenure.begun = self.next(tenure)
        self.batch(tenure, [], [event])

    # --- commands ---

    def home(self, command: Command, aim: Tenure) -> Tenure:
        """Who the command is for; anybody, if its id is known nowhere."""
        if isinstance(command, Reserve):
            skus = [line.sku for line in command.lines]
            return self.tenures[home_of(skus, self.history.shards)]
        sku = getattr(command, "sku", None)
        return aim if sku is None else self.tenures[shard_of(sku, self.history.shards)]

    def command(self, tenure: Tenure) -> Command:
        if self.random.randrange(4) == 0:
            return self.read(tenure)
        command = self.traffic.command(tenure.model)
        if isinstance(command, SetChannel):
            return msgspec.structs.replace(command, shard=tenure.number)
        if isinstance(command, ReservationCommand):
            return msgspec.structs.replace(command, home=tenure.number)
        return command

    def read(self, tenure: Tenure) -> Command:
        sku = self.random.choice([*SKUS, "chimera"])
        channel = self.random.choice([None, *CHANNELS])
        reads: list[Command] = [
            GetReservation(self.random.choice(NAMES), tenure.number, channel),
            GetReservation(self.random.choice(NAMES), tenure.number),
            GetStock(sku),
            GetAvailability(sku, channel),
            GetChannel(tenure.number, channel or "nobody"),
            ListShortfalls(tenure.number),
        ]
        return self.random.choice(reads)

    def ask(self, command: Command) -> int:
        call = len(self.history.asked)
        asked = command
        if isinstance(command, Release):
            asked = msgspec.structs.replace(command, bury=False)
        self.history.asked.append(Asked(call, "till", asked, self.at))
        return call

    def tell(self, call: int, answer: Answer) -> None:
        self.history.told.append(Told(call, answer, self.pass_by()))

    def answer(self, tenure: Tenure, call: int, command: Command, answer: Answer, at: int) -> None:
        """A host answers, and mostly the client hears it; `at`: when the command reached it."""
        given = Given(tenure.host, command, answer, tenure.head, at, self.pass_by())
        self.history.given.append(given)
        self.tell(call, answer if self.calm or self.random.randrange(10) else UNKNOWN)

    def batch(
        self, tenure: Tenure, commands: list[Command], announced: list[Event] | None = None
    ) -> None:
        """One batch; now and then its owner dies of it."""
        fate = 9 if self.calm or announced else self.random.randrange(30)
        if fate == 0 and commands:
            self.tell(self.ask(commands[0]), NOT_DONE)
            commands = commands[1:]
        calls = [self.ask(command) for command in commands]
        arrived = self.pass_by()
        self.history.arrived += [Arrived(tenure.host, each, arrived) for each in commands]
        saved = deepcopy(tenure.model) if fate == 1 else tenure.model
        now = self.clock(tenure)
        tenure.shard.begin(now)
        tenure.model.begin(now)
        answers = [wired(tenure.shard.execute(command)) for command in commands]
        for command in commands:
            tenure.model.execute(command)
        events = [*tenure.shard.close(), *(announced or [])]
        if events and fate != 1:
            self.write(tenure, self.next(tenure), now, events)
        if fate in (1, 2):
            tenure.model = saved
            for call in calls:
                self.tell(call, UNKNOWN)
            self.take_over(tenure)
            return
        for call, command, answer in zip(calls, commands, answers, strict=True):
            self.answer(tenure, call, command, answer, arrived)
        if events and fate == 3:
            self.write(tenure, self.next(tenure), now, [Passed()])

    def audit(self, tenure: Tenure) -> None:
        command = Audit(tenure.number)
        call, arrived = self.ask(command), self.pass_by()
        answer = tenure.shard.execute(command)
        assert isinstance(answer.body, AuditView)
        answer.body.epoch, answer.body.sequence = tenure.position
        self.history.given.append(
            Given(tenure.host, command, answer, None, arrived, self.pass_by())
        )
        self.tell(call, answer)

    def find(self, name: str, scope: str | None = None) -> None:
        """Ask every shard who knows a reservation."""
        command = Find(name, scope)
        call, known = self.ask(command), list[int]()
        for tenure in self.tenures:
            self.batch(tenure, [])
            arrived = self.pass_by()
            here = [tenure.number] if tenure.shard.knows(name, scope) else []
            known += here
            answer = Answer(Status.OK, Homes(here, [tenure.number]))
            self.history.given.append(
                Given(tenure.host, command, answer, tenure.head, arrived, self.pass_by())
            )
        self.tell(call, Answer(Status.OK, Homes(known, list(range(self.history.shards)))))
