"""What a host tells when it is scraped: plain counters, read once, no SKU in any label."""

import asyncio
from typing import TYPE_CHECKING, Final

from actors.owner import Owner
from actors.phase import ENDED, Phase
from actors.tally import Tally
from engine import limits
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
        Sample("onhand_marks_failed_total", [], host.marks_failed),
        *_comings_and_goings(host),
        *_lags(host),
        *_archive(host),
        *_history(host),
        *_shards(host),
        *_audits(host),
        *host.around(),
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
    found, now = [], asyncio.get_running_loop().time()
    for number, server in enumerate(host.servers):
        labels, tally = [("server", str(number))], server.tally
        seconds = Histogram(list(Tally.SECONDS), list(tally.seconds), tally.elapsed)
        on_it = [
            each for each in host.owners if server_of(each.number, len(host.servers)) == number
        ]
        silences = [now - each.proven_at for each in on_it if each.phase is Phase.SERVING]
        appenders = [
            each.appender for each in on_it if each.appender is not None and each.phase not in ENDED
        ]
        retried = tally.retried + sum(each.retried for each in appenders)
        resent = tally.resent + sum(each.resent for each in appenders)
        found += [
            Sample("onhand_journal_up", labels, float(server.journal.trouble is None)),
            Sample("onhand_journal_memory_ratio", labels, server.fill),
            Sample("onhand_journal_appends_total", labels, tally.appends),
            Sample("onhand_journal_appended_bytes_total", labels, tally.appended_bytes),
            Sample("onhand_journal_barriers_total", labels, tally.barriers),
            Sample("onhand_journal_append_seconds", labels, seconds),
            Sample("onhand_journal_retries_total", labels, retried),
            Sample("onhand_journal_resent_total", labels, resent),
            Sample("onhand_journal_silence_seconds", labels, max(silences, default=0.0)),
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
    snapshots = sum(server.tally.snapshots for server in host.servers) + sum(
        each.snapshotter.count
        for each in owners
        if each.snapshotter is not None and each.phase not in ENDED
    )
    samples.append(Sample("onhand_snapshots_total", [], snapshots))
    return samples


def _comings_and_goings(host: "Host") -> list[Sample]:
    """How long shards took to come up, and how their owners ended."""
    tallies = [server.tally for server in host.servers]
    opened = [sum(each) for each in zip(*(tally.opened for tally in tallies), strict=True)]
    opening = sum(tally.opening for tally in tallies)
    coming = (Phase.CLAIMING, Phase.RECOVERING)
    return [
        Sample("onhand_recovery_seconds", [], Histogram(list(Tally.OPENING), opened, opening)),
        Sample(
            "onhand_recovering_records",
            [],
            sum(each.progress for each in host.owners if each.phase in coming),
        ),
        *(
            Sample(
                "onhand_owners_ended_total",
                [("phase", phase.value)],
                sum(tally.ended.get(phase.value, 0) for tally in tallies),
            )
            for phase in Phase
            if phase in ENDED
        ),
    ]


def _lags(host: "Host") -> list[Sample]:
    """How far the worst of the shards that are served is from where it ought to be."""
    now = asyncio.get_running_loop().time()
    serving = [each for each in host.owners if each.phase is Phase.SERVING]
    snapshotters = [each.snapshotter for each in serving if each.snapshotter is not None]
    queued = max((len(each.inbox) for each in serving), default=0)
    remembered = max((each.shard.state.remembered for each in serving), default=0)
    debts = [each.debt for each in snapshotters]
    clocks = [each.clock_error_seconds for each in serving]
    return [
        Sample("onhand_clock_error_seconds", [], max(clocks, key=abs, default=0.0)),
        Sample(
            "onhand_archive_lag_seconds",
            [],
            max((each.lag(now) for each in snapshotters), default=0.0),
        ),
        Sample("onhand_unsnapshotted_events", [], sum(events for events, _ in debts)),
        Sample("onhand_unsnapshotted_bytes", [], sum(written for _, written in debts)),
        Sample("onhand_queue_ratio", [], queued / limits.SHARD_QUEUE_COMMANDS_MAX),
        Sample("onhand_remembered_ratio", [], remembered / host.remembered_max),
    ]


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
