"""A host and dedicated shards: commands come to the shard that their sender names, or by hash."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from actors.phase import Phase
from engine.messages import (
    Answer,
    Audit,
    AuditView,
    Bind,
    Command,
    Dedicate,
    DedicatedTo,
    Find,
    GetBinding,
    GetStock,
    GetStockAsOf,
    Homes,
    LineRequest,
    ListMovements,
    Receive,
    Reserve,
    Settle,
    Status,
)
from tests.actors.servers import eventually
from tests.actors.tenure import SKUS, Tenure
from tests.actors.trial import BUSY, Trial, timeless

HOT, LIVES = SKUS[0], 2
STEPS: Sequence[Command] = (Bind(LIVES, HOT), Dedicate(HOT, LIVES), Settle(LIVES, HOT))
QUESTIONS = [GetStockAsOf(HOT, 1), ListMovements(HOT)]


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path, shards=2)


async def settled(trial: Trial) -> Tenure:
    """A host of all shards, one of which is the SKU's."""
    host = Tenure(trial, dedicated=1)
    await host.own(0, 1, LIVES)
    for step in STEPS:
        assert [Status.OK] == await host.statuses(step)
    return host


@timeless
async def test_where_the_sender_says(trial: Trial) -> None:
    """What names the SKU goes by hash, or to the dedicated shard that the request names."""
    host = await settled(trial)
    elsewhere = Answer(Status.DEDICATED, DedicatedTo(HOT, LIVES))
    receive = Receive(HOT, "north", 5)

    assert [elsewhere] == await host.ask(receive)
    commands: list[Command] = [receive, Reserve("cart", [LineRequest(HOT, 1)]), GetBinding(LIVES)]
    done = await host.ask(*commands, dedicated=LIVES)
    assert [Status.OK] * 3 == [each.status for each in done]
    assert Homes([LIVES], [0, 1, LIVES]) == (await host.ask(Find("cart"), dedicated=LIVES))[0].body
    assert [elsewhere] == await host.ask(receive, dedicated=0), "that is no dedicated shard"
    await host.host.stop()


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda each: type(each).__name__)
@timeless
async def test_the_past_of_a_sku_that_lives_elsewhere(trial: Trial, question: Command) -> None:
    """Its hashed shard has none, and says where to ask."""
    host = await settled(trial)

    assert Answer(Status.DEDICATED, DedicatedTo(HOT, LIVES)) == (await host.ask(question))[0]
    await host.host.stop()


@pytest.mark.parametrize("question", [GetStock(HOT), *QUESTIONS])
@timeless
async def test_nobody_is_told_too_early(trial: Trial, question: Command) -> None:
    """Where a SKU lives is said once that is journaled, and not before."""
    host = Tenure(trial, dedicated=1)
    await host.own(0, 1, LIVES)
    await host.ask(STEPS[0])
    host.journal.faults = dict.fromkeys(range(len(host.journal.operations), 10_000), BUSY)
    declared = host.send(STEPS[1])
    await eventually(lambda: HOT in host.owner(0).shard.state.dedications.dedicated)
    told = host.send(question)

    assert ([], []) == (declared, told)
    host.journal.faults = {}
    await eventually(lambda: bool(told))
    assert [Answer(Status.DEDICATED, DedicatedTo(HOT, LIVES))] == told[0].answers
    await host.host.stop()


@timeless
async def test_it_is_audited(trial: Trial) -> None:
    """Both journals are replayed beside their shards, and what both say of it is compared: memory
    that has lost the declaration is found out."""
    host = await settled(trial)
    await host.ask(Receive(HOT, "north", 5), dedicated=LIVES)
    for shard, units in ((0, 0), (LIVES, 5)):
        view = (await host.ask(Audit(shard)))[0].body
        assert isinstance(view, AuditView)
        assert ([], units) == (view.findings, view.on_hand)
        assert view.replayed > 0

    host.owner(0).shard.state.dedications.dedicated.clear()
    view = (await host.ask(Audit(0)))[0].body
    assert isinstance(view, AuditView)
    assert any("dedicated" in each for each in view.findings)
    await host.host.stop()


@timeless
async def test_it_is_recovered(trial: Trial) -> None:
    """The next owner of either shard knows it too."""
    first = await settled(trial)
    await first.ask(Receive(HOT, "north", 5), dedicated=LIVES)
    await first.host.stop()
    again = Tenure(trial, name="another", dedicated=1)
    await again.own(0, LIVES)

    assert [Status.DEDICATED] == await again.statuses(Receive(HOT, "north", 5))
    assert [Status.OK] == [
        each.status for each in await again.ask(Receive(HOT, "north", 5), dedicated=LIVES)
    ]
    assert {Phase.SERVING} == {each.phase for each in again.host.owners}
    await again.host.stop()
