"""The board: who lags is told at once, and only what has changed; the others wait."""

import pytest

from actors.map_board import MapBoard
from engine import limits
from engine.messages import Answer, GetMap, MapView, RouteView, Status
from tests.actors.peer import DEADLINE_SECONDS, until

HERE, THERE = (3, "unix:/here"), (5, "unix:/there")


class Caller:
    """Asks a board, and keeps what it is told."""

    def __init__(self, board: MapBoard) -> None:
        self.board = board
        self.told: list[Answer] = []
        self.run, self.version = "", -1

    def ask(self, seconds: float = DEADLINE_SECONDS) -> None:
        self.board.ask(GetMap(self.run, self.version), seconds, self._hear)

    def _hear(self, answer: Answer) -> None:
        self.told.append(answer)
        if isinstance(answer.body, MapView):
            self.run, self.version = answer.body.run, answer.body.version

    @property
    def view(self) -> MapView:
        body = self.told[-1].body
        assert isinstance(body, MapView)
        return body


@pytest.fixture
async def board() -> MapBoard:
    board = MapBoard("secret", 3)
    board.post(7, {0: HERE, 2: THERE}, {1}, {"c", "a"})
    return board


async def test_who_knows_nothing_is_told_everything(board: MapBoard) -> None:
    """Every shard, that nobody owns it, which have stopped, who lives; and no secret."""
    caller = Caller(board)
    caller.ask()
    routes = [RouteView(0, *HERE), RouteView(1, 0, ""), RouteView(2, *THERE)]
    assert MapView(caller.run, 7, 3, routes, [1], ["a", "c"]) == caller.view
    assert caller.run
    assert "secret" not in caller.run
    assert (HERE, (0, "")) == (board.owner(0), board.owner(1))


async def test_who_has_the_newest_waits_for_the_next(board: MapBoard) -> None:
    """Nothing is said before there is something; then just what has changed, to everybody."""
    callers = [Caller(board) for _ in range(3)]
    for caller in callers:
        caller.ask()
        caller.ask()
    assert [1] * 3 == [len(caller.told) for caller in callers]
    board.post(8, {0: THERE, 2: THERE})
    for caller in callers:
        assert MapView(caller.run, 8, 3, [RouteView(0, *THERE)], []) == caller.view
    assert 0 == board.waiting


async def test_changes_add_up(board: MapBoard) -> None:
    """Who has missed some versions gets all that has changed since its own."""
    caller = Caller(board)
    caller.ask()
    board.post(8, {2: THERE})
    board.post(9, {1: HERE, 2: THERE})
    caller.ask()
    assert [RouteView(0, 0, ""), RouteView(1, *HERE)] == caller.view.routes


async def test_changes_that_were_missed_here_are_not_kept_from_anybody(board: MapBoard) -> None:
    """A board that has missed a version cannot tell what has changed, and tells everything."""
    caller = Caller(board)
    caller.ask()
    caller.version = 8  # in which somebody else has told it something that we have not seen
    board.post(9, {0: HERE, 2: THERE})
    caller.ask()
    assert 3 == len(caller.view.routes)
    board.post(10, {0: HERE})
    caller.ask()
    assert [RouteView(2, 0, "")] == caller.view.routes


async def test_nothing_new_is_said_in_time(board: MapBoard) -> None:
    """At its deadline a question is answered with the version that is known, and no routes."""
    caller = Caller(board)
    caller.ask()
    caller.ask(0.01)
    await until(lambda: len(caller.told) == 2)
    assert (7, [], [1]) == (caller.view.version, caller.view.routes, caller.view.stopped)
    board.post(8, {})
    assert 2 == len(caller.told)


async def test_an_older_map_changes_nothing(board: MapBoard) -> None:
    """Maps may come late; who waits goes on waiting."""
    caller = Caller(board)
    caller.ask()
    caller.ask()
    board.post(7, {})
    board.post(6, {})
    assert (1, HERE) == (len(caller.told), board.owner(0))


async def test_another_life_of_the_engine(board: MapBoard) -> None:
    """Versions of another life mean nothing here: everything is told."""
    caller = Caller(board)
    caller.run, caller.version = "another", 99
    caller.ask()
    assert (7, 3) == (caller.view.version, len(caller.view.routes))


async def test_who_was_told_nothing_has_nothing_to_tell() -> None:
    """A process that the coordinator has not yet spoken to waits as well, and then says so."""
    board = MapBoard("secret", 1)
    hasty, patient = Caller(board), Caller(board)
    hasty.ask(0.01)
    patient.ask()
    await until(lambda: bool(hasty.told))
    assert [Answer(Status.NOT_DONE)] == hasty.told
    board.post(1, {})
    assert [RouteView(0, 0, "")] == patient.view.routes


async def test_not_too_many_wait(board: MapBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a question is answered at once; whoever waits goes on waiting."""
    monkeypatch.setattr(limits, "MAP_WAITERS_MAX", 2)
    callers = [Caller(board) for _ in range(3)]
    for caller in callers:
        caller.ask()
        caller.ask()
    assert [1, 1, 2] == [len(caller.told) for caller in callers]
    board.post(8, {})
    assert [2, 2, 2] == [len(caller.told) for caller in callers]


async def test_many_questions_leave_nothing_behind(board: MapBoard) -> None:
    """What expires is gone, in whatever order."""
    caller = Caller(board)
    caller.ask()
    for seconds in (0.02, 0.001, 0.01):
        caller.ask(seconds)
    assert 3 == board.waiting
    await until(lambda: board.waiting == 0)
    assert 4 == len(caller.told)


async def test_nobody_waits_for_what_is_closed(board: MapBoard) -> None:
    """Who waits when the process is to end is told that nothing has changed, and who comes late
    at once."""
    early, late = Caller(board), Caller(board)
    early.ask()
    early.ask()
    board.close()
    late.ask()
    late.ask()
    assert [2, 2] == [len(each.told) for each in (early, late)]
    assert 0 == board.waiting


async def test_those_who_know_the_same_share_an_answer(board: MapBoard) -> None:
    """A change is put together once for each version that somebody waits with."""
    callers = [Caller(board) for _ in range(3)]
    for caller in callers:
        caller.ask()
        caller.ask()
    board.post(8, {0: (9, "b")})
    assert [2, 2, 2] == [len(caller.told) for caller in callers]
    first, *others = [caller.told[-1] for caller in callers]
    assert [first, first] == others
    assert all(each is first for each in others)
