"""The router over real sockets and real shards: every command answered once, and in order."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from engine import limits
from engine.codec import Position
from engine.messages import (
    Adjust,
    Answer,
    Audit,
    AuditView,
    Command,
    Commit,
    Detail,
    Find,
    GetReservation,
    GetStatistics,
    GetStock,
    Homes,
    LineRequest,
    Receive,
    Release,
    ReservationView,
    Reserve,
    SetStock,
    State,
    Status,
    StockView,
    Trace,
)
from gateway.homes import mint
from gateway.router import DOUBTS_MAX, Router
from tests.actors.peer import DEADLINE_SECONDS, until
from tests.gateway.hosts import SHARDS, Host, map_of, sku_at, two_hosts

HERE, THERE = sku_at(0), sku_at(2)
SHORT_MS = 150


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[tuple[Host, Host]]:
    async with two_hosts(tmp_path) as both:
        for shard in range(SHARDS):
            both[0].store.execute(shard, Receive(sku_at(shard), "l", 1_000_000))
        yield both


@pytest.fixture
async def router(hosts: tuple[Host, Host]) -> AsyncIterator[Router]:
    router = Router(SHARDS)
    router.update_map(1, map_of(*hosts))
    await until(lambda: router.statistics().links_up == 2)
    yield router
    await router.close()


def reserve(reservation_id: str, sku: str = HERE) -> Reserve:
    return Reserve(reservation_id, [LineRequest(sku, 1)])


def view(answer: Answer) -> ReservationView:
    assert isinstance(answer.body, ReservationView)
    return answer.body


def ids(host: Host) -> list[str]:
    return [getattr(command, "reservation_id", "") for command in host.executed]


def holds(host: Host, frames: int) -> bool:
    return len(host.held) == frames


class Replies(list[Answer]):
    """Collects answers; waits until there are so many."""

    async def wait(self, count: int) -> list[Status]:
        await until(lambda: len(self) >= count)
        return [answer.status for answer in self]


# --- to the right shard ----------------------------------------------------------------------


async def test_commands_reach_the_owner_of_their_shard(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """By SKU, by the smallest SKU of a reserve, by shard: each host sees only what it owns."""
    assert Status.OK is (await router.ask(GetStock(HERE))).status
    assert Status.OK is (await router.ask(GetStock(THERE))).status
    assert 2 == view(await router.ask(reserve("r", THERE))).home
    assert Status.OK is (await router.ask(SetStock(HERE, {"l": 1}))).status
    audits = await router.ask_all(Audit)
    assert list(range(SHARDS)) == [
        answer.body.shard for answer in audits.values() if isinstance(answer.body, AuditView)
    ]
    first, second = hosts
    assert [GetStock(HERE), SetStock(HERE, {"l": 1})] == first.executed[:2]
    assert GetStock(THERE) == second.executed[0]


async def test_statistics_come_from_every_host(router: Router, hosts: tuple[Host, Host]) -> None:
    """What concerns a process is asked of each process once."""
    answers = await router.ask_hosts(GetStatistics)
    assert {host.address for host in hosts} == answers.keys()
    assert {Status.OK} == {answer.status for answer in answers.values()}


@pytest.mark.parametrize(
    "command",
    [
        Reserve("r", []),
        Reserve("r", [LineRequest("s", 0)]),
        Reserve("", [LineRequest("s", 1)]),
        GetStock("\ud800"),
        GetStock("s" * 129),
        Receive("s", "l", 2**70),
        Audit(SHARDS),
        Audit(-1),
        GetStatistics(),
    ],
)
async def test_invalid_command_goes_nowhere(
    router: Router, hosts: tuple[Host, Host], command: Command
) -> None:
    """What a host would close the connection for is refused before it leaves, with a reason."""
    answer = await router.ask(command)
    assert Status.INVALID is answer.status
    assert isinstance(answer.body, Detail)
    assert [] == hosts[0].frames + hosts[1].frames


# --- batches ---------------------------------------------------------------------------------


async def test_one_turn_makes_one_frame_per_shard(router: Router, hosts: tuple[Host, Host]) -> None:
    """What is submitted together leaves together; while the window is full, the rest gathers."""
    replies = Replies()
    for number in range(3):
        router.submit(reserve(f"r{number}"), 5_000, replies.append)
    assert [Status.OK] * 3 == await replies.wait(3)
    assert [3] == hosts[0].frames
    hosts[0].frozen = True
    for number in range(10):
        router.submit(reserve(f"s{number}"), 5_000, replies.append)
        await until(partial(holds, hosts[0], min(number + 1, 2)))
    hosts[0].thaw()
    assert [Status.OK] * 13 == await replies.wait(13)
    assert [3, 1, 1, 8] == hosts[0].frames
    assert [f"r{n}" for n in range(3)] + [f"s{n}" for n in range(10)] == ids(hosts[0])


async def test_a_burst_is_split_into_frames(router: Router, hosts: tuple[Host, Host]) -> None:
    """No frame carries more than it may, and order is kept across them."""
    replies = Replies()
    count = 2 * limits.BATCH_COMMANDS_MAX + 1
    for number in range(count):
        router.submit(reserve(f"r{number}"), 5_000, replies.append)
    assert {Status.OK} == set(await replies.wait(count))
    assert max(hosts[0].frames) <= limits.BATCH_COMMANDS_MAX
    assert [f"r{n}" for n in range(count)] == ids(hosts[0])


async def test_heads_and_statistics_are_noted(router: Router, hosts: tuple[Host, Host]) -> None:
    """The highest position of each shard is kept, and the counters tell what went by."""
    await router.ask(reserve("r1"))
    await router.ask(reserve("r2"))
    assert {0: Position(1, 2), 1: Position(1, 2)} == router.heads
    statistics = router.statistics()
    assert {Status.OK: 2} == statistics.answers
    assert (0, 0, 2) == (statistics.in_flight, statistics.waiting, statistics.links_up)
    assert (2, 2, 0) == (statistics.frames, statistics.commands_sent, statistics.resends)
    assert 2 == statistics.homes_remembered


# --- reservations by id ----------------------------------------------------------------------


async def test_home_from_hint_memory_and_id(router: Router, hosts: tuple[Host, Host]) -> None:
    """With a hint, a memory or a minted id there is no search, and one hop."""
    minted = mint(2, 0, bytes(8))
    await router.ask(reserve("remembered", THERE))
    await router.ask(reserve(minted, THERE))
    hosts[0].store.execute(0, reserve("hinted"))
    assert State.COMMITTED is view(await router.ask(Commit("remembered"))).state
    assert State.COMMITTED is view(await router.ask(Commit(minted))).state
    assert State.COMMITTED is view(await router.ask(Commit("hinted", home=0))).state
    assert 0 == router.statistics().searches


async def test_unknown_home_is_searched_for_once(router: Router, hosts: tuple[Host, Host]) -> None:
    """An id nobody here has seen is asked of every host, forwarded, and then remembered."""
    hosts[1].store.execute(3, reserve("elsewhere", sku_at(3)))
    assert State.COMMITTED is view(await router.ask(Commit("elsewhere"))).state
    assert 3 == view(await router.ask(GetReservation("elsewhere"))).home
    assert 1 == router.statistics().searches
    assert [Commit("elsewhere", home=3), GetReservation("elsewhere", home=3)] == hosts[1].executed


@pytest.mark.parametrize("home", [0, SHARDS, limits.SHARDS_MAX - 1])
async def test_wrong_hint_costs_a_search(
    router: Router, hosts: tuple[Host, Host], home: int
) -> None:
    """A hint that is wrong, or names no shard, is only a hint."""
    hosts[1].store.execute(2, reserve("r", THERE))
    assert State.COMMITTED is view(await router.ask(Commit("r", home=home))).state
    minted = mint(1, 0, bytes(8))
    hosts[1].store.execute(2, reserve(minted, THERE))
    assert State.COMMITTED is view(await router.ask(Commit(minted))).state
    assert 2 == router.statistics().searches


async def test_nobody_knows_it(router: Router, hosts: tuple[Host, Host]) -> None:
    """Unknown, with every shard answering, is 404; so is a find, which names whom it asked."""
    assert Status.UNKNOWN_RESERVATION is (await router.ask(Commit("nobody"))).status
    assert Status.UNKNOWN_RESERVATION is (await router.ask(Commit("nobody", home=1))).status
    answer = await router.ask(Find("nobody"))
    assert Answer(Status.OK, Homes([], [0, 1, 2, 3])) == answer


async def test_two_know_it(router: Router, hosts: tuple[Host, Host]) -> None:
    """One id in two homes: the caller must say which."""
    for shard in (0, 3):
        hosts[0].store.execute(shard, reserve("twice", sku_at(shard)))
    assert Status.AMBIGUOUS_RESERVATION is (await router.ask(Commit("twice"))).status
    assert 3 == view(await router.ask(Commit("twice", home=3))).home


async def test_one_is_silent(router: Router, hosts: tuple[Host, Host]) -> None:
    """Absent cannot be said while a shard is silent; present can."""
    hosts[1].frozen = True
    answer = await router.ask(Commit("perhaps"), SHORT_MS)
    assert Status.NOT_DONE is answer.status
    hosts[1].thaw()
    hosts[1].owned = {2}
    assert Status.NOT_DONE is (await router.ask(Commit("perhaps"), SHORT_MS)).status
    hosts[0].store.execute(1, reserve("here", sku_at(1)))
    assert State.COMMITTED is view(await router.ask(Commit("here"))).state


async def test_one_is_silent_and_another_knows_it(router: Router, hosts: tuple[Host, Host]) -> None:
    """Whatever one host keeps to itself, there is time left for what another knows."""
    hosts[0].store.execute(1, reserve("here", sku_at(1)))
    hosts[1].frozen = True
    assert State.COMMITTED is view(await router.ask(Commit("here"), 1_000)).state
    assert hosts[0].deadlines_ms[-1] > 200


async def test_a_search_outlives_a_change_of_owners(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """While a shard is between owners the search goes on, and ends when it is heard from."""
    first, second = hosts
    second.store.execute(2, reserve("r", THERE))
    second.frozen = True
    answer = asyncio.ensure_future(router.ask(Commit("r")))
    await until(lambda: second.held)
    await second.die()
    router.update_map(2, map_of(first))
    first.owned = {0, 1, 2, 3}
    router.update_map(3, map_of(first, epoch=2))
    assert State.COMMITTED is view(await answer).state


async def test_release_of_an_unknown_id_leaves_a_tombstone(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """After everybody was asked, the home that was vouched for refuses the late reserve."""
    answer = await router.ask(Release("late", home=0))
    assert Status.UNKNOWN_RESERVATION is answer.status
    assert [False, True] == [each.bury for each in hosts[0].executed if isinstance(each, Release)]
    assert (await router.ask(reserve("late"))).status not in (Status.OK, Status.REPLAYED)
    minted = mint(2, 0, bytes(8))
    assert Status.UNKNOWN_RESERVATION is (await router.ask(Release(minted))).status
    assert (await router.ask(reserve(minted, THERE))).status not in (Status.OK, Status.REPLAYED)


async def test_release_without_a_voucher_leaves_nothing(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """Nobody says where it would be: 404, and a later reserve is as good as any."""
    release = Release("free", bury=True)
    assert Status.UNKNOWN_RESERVATION is (await router.ask(release)).status
    assert Status.OK is (await router.ask(reserve("free"))).status


async def test_release_with_a_wrong_hint_releases(router: Router, hosts: tuple[Host, Host]) -> None:
    """A hint that is wrong buries nothing: the reservation is found and released."""
    hosts[1].store.execute(2, reserve("r", THERE))
    assert State.RELEASED is view(await router.ask(Release("r", home=0, bury=True))).state
    assert not [each for each in hosts[0].executed if getattr(each, "bury", False)]


# --- deadlines and overload ------------------------------------------------------------------


async def test_deadline_before_and_after_sending(router: Router, hosts: tuple[Host, Host]) -> None:
    """Never sent is NOT_DONE, sent and unanswered is OUTCOME_UNKNOWN, and both come in time."""
    first, second = hosts
    router.update_map(2, map_of(second))
    first_answer = asyncio.ensure_future(router.ask(reserve("waits"), SHORT_MS))
    second.frozen = True
    answer = await router.ask(reserve("sent", THERE), SHORT_MS)
    assert Status.OUTCOME_UNKNOWN is answer.status
    assert Status.NOT_DONE is (await first_answer).status
    second.thaw()
    assert Status.REPLAYED is (await router.ask(reserve("sent", THERE))).status
    assert [] == first.executed


async def test_deadlines_travel_with_the_frame(router: Router, hosts: tuple[Host, Host]) -> None:
    """The host learns how long the most patient command of a frame will wait."""
    replies = Replies()
    router.submit(reserve("a"), 700, replies.append)
    router.submit(reserve("b"), 300, replies.append)
    await replies.wait(2)
    (milliseconds,) = hosts[0].deadlines_ms
    assert 300 < milliseconds <= 701  # rounded up


async def test_overload_sheds_reserves_first(hosts: tuple[Host, Host]) -> None:
    """New work is refused early, commits and releases only when nothing fits any more."""
    router = Router(SHARDS)
    replies = Replies()
    skus = [sku_at(shard) for shard in range(SHARDS)]
    for number in range(limits.GATEWAY_IN_FLIGHT_SHED_RESERVES):
        router.submit(reserve(f"r{number}", skus[number % SHARDS]), 60_000, replies.append)
    assert [] == replies
    router.submit(reserve("too-many"), 60_000, replies.append)
    assert [Status.OVERLOADED] == [answer.status for answer in replies]
    room = limits.GATEWAY_IN_FLIGHT_MAX - limits.GATEWAY_IN_FLIGHT_SHED_RESERVES
    for number in range(room):
        router.submit(Commit(f"r{number}", home=number % SHARDS), 60_000, replies.append)
    assert 1 == len(replies)
    router.submit(Commit("too-many", home=0), 60_000, replies.append)
    assert [Status.OVERLOADED] * 2 == [answer.status for answer in replies]
    assert 2 == router.statistics().shed
    await router.close()
    assert limits.GATEWAY_IN_FLIGHT_MAX + 2 == len(replies)
    assert {Status.OVERLOADED, Status.NOT_DONE} == {answer.status for answer in replies}


async def test_one_shard_without_owner_does_not_starve_the_others(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """So much may wait for one shard and no more; the others are served."""
    router.update_map(2, {shard: at for shard, at in map_of(*hosts).items() if shard})
    replies = Replies()
    for number in range(limits.GATEWAY_WAITING_PER_SHARD_MAX + 1):
        router.submit(reserve(f"r{number}"), 60_000, replies.append)
    assert [Status.OVERLOADED] == await replies.wait(1)
    assert Status.OK is (await router.ask(reserve("other", THERE))).status


async def test_closing_answers_everything(router: Router, hosts: tuple[Host, Host]) -> None:
    """Nobody waits for ever: what was sent is unknown, what was not is not done."""
    hosts[0].frozen = True
    router.update_map(2, {shard: at for shard, at in map_of(*hosts).items() if shard != 2})
    replies = Replies()
    router.submit(reserve("sent"), 60_000, replies.append)
    await until(lambda: hosts[0].held)
    router.submit(reserve("waits", THERE), 60_000, replies.append)
    router.submit(Commit("searched"), 60_000, replies.append)
    await router.close()
    assert 3 == len(replies)
    assert {Status.OUTCOME_UNKNOWN, Status.NOT_DONE} == {answer.status for answer in replies}
    router.submit(reserve("late"), 60_000, replies.append)
    assert Status.OVERLOADED is replies[-1].status


async def test_a_reply_that_raises_costs_only_itself(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """One caller's mistake does not keep the others of its frame from their answers."""

    def mistake(answer: Answer) -> None:
        raise RuntimeError("a bug")

    replies = Replies()
    router.submit(reserve("r1"), 5_000, mistake)
    router.submit(reserve("r2"), 5_000, replies.append)
    assert [Status.OK] == await replies.wait(1)


