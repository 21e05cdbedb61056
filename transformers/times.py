"""Plant time: what a system writes without an offset was read from a clock on that plant's wall."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from bus import PermanentFailure, TransformContext


def zone_of(site: str, context: TransformContext) -> ZoneInfo:
    """The time zone of a site, by the partner's value map `timezones` (site → IANA name).

    Raises:
        PermanentFailure: value-map.missing, when the site or the zone is unknown.
    """
    name = context.maps["timezones"].to_canonical(site)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise PermanentFailure("value-map.missing", f"timezones: {name!r} is not an IANA time zone") from error


def placed(moment: datetime, zone: ZoneInfo) -> datetime:
    """The moment with an offset: its own, or that of the plant. The hour that comes twice in autumn is the first."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)


def written(moment: datetime) -> str:
    """RFC 3339; the offset stays the plant's, so that a person can compare it with the clock there."""
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds")
