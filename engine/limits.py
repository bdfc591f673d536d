"""Every bound of Onhand in one place, related to each other by the assertions at the end.

Nothing in Onhand grows without a bound: frames, bodies, lines, queues, batches, time and memory all
end at a number on this page. A limit that an operator may change is a default here and a field of
`actors.config.Settings`; all the others are part of the formats and change only with them.

Units stand last in the names. `_max` is inclusive.
"""

from typing import Final

# --- what callers may send -------------------------------------------------------------------

ID_PATTERN: Final = r"^[A-Za-z0-9._:-]{1,128}$"
ID_CHARS_MAX: Final = 128
QUANTITY_MAX: Final = 2**31 - 1
"""Largest quantity of one line or movement, and largest on_hand at a location, in units."""
COUNTER_MAX: Final = 2**53 - 1
"""Largest sum, version or sequence: what a JSON reader may hold exactly."""
LINES_MAX: Final = 100
MOVEMENTS_MAX: Final = 100
PARTS_MAX: Final = 500
"""Places, line by line, that the units of one reservation sit at, and pools they came out of."""
CHANNELS_MAX: Final = 1_000
LOCATIONS_MAX: Final = 256
"""Locations of one SKU, and of one channel's list."""
POOLS_MAX: Final = 64
TEXT_CHARS_MAX: Final = 256
"""`reason` and `reference` of a movement."""
TTL_SECONDS_DEFAULT: Final = 600
TTL_SECONDS_MAX: Final = 86_400

# --- the wire --------------------------------------------------------------------------------

FRAME_BYTES_MAX: Final = 1 << 20
COMMANDS_PER_FRAME_MAX: Final = 4_096
BODY_BYTES_MAX: Final = 64 << 10
IMPORT_ROW_BYTES_MAX: Final = 4 << 10
HEADERS_BYTES_MAX: Final = 16 << 10
DEADLINE_MS_DEFAULT: Final = 5_000
DEADLINE_MS_MAX: Final = 60_000
CONNECTIONS_MAX: Final = 4_096
"""Open connections of one process, per protocol."""
IN_FLIGHT_PER_CONNECTION_MAX: Final = 65_536
"""Commands of one binary connection that wait for an answer; the reader pauses beyond."""
WRITE_BUFFER_BYTES_MAX: Final = 8 << 20
"""Answers that a slow reader has not taken; the connection is closed beyond."""
HELLO_BYTES_MAX: Final = 1 << 10
HANDSHAKE_SECONDS_MAX: Final = 5
"""From a connection's first byte to its handshake."""
STALLED_SECONDS_MAX: Final = 30
"""A peer that stops in the middle of a frame, or that takes no answers, is given up then."""

STATUSES_MAX: Final = 64
"""Numbers of statuses are below this."""

# --- batches and queues ----------------------------------------------------------------------

BATCH_COMMANDS_MAX: Final = 1_024
ROUND_SECONDS_MAX: Final = 0.05
"""How long the shards of a host wait for one whose batch is on its way."""
BATCH_BYTES_MAX: Final = 384 << 10
"""A batch closes once its events have reached this size; one event may overshoot it."""
EVENT_BYTES_MAX: Final = 256 << 10
RECORD_BYTES_MAX: Final = BATCH_BYTES_MAX + 2 * EVENT_BYTES_MAX + 1_024
"""The last command of a batch may overshoot by its event and by the shortfalls that it changes."""
SWEEP_PER_BATCH_MAX: Final = 1_024
"""Events that one batch makes of its own accord, for reservations that are overdue."""
FORGET_PER_BATCH_MAX: Final = 2_048
"""Finished entries that one batch removes from memory."""
SHARD_QUEUE_COMMANDS_MAX: Final = 32_768
SHARD_QUEUE_SHED_RESERVES: Final = 24_576
"""Beyond this queue length new reserves are refused, so that commits and releases still pass."""
GATEWAY_IN_FLIGHT_MAX: Final = 32_768
GATEWAY_IN_FLIGHT_BYTES_MAX: Final = 64 << 20
GATEWAY_IN_FLIGHT_SHED_RESERVES: Final = 24_576
"""Beyond this, new work is refused, so that commits and releases still pass."""
GATEWAY_WAITING_PER_SHARD_MAX: Final = 12_288
"""New work that waits for one shard, so that one without an owner does not starve the others."""
FLIGHTS_PER_SHARD_MAX: Final = 2
"""Frames of one gateway that one shard has at once; what comes meanwhile makes the next."""
FLIGHT_BYTES_MAX: Final = 256 << 10
"""A gateway's frame ends here, because answers are longer than commands."""
LOG_LINES_PER_SECOND: Final = 20
"""Of one event in one process, where callers can cause it."""
SPANS_PER_SECOND: Final = 500
RING_BYTES_MAX: Final = 8 << 20
"""Recently acknowledged batches that a shard keeps to resend if Redis goes back in time."""
MAP_WAITERS_MAX: Final = CONNECTIONS_MAX
"""Clients that one process lets wait for a newer shard map; the others are answered at once."""
MAP_HOLD_MS: Final = 4_000
"""How long a client lets somebody who has nothing newer hold its question."""
JOURNAL_IN_FLIGHT_MAX: Final = 8_192
"""Operations of one process that wait for Redis."""
JOURNAL_IN_FLIGHT_BYTES_MAX: Final = 64 << 20
"""Of those, the bytes that were sent; one operation may overshoot it."""
JOURNAL_READ_ENTRIES_MAX: Final = 256

