"""What a host tells when it is scraped: plain counters, read once, no SKU in any label."""

import asyncio
from typing import TYPE_CHECKING, Final

from actors.owner import Owner, Phase
from actors.tally import Tally
from engine.messages import STATE_NAMES, Histogram, Sample, State, Status
from engine.placement import server_of

if TYPE_CHECKING:
    from actors.host import Host

_STATUSES: Final = {int(status): status.name.lower() for status in Status}


def measure(host: "Host") -> list[Sample]:
    """The samples of one host at this moment."""
    return [
        *_outcomes([server.tally for server in host.servers]),
        *_journal(host),
        *_archive(host),
        *_history(host),
        *_shards(host),
        *_audits(host),
    ]


def _outcomes(tallies: list[Tally]) -> list[Sample]:
    """Of all servers together: which one a command's shard is on is not the command's business."""
    sums: dict[tuple[str, int], int] = {}
    batch, batched = [0] * (len(Tally.BATCH) + 1), 0
    for tally in tallies:
        for command, counts in tally.outcomes.items():
            for status, count in enumerate(counts):
                key = command.__name__.lower(), status
                sums[key] = sums.get(key, 0) + count
        batch = [one + other for one, other in zip(batch, tally.batch, strict=True)]
        batched += tally.batched
    found = [
        Sample(
            "onhand_commands_total", [("command", command), ("outcome", _STATUSES[status])], count
        )
        for (command, status), count in sums.items()
        if count
    ]
    bounds = [float(n) for n in Tally.BATCH]
    return [*found, Sample("onhand_batch_events", [], Histogram(bounds, batch, float(batched)))]


def _journal(host: "Host") -> list[Sample]:
    """Of each server that the journal is on, by its number."""
    found = []
    for number, server in enumerate(host.servers):
        labels, tally = [("server", str(number))], server.tally
        seconds = Histogram(list(Tally.SECONDS), list(tally.seconds), tally.elapsed)
        on_it = [
            each.appender
            for each in host.owners
            if each.appender is not None and server_of(each.number, len(host.servers)) == number
        ]
        found += [
            Sample("onhand_journal_up", labels, float(server.journal.trouble is None)),
            Sample("onhand_journal_memory_ratio", labels, server.fill),
            Sample("onhand_journal_appends_total", labels, tally.appends),
            Sample("onhand_journal_appended_bytes_total", labels, tally.appended_bytes),
            Sample("onhand_journal_barriers_total", labels, tally.barriers),
            Sample("onhand_journal_append_seconds", labels, seconds),
            Sample("onhand_journal_retries_total", labels, sum(each.retried for each in on_it)),
            Sample("onhand_journal_resent_total", labels, sum(each.resent for each in on_it)),
        ]
    return found


def _archive(host: "Host") -> list[Sample]:
    archiver = host.archiver
    if archiver is None:
        return []
    return [
        Sample("onhand_archive_errors_total", [], archiver.errors),
        Sample("onhand_archive_segments_total", [], archiver.segments),
        Sample("onhand_archive_bytes_total", [], archiver.bytes),
        Sample("onhand_archive_snapshots_total", [], archiver.snapshots),
    ]


def _history(host: "Host") -> list[Sample]:
    """What was asked about the past, and what it took."""
    historian = host.historian
    return [
        Sample("onhand_history_questions_total", [("outcome", "ended")], historian.answered),
        Sample("onhand_history_questions_total", [("outcome", "overloaded")], historian.refused),
        Sample("onhand_history_questions_total", [("outcome", "damaged")], historian.damaged),
        Sample("onhand_history_records_total", [], historian.replayed),
    ]


def _in_flight(owner: Owner) -> int:
    return sum(len(portion.commands) for portion in owner.in_flight)


def _shards(host: "Host") -> list[Sample]:
    owners = host.owners
    serving = [each for each in owners if each.phase is Phase.SERVING]
    samples = [
        Sample("onhand_queued_commands", [], sum(len(each.inbox) for each in owners)),
        Sample("onhand_in_flight_commands", [], sum(map(_in_flight, owners))),
        Sample("onhand_skus", [], sum(each.shard.state.skus.size for each in serving)),
        Sample("onhand_shortfalls", [], sum(len(each.shard.state.shortfalls) for each in serving)),
        Sample("onhand_remembered", [], sum(each.shard.state.remembered for each in serving)),
    ]
    for phase in Phase:
        count = sum(each.phase is phase for each in owners)
        samples.append(Sample("onhand_shards", [("phase", phase.value)], count))
    for state in State:
        count = sum(each.shard.state.counts[state] for each in serving)
        samples.append(Sample("onhand_reservations", [("state", STATE_NAMES[state])], count))
    snapshots = sum(each.snapshotter.count for each in owners if each.snapshotter is not None)
    samples.append(Sample("onhand_snapshots_total", [], snapshots))
    return samples


def _audits(host: "Host") -> list[Sample]:
    """How many there were, and what the newest of each shard that is served has found."""
    turns, now = host.turns, asyncio.get_running_loop().time()
    samples = [
        Sample("onhand_audits_total", [("outcome", outcome)], count)
        for outcome, count in (
            ("clean", turns.clean),
            ("drifted", turns.drifted),
            ("incomplete", turns.incomplete),
        )
    ]
    for owner in host.owners:
        last = owner.auditor.last if owner.auditor is not None else None
        if last is None or owner.phase is not Phase.SERVING:
            continue
        labels, view = [("shard", str(owner.number))], last.view
        samples += [
            Sample("onhand_drift", labels, view.drift),
            Sample("onhand_journal_damage", labels, view.damage),
            Sample("onhand_audit_complete", labels, float(view.complete)),
            Sample("onhand_audit_age_seconds", labels, now - last.ended_at),
            Sample("onhand_audit_seconds", labels, last.seconds),
            Sample("onhand_audit_records", labels, view.replayed),
        ]
    return samples