# --- hosts that fail, move and freeze --------------------------------------------------------


async def test_lost_link_sends_again_what_may_be(router: Router, hosts: tuple[Host, Host]) -> None:
    """The host dies: a reserve goes to the new owner, in order; a bare movement is unknown."""
    first, second = hosts
    first.frozen = True
    replies, movement = Replies(), Replies()
    for number in range(3):
        router.submit(reserve(f"r{number}"), 5_000, replies.append)
        router.submit(Adjust(HERE, "l", 1), 5_000, movement.append)
        await until(partial(holds, first, min(number + 1, 2)))
    await first.die()
    assert [Status.OUTCOME_UNKNOWN] * 2 == await movement.wait(2)
    assert [] == replies
    second.owned = {0, 1, 2, 3}
    router.update_map(2, map_of(second, epoch=2))
    assert [Status.OK] * 3 == await replies.wait(3)
    assert Status.OK is (await movement.wait(3))[2]
    assert ["r0", "r1", "r2", ""] == ids(second)
    assert 2 == router.statistics().resends


async def test_link_that_comes_back_carries_on(router: Router, hosts: tuple[Host, Host]) -> None:
    """The same host at the same address, a moment later: nobody notices but for the wait."""
    first, _ = hosts
    first.frozen = True
    answer = asyncio.ensure_future(router.ask(reserve("r")))
    await until(lambda: first.held)
    await first.die()
    await until(lambda: router.statistics().links_up == 1)
    first.frozen = False
    await first.start()
    assert Status.OK is (await answer).status