# --- the past --------------------------------------------------------------------------------

HISTORY_ENTRIES_MAX: Final = 1_000
"""Movements on one page…"""
HISTORY_PAGE_BYTES_MAX: Final = 256 << 10
"""…which ends early once it has this size; one entry may overshoot it."""
HISTORY_QUEUE_MAX: Final = 8
"""Questions about the past that one host has at once; one is being answered."""
HISTORY_SLICE_EVENTS: Final = 256
"""Events that are replayed before whoever else is on the loop has a turn."""
HISTORY_READ_BYTES: Final = 1 << 20
"""What is read of the archive in one go; one record or chunk may overshoot it."""
HISTORY_READ_ENTRIES: Final = 16
"""Records that are read at once: the shard's own appends share the connection."""
HISTORY_DEADLINE_MS: Final = 30_000
"""What a gateway gives a question about the past."""

# --- lists -----------------------------------------------------------------------------------

LIST_ROWS_MAX: Final = 256
"""Rows of one page of a shard, a millisecond or two of its batch…"""
LISTING_WIDTH_MAX: Final = 1_024
"""…which ends early once its rows have so many locations, lines and parts together…"""
LISTING_LOOKED_MAX: Final = 1_024
"""…or once so many entries were looked at, most of them to be left out."""
LISTING_SORTED_MAX: Final = 8_192
"""Ids that one page sorts before there are any rows, about; up to a 256th of all of them more."""
LISTINGS_MAX: Final = 4
"""Lists that a shard goes on with, of each kind; who else asks has it sorted anew, and so has…"""
LISTING_US: Final = 60_000_000
"""…who has not asked for so long."""

# --- placement and memory --------------------------------------------------------------------

SHARDS_MAX: Final = 4_096
BUCKETS: Final = 256
"""Buckets of one map of a shard."""
BUCKET_ENTRIES_MAX: Final = 150_000
"""A dict beyond a few hundred thousand entries stops the world while it resizes."""
REMEMBERED_MAX: Final = 8_000_000
"""Reservations (open, promised, finished) and movement keys that one shard remembers."""
SNAPSHOT_CHUNK_BYTES_MAX: Final = 1 << 20
SNAPSHOT_SLICE_ENTRIES_MAX: Final = 4_096
TRIM_ENTRIES_MAX: Final = 500
SNAPSHOT_AFTER_BYTES: Final = 64 << 20
"""Journal of one shard since its last snapshot after which the next is taken…"""
SNAPSHOT_AFTER_EVENTS: Final = 200_000
"""…or as many events, but no fewer than there are entries to write down again."""
SNAPSHOT_AT_LEAST_BYTES: Final = 64 << 10
"""Less journal than this is not worth a snapshot, however full the server is."""
SNAPSHOT_RENEW_SECONDS: Final = 60.0
"""A full server gets a new snapshot this often in any case: it may be smaller than those it has,
because what they remember may be forgotten by now."""
AUDIT_SLICE_ENTRIES: Final = 128
"""Entries or events that an audit looks at before it lets others go on: a third of a millisecond,
seldom more than one."""
AUDIT_PAUSE_SECONDS: Final = 0.003
"""After each slice of an audit that nobody waits for…"""
AUDIT_HURRIED_SECONDS: Final = 0.0003
"""…and of one that somebody does."""
AUDIT_PAGE_BYTES_MAX: Final = 256 << 10
"""Records that an audit, or who follows a shard, reads at once, as far as can be told before; other
shards append meanwhile."""
AUDIT_FINDINGS_MAX: Final = 20
"""Findings of one audit that are put into words; the others are counted."""
MEMORY_SNAPSHOT: Final = 0.6
"""Share of the server's memory at which snapshots, and so trimming, start in any case…"""
MEMORY_REFUSE: Final = 0.8
"""…and at which new reserves and movements are refused, so that commits and releases pass…"""
MEMORY_STOP: Final = 0.95
"""…and at which those are refused too: what is left is for expiries, claims and snapshots, because
a server without any memory cannot even be told what would make room."""

