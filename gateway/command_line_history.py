"""`onhand movements`: what changed a SKU, page by page."""

import sys
from typing import Any, Final

from cyclopts import App

from engine import limits
from gateway.command_line_engine import THE_ENGINE, Engine

PAGE: Final = limits.HISTORY_ENTRIES_MAX


def movements(
    sku: str,
    /,
    *,
    since: str | None = None,
    until: str | None = None,
    after: str | None = None,
    limit: int = PAGE,
    engine: Engine = THE_ENGINE,
) -> int:
    """Show what changed a SKU: when, what, by whom and why, before and after.

    For example:

        onhand movements tee-red --since 2026-12-01T00:00:00Z

    Parameters
    ----------
    since
        Nothing earlier than this time (RFC 3339).
    until
        Nothing later than this time.
    after
        Go on after this place, which the page before named.
    limit
        How many to show at most, up to 1,000.
    """
    reply = engine.client().get(
        f"/v1/stock/{sku}/movements", since=since, until=until, after=after, limit=limit
    )
    page = engine.say(reply, _show)
    if not page["movements"]:
        print(f"nothing that changed {sku} is known", file=sys.stderr)
    return 0


def _show(page: dict[str, Any]) -> None:
    for each in page["movements"]:
        who = each["by"] or " ".join(filter(None, (each["channel"], each["reservation_id"])))
        why = " ".join(filter(None, (each["reason"], each["reference"])))
        what = f"{each['kind']} {each['quantity']:,}"
        print(" · ".join(filter(None, (each["time"], what, who, why))))
        for place in each["locations"]:
            print(f"  {_change(place)}")
    if page["begins_after"]:
        print(f"what happened up to record {page['begins_after']} is not kept")
    if page["next"]:
        print(f"there is more: --after {page['next']}")


def _change(place: dict[str, Any]) -> str:
    """Which counters of a location became what."""
    before, after = place["before"], place["after"]
    changed = [
        f"{name} {before[name]}→{after[name]}" for name in after if before[name] != after[name]
    ]
    return f"{place['location']}: {', '.join(changed) or 'as before'}"


def register(app: App) -> None:
    app.command(movements)