async def test_applied_but_unacknowledged_is_applied_once(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """Applied, then the answer is lost: sent again, it is found to be done."""
    first, second = hosts
    first.frozen = True
    answer = asyncio.ensure_future(router.ask(reserve("r")))
    await until(lambda: first.held)
    first.store.execute(0, reserve("r"))
    await first.die()
    second.owned = {0, 1, 2, 3}
    router.update_map(2, map_of(second, epoch=2))
    assert Status.REPLAYED is (await answer).status
    stock = (await router.ask(GetStock(HERE))).body
    assert isinstance(stock, StockView)
    assert 1 == stock.reserved


async def test_moved_names_the_new_owner(router: Router, hosts: tuple[Host, Host]) -> None:
    """A newer epoch in a MOVED answer is believed; an older one, and an older map, are not."""
    first, second = hosts
    first.owned, second.owned = {1}, {0, 2, 3}
    first.moved[0] = (7, second.address)
    assert Status.OK is (await router.ask(reserve("r1"))).status
    assert (7, second.address) == router.owners()[0]
    router.update_map(2, map_of(first, second))  # of epoch 1: older than what is known
    assert (7, second.address) == router.owners()[0]
    second.moved[0] = (6, first.address)
    assert Status.OK is (await router.ask(reserve("r2"))).status
    router.update_map(1, {})
    assert (7, second.address) == router.owners()[0]


async def test_moved_to_nobody_waits_for_the_map(router: Router, hosts: tuple[Host, Host]) -> None:
    """Between owners commands wait, also those that may not be repeated: MOVED did nothing."""
    first, second = hosts
    first.owned = {1}
    replies = Replies()
    for number in range(5):
        router.submit(reserve(f"r{number}"), 5_000, replies.append)
        router.submit(Adjust(HERE, "l", 1), 5_000, replies.append)
    await until(lambda: router.statistics().resends >= 20)
    assert [] == replies
    second.owned = {0, 2, 3}
    router.update_map(2, map_of(first, second, epoch=2))
    assert [Status.OK] * 10 == await replies.wait(10)
    assert ["r0", "", "r1", "", "r2", "", "r3", "", "r4", ""] == ids(second)


async def test_new_owner_waits_for_the_old_ones_answers(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """A planned move: what the old owner still answers counts, and what it did not take follows."""
    first, second = hosts
    first.frozen = True
    replies = Replies()
    router.submit(reserve("old"), 5_000, replies.append)
    await until(lambda: first.held)
    second.owned = {0, 2, 3}
    router.update_map(2, map_of(first) | map_of(second, epoch=2))
    router.submit(reserve("new"), 5_000, replies.append)
    first.thaw()
    assert [Status.OK] * 2 == await replies.wait(2)
    assert (["old"], ["new"]) == (ids(first), ids(second))


async def test_frozen_owner_is_left_after_a_moment(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """The map says that a frozen host has lost the shard: its frames go to the new owner."""
    first, second = hosts
    first.frozen = True
    replies, movement = Replies(), Replies()
    router.submit(reserve("r1"), 5_000, replies.append)
    router.submit(Adjust(HERE, "l", 1), 1_000, movement.append)
    await until(lambda: first.held)
    router.submit(reserve("r2"), 5_000, replies.append)
    second.owned = {0, 1, 2, 3}
    router.update_map(2, map_of(second, epoch=2))
    assert [Status.OK] * 2 == await replies.wait(2)
    assert ["r1", "r2"] == ids(second)
    assert [] == movement
    assert [Status.OUTCOME_UNKNOWN] == await movement.wait(1)


@pytest.mark.parametrize(
    ("status", "times"), [(Status.NOT_DONE, 5), (Status.OUTCOME_UNKNOWN, DOUBTS_MAX)]
)
async def test_refusals_of_the_moment_are_tried_again(
    router: Router, hosts: tuple[Host, Host], status: Status, times: int
) -> None:
    """NOT_DONE and, where harmless, OUTCOME_UNKNOWN are not the last word while there is time."""
    first, _ = hosts
    left = times

    def replaced(command: Command) -> Answer | None:
        nonlocal left
        left -= 1
        return Answer(status) if left >= 0 else None

    first.replaced = replaced
    assert Status.OK is (await router.ask(reserve("r"))).status
    assert times == router.statistics().resends
    first.replaced = lambda command: Answer(status)
    assert status is (await router.ask(reserve("r"), SHORT_MS)).status


async def test_a_command_that_breaks_its_shard_is_not_sent_for_ever(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """OUTCOME_UNKNOWN is believed the third time; the command after it is served."""
    poison = reserve("poison")
    hosts[0].replaced = lambda command: (
        Answer(Status.OUTCOME_UNKNOWN) if command == poison else None
    )
    replies, after = Replies(), Replies()
    router.submit(poison, 60_000, replies.append)
    router.submit(reserve("after"), 60_000, after.append)
    assert [Status.OUTCOME_UNKNOWN] == await replies.wait(1)
    assert [Status.OK] == await after.wait(1)
    assert 1 + DOUBTS_MAX == len(hosts[0].frames)


async def test_answers_that_were_cut_are_no_doubts(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """A host that says one thing a frame is asked for the rest, however often that takes."""
    count = 3 * DOUBTS_MAX
    frames: list[int] = []

    def replaced(command: Command) -> Answer | None:
        if len(hosts[0].frames) in frames:
            return Answer(Status.OUTCOME_UNKNOWN)
        frames.append(len(hosts[0].frames))
        return None

    hosts[0].replaced = replaced
    replies = Replies()
    for _ in range(count):
        router.submit(GetStock(HERE), 60_000, replies.append)
    assert [Status.OK] * count == await replies.wait(count)
    assert list(range(count, 0, -1)) == hosts[0].frames


@pytest.mark.parametrize("status", [Status.OVERLOADED, Status.MEMORY_FULL, Status.SHARD_STOPPED])
async def test_a_refusal_says_nothing_of_an_earlier_sending(
    router: Router, hosts: tuple[Host, Host], status: Status
) -> None:
    """Perhaps applied, then refused: that it was not applied would be a lie."""
    answers = iter([Answer(Status.OUTCOME_UNKNOWN), Answer(status)])
    hosts[0].replaced = lambda command: next(answers)
    assert Status.OUTCOME_UNKNOWN is (await router.ask(reserve("r"))).status
    assert [1, 1] == hosts[0].frames


@pytest.mark.parametrize(
    "status",
    [Status.OVERLOADED, Status.MEMORY_FULL, Status.SHARD_STOPPED, Status.INSUFFICIENT_STOCK],
)
async def test_other_refusals_are_passed_on(
    router: Router, hosts: tuple[Host, Host], status: Status
) -> None:
    """What only the caller can decide about reaches the caller at once."""
    hosts[0].replaced = lambda command: Answer(status)
    assert status is (await router.ask(reserve("r"))).status
    assert [1] == hosts[0].frames


async def test_unrepeatable_unknown_outcome_is_passed_on(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """A bare movement whose outcome the host does not know is not sent again."""
    hosts[0].replaced = lambda command: Answer(Status.OUTCOME_UNKNOWN)
    assert Status.OUTCOME_UNKNOWN is (await router.ask(Adjust(HERE, "l", 1))).status
    assert [1] == hosts[0].frames


async def test_asking_may_be_given_up(router: Router, hosts: tuple[Host, Host]) -> None:
    """Who is cancelled while waiting leaves nothing behind, and breaks nothing."""
    hosts[0].frozen = True
    waiting = asyncio.ensure_future(router.ask(reserve("r")))
    await until(lambda: hosts[0].held)
    waiting.cancel()
    hosts[0].thaw()
    assert Status.REPLAYED is (await router.ask(reserve("r"))).status
    assert 0 == router.statistics().in_flight


async def test_any_storm_answers_each_command_once(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """Owners change under load, links die: each reserve is answered OK or as its own replay."""
    first, second = hosts
    count, version = 2_000, 1
    replies: dict[int, list[Answer]] = {number: [] for number in range(count)}
    skus = [sku_at(shard) for shard in range(SHARDS)]
    for number in range(count):
        router.submit(reserve(f"r{number}", skus[number % SHARDS]), 30_000, replies[number].append)
        if number % 50 == 0:
            first.owned, second.owned = second.owned, first.owned
            version += 1
            router.update_map(version, map_of(first, second, epoch=version))
        if number % 333 == 0:
            for connection in list(first.server.connections if first.server else ()):
                connection.abort()
        if number % 10 == 0:
            await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await until(lambda: all(replies.values()))
    assert {1} == {len(answers) for answers in replies.values()}
    assert {answers[0].status for answers in replies.values()} <= {Status.OK, Status.REPLAYED}
    reserved = [first.store.execute(shard, GetStock(sku)).body for shard, sku in enumerate(skus)]
    assert count == sum(each.reserved for each in reserved if isinstance(each, StockView))


# --- traces ----------------------------------------------------------------------------------


async def test_a_traced_command_is_named_in_its_frame(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """By its place there, whenever it is sent; a frame without one carries nothing of it."""
    hosts[0].frozen = True
    replies = Replies()
    for number in range(3):
        trace = Trace(0, "a" * 32, "b" * 16, "cart") if number == 1 else None
        router.forward(reserve(f"r{number}"), 5_000, replies.append, trace)
    await until(lambda: holds(hosts[0], 1))
    router.forward(reserve("r3"), 5_000, replies.append)
    await until(lambda: holds(hosts[0], 2))
    first, second = [request for request, _ in hosts[0].held]

    assert [Trace(1, "a" * 32, "b" * 16, "cart")] == first.traces
    assert second.traces is None
    hosts[0].thaw()
    await until(lambda: len(replies) == 4)
    assert {} == router._traces, "what is answered is forgotten"
