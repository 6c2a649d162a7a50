"""What a time means in metadata and in filters: ISO 8601 or Unix seconds, compared as seconds."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

__all__ = ["TIME_WANTED", "parse_time"]

TIME_WANTED = (
    "an ISO 8601 date or time (2024, 2024-05, 2024-05-31, 2024-05-31T08:30, 2024-05-31 08:30:15.5+02:00) "
    "or Unix seconds (five digits or more)"
)

_ISO = re.compile(
    r"(?P<year>\d{4})(-(?P<month>\d\d)(-(?P<day>\d\d)"
    r"([T ](?P<hour>\d\d):(?P<minute>\d\d)(:(?P<second>\d\d)([.,](?P<fraction>\d{1,9}))?)?"
    r" ?(?P<zone>Z|[+-]\d\d:?\d\d)?)?)?)?",
    re.ASCII,
)
# Four digits are a year, so that --after 2024 means what it says.
_SECONDS = re.compile(r"-?\d{5,15}(\.\d+)?", re.ASCII)


def parse_time(value: str | float | None) -> float | None:
    """Seconds since 1970-01-01T00:00Z, or None when the value is no time.

    Args:
        value: A number is taken as seconds. Text is `TIME_WANTED`; a part that is left out is the earliest one
            (``2024`` is its first instant), and a time without a zone is UTC.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        return float(value)
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    part = match.groupdict(default="")
    try:
        whole = datetime(
            int(part["year"]),
            int(part["month"] or 1),
            int(part["day"] or 1),
            int(part["hour"] or 0),
            int(part["minute"] or 0),
            int(part["second"] or 0),
            tzinfo=_zone(part["zone"]),
        )
    except ValueError:
        return None
    return whole.timestamp() + float(f"0.{part['fraction'] or 0}")


def _zone(text: str) -> timezone:
    if text in ("", "Z"):
        return timezone.utc
    sign = -1 if text[0] == "-" else 1
    hours, minutes = int(text[1:3]), int(text[-2:])
    if minutes > 59:
        raise ValueError(text)
    return timezone(sign * timedelta(hours=hours, minutes=minutes))
