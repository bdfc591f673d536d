"""A search over all hosts, and what follows from what they say."""

import pytest

from engine.messages import Answer, Detail, Homes, Status
from gateway.search import Search, Verdict

SILENT = Answer(Status.NOT_DONE)


def found(shards: list[int], asked: list[int]) -> Answer:
    return Answer(Status.OK, Homes(shards, asked))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([found([1], [0, 1]), found([], [2, 3])], Verdict.FOUND),
        ([found([], [0, 1]), found([], [2, 3])], Verdict.ABSENT),
        ([found([0], [0, 1]), found([3], [2, 3])], Verdict.AMBIGUOUS),
        ([found([0, 1], [0, 1]), SILENT], Verdict.AMBIGUOUS),
        ([found([], [0, 1]), SILENT], Verdict.UNKNOWN),
        ([found([], [0, 1]), found([], [3])], Verdict.UNKNOWN),
        ([found([], [0, 1]), Answer(Status.OK, Detail("?"))], Verdict.UNKNOWN),
        ([found([1], [0, 1]), SILENT], Verdict.FOUND),
        ([found([1], [0, 1]), found([1], [1, 2, 3])], Verdict.FOUND),
        ([found([1], [0, 1]), Answer(Status.FORBIDDEN)], Verdict.FORBIDDEN),
    ],
)
def test_verdict(answers: list[Answer], expected: Verdict) -> None:
    """One home is found; none means absent only if every shard was asked; two are ambiguous."""
    done: list[Verdict] = []
    search = Search(len(answers), lambda search: done.append(search.verdict(4)))
    for answer in answers:
        assert not done
        search.hear(answer)
    assert [expected] == done


@pytest.mark.parametrize(
    ("answers", "stopped", "expected"),
    [
        ([found([], [0, 1, 2])], {3}, Verdict.STOPPED),
        ([found([], [0, 1]), SILENT], {2, 3}, Verdict.STOPPED),
        ([found([], [0, 1]), SILENT], {3}, Verdict.UNKNOWN),
        ([found([1], [0, 1, 2])], {3}, Verdict.FOUND),
        ([found([0, 1], [0, 1, 2])], {3}, Verdict.AMBIGUOUS),
        ([found([], [0, 1, 2, 3])], {3}, Verdict.ABSENT),
    ],
)
def test_verdict_beside_stopped_shards(
    answers: list[Answer], stopped: set[int], expected: Verdict
) -> None:
    """A stopped shard hides what it had; it does not hide what the others have."""
    done: list[Verdict] = []
    search = Search(len(answers), lambda search: done.append(search.verdict(4, stopped)))
    for answer in answers:
        search.hear(answer)
    assert [expected] == done