ARCHIVE_SEGMENT_BYTES: Final = 8 << 20
"""Journal that makes one file of the archive; the last page may overshoot it."""
ARCHIVE_PAGE_BYTES: Final = 1 << 20
"""Journal that is read at once in order to archive it, about."""
ARCHIVE_SNAPSHOT_BYTES: Final = 256 << 20
"""Journal of one shard between two snapshots that are archived: what a query of the past replays,
at most, beside what lies between two snapshots."""
ARCHIVE_RETRY_SECONDS: Final = 5.0
"""After the archive has failed, until it is tried again."""

# --- time, in microseconds -------------------------------------------------------------------

SECOND_US: Final = 1_000_000
FINISHED_WINDOW_US: Final = 3_600 * SECOND_US
"""How long a released, expired or wholly cancelled reservation is remembered, at least."""
RETURNS_WINDOW_US: Final = 90 * 86_400 * SECOND_US
"""How long a shipped reservation is remembered, so that what comes back can be restocked."""
KEYS_WINDOW_US: Final = 86_400 * SECOND_US
"""How long the key of a movement is remembered."""
PROVE_SECONDS: Final = 1.0
"""An idle owner asks the journal this often whether the shard is still its own."""
FOLLOW_SECONDS: Final = 0.05
"""How often a host that keeps up with another's shard reads what has come…"""
FOLLOW_NEAR_SECONDS: Final = 0.25
"""…how long that may take it, or else it is not near…"""
FOLLOW_ENTRY_SECONDS: Final = 5e-6
"""…how long for each entry or event, work and pause together, if it serves shards of its own…"""
FOLLOW_AGAIN_SECONDS: Final = 1.0
"""…and how long it waits before it reads anew what it could not follow; twice as long each time…"""
FOLLOW_AGAIN_SECONDS_MAX: Final = 60.0
"""…up to this."""
TICK_SECONDS: Final = 0.05
"""How often a host looks for deadlines that have passed."""
MARK_SECONDS: Final = 1.0
MEMORY_SECONDS: Final = 0.2
"""How often a host looks how full the journal's server is…"""
MEMORY_FILLING: Final = 0.4
"""…as long as it is no fuller than this…"""
MEMORY_FILLING_SECONDS: Final = 0.05
"""…and from then on: to get from MEMORY_REFUSE to full must take longer, or nothing can be
journaled any more, not even what would make room."""
STOP_SECONDS_MAX: Final = 10.0
"""What a host that is told to stop gives its shards to finish."""
GRACE_US: Final = 5 * SECOND_US
"""Deadlines that fall before `opened + grace` move there: downtime is not the shopper's fault."""
HANDOVER_GRACE_US: Final = SECOND_US
"""The same, at least, where the owner before has handed the shard over in order, moments ago."""

assert RECORD_BYTES_MAX < FRAME_BYTES_MAX
assert HANDOVER_GRACE_US <= GRACE_US
assert PARTS_MAX * (2 * ID_CHARS_MAX + 32) + LINES_MAX * (ID_CHARS_MAX + 32) < EVENT_BYTES_MAX
assert (LOCATIONS_MAX + POOLS_MAX) * (ID_CHARS_MAX + 16) < EVENT_BYTES_MAX
assert (SWEEP_PER_BATCH_MAX + PARTS_MAX) * (2 * ID_CHARS_MAX + 16) < 2 * EVENT_BYTES_MAX
assert BODY_BYTES_MAX < FRAME_BYTES_MAX
assert 2 * HISTORY_PAGE_BYTES_MAX < FRAME_BYTES_MAX
assert HISTORY_DEADLINE_MS <= DEADLINE_MS_MAX
assert HISTORY_READ_ENTRIES <= JOURNAL_READ_ENTRIES_MAX
assert LINES_MAX * (2 * ID_CHARS_MAX + 16) < BODY_BYTES_MAX
assert SHARD_QUEUE_SHED_RESERVES < SHARD_QUEUE_COMMANDS_MAX
assert GATEWAY_WAITING_PER_SHARD_MAX < GATEWAY_IN_FLIGHT_SHED_RESERVES < GATEWAY_IN_FLIGHT_MAX
assert FLIGHT_BYTES_MAX < FRAME_BYTES_MAX
assert SHARDS_MAX * (ID_CHARS_MAX + 32) < FRAME_BYTES_MAX, "the map is one frame"
assert MAP_HOLD_MS <= DEADLINE_MS_MAX
assert COMMANDS_PER_FRAME_MAX < SHARD_QUEUE_SHED_RESERVES
assert REMEMBERED_MAX // BUCKETS < BUCKET_ENTRIES_MAX
assert MEMORY_FILLING < MEMORY_SNAPSHOT < MEMORY_REFUSE < MEMORY_STOP < 1
assert FINISHED_WINDOW_US <= KEYS_WINDOW_US <= RETURNS_WINDOW_US
assert TTL_SECONDS_DEFAULT <= TTL_SECONDS_MAX
