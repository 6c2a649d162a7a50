"""Points in time as people and programs write them, and their zones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from functools import cached_property

from tbps_infer.errors import UsageError

__all__ = ["TIME_WANTED", "Moment", "find_zone", "read_moment"]

TIME_WANTED = (
    "an ISO 8601 date or time (2024, 2024-05, 2024-05-31, 20240531, 2024-05-31T08:30, 20240531T0830, "
    "2024-05-31 08:30:15.5+02:00) or Unix time in s, ms or µs between 1990 and 2100"
)

_ZONE = r" ?(?P<zone>Z|[+-]\d\d:?\d\d)?"
_SECOND = r"(?P<second>\d\d)([.,](?P<fraction>\d{1,9}))?"
_EXTENDED = re.compile(
    r"(?P<year>\d{4})(-(?P<month>\d\d)(-(?P<day>\d\d)"
    rf"([T ](?P<hour>\d\d):(?P<minute>\d\d)(:{_SECOND})?)?{_ZONE})?)?",
    re.ASCII,
)
_BASIC = re.compile(
    rf"(?P<year>\d{{4}})(?P<month>\d\d)(?P<day>\d\d)(T?(?P<hour>\d\d)(?P<minute>\d\d)({_SECOND})?{_ZONE})?", re.ASCII
)
_UNIX = re.compile(r"\d{9,16}(\.\d+)?", re.ASCII)

# Digits without punctuation are a time in these years only: 0830 is no year, and 20240501 no number of seconds.
_PLAUSIBLE = range(1990, 2101)
_FIRST_S, _END_S = (datetime(year, 1, 1, tzinfo=timezone.utc).timestamp() for year in (1990, 2101))
_UNITS_PER_S = (1, 1_000, 1_000_000)


@dataclass(frozen=True)
class Moment:
    """A point in time as it was written; a part that was left out is the earliest one: ``2024`` is its first instant.

    Attributes:
        clock: What a clock in its zone shows.
        zone: Its zone; None where none was written.
        written: The text, in ISO 8601's extended form; as it came where it has that form.
    """

    clock: datetime
    zone: tzinfo | None
    written: str

    @cached_property
    def seconds(self) -> float:
        """Seconds since 1970-01-01T00:00Z; without a zone it is UTC."""
        return self.clock.replace(tzinfo=self.zone or timezone.utc).timestamp()

    @cached_property
    def clock_seconds(self) -> float:
        """Seconds since 1970-01-01T00:00 on the same clock: what orders times as they are shown."""
        return self.clock.replace(tzinfo=timezone.utc).timestamp()

    def text(self, zone: tzinfo) -> str:
        """It as ISO 8601, with its own offset, or with that of a zone where it has none.

        Dates, months and years in UTC stay what was written.
        """
        if self.zone is not None or (zone is timezone.utc and ":" not in self.written):
            return self.written
        offset = zone.utcoffset(self.clock) or timedelta()
        # Local mean time, which clocks showed before about 1911, has seconds; ISO 8601's offsets have none.
        hours, minutes = divmod(round(abs(offset) / timedelta(minutes=1)), 60)
        sign = "-" if offset < timedelta() else "+"
        date_and_clock = self.written if len(self.written) > 7 else self.clock.date().isoformat()
        return date_and_clock + (f"{sign}{hours:02}:{minutes:02}" if offset else "Z")


def read_moment(value: str | float | None, unix_zone: tzinfo = timezone.utc) -> Moment | None:
    """A value as a point in time; None when it is none.

    Args:
        value: `TIME_WANTED`, as text or as a number.
        unix_zone: The zone in which Unix time is written.
    """
    text = "" if value is None else str(value).strip()
    seconds = _unix_seconds(text)
    try:
        if seconds is not None:
            aware = datetime.fromtimestamp(seconds, unix_zone)
            return Moment(aware.replace(tzinfo=None), aware.tzinfo, aware.isoformat().replace("+00:00", "Z"))
        extended = _EXTENDED.fullmatch(text)
        match = extended or _BASIC.fullmatch(text)
        if match is None:
            return None
        part = match.groupdict(default="")
        clock = _clock(part)
        if "-" not in text[4:5] and clock.year not in _PLAUSIBLE:
            return None
        zone = _zone(part["zone"])
    except ValueError:
        return None
    return Moment(clock, zone, text if extended else _extended(part, clock))


def find_zone(name: str) -> tzinfo:
    """The zone of a name such as ``Europe/Berlin`` or ``UTC``, or of an offset such as ``+02:00``; UsageError."""
    if name.upper() in ("UTC", "Z"):
        return timezone.utc
    try:
        if re.fullmatch(r"[+-]\d\d:?\d\d", name, re.ASCII):
            return _zone(name) or timezone.utc
        from zoneinfo import ZoneInfo

        return ZoneInfo(name)
    except (ValueError, OSError, LookupError) as error:  # no such key; the system's data may also be missing
        raise UsageError(
            f"The time zone {name!r} is not known.", "Name one as in Europe/Berlin, UTC or +02:00."
        ) from error


def _unix_seconds(text: str) -> float | None:
    """Seconds, in whichever unit they lie in plausible years."""
    if _UNIX.fullmatch(text) and not _is_date_and_hour(text):
        for units in _UNITS_PER_S:
            if _FIRST_S <= float(text) / units < _END_S:
                return float(text) / units
    return None


def _is_date_and_hour(text: str) -> bool:
    """Whether ten digits could be meant as 2024050108, which as Unix time is a second in the years 2033 to 2036."""
    try:
        moment = datetime(int(text[:4]), int(text[4:6]), int(text[6:8]), int(text[8:]))
    except ValueError:
        return False
    return moment.year in _PLAUSIBLE


def _clock(part: dict[str, str]) -> datetime:
    return datetime(
        int(part["year"]),
        int(part["month"] or 1),
        int(part["day"] or 1),
        int(part["hour"] or 0),
        int(part["minute"] or 0),
        int(part["second"] or 0),
        int(part["fraction"].ljust(6, "0")[:6]),
    )


def _extended(part: dict[str, str], clock: datetime) -> str:
    if not part["hour"]:
        return clock.date().isoformat()
    return clock.isoformat() + part["zone"]


def _zone(text: str) -> tzinfo | None:
    if not text:
        return None
    if text == "Z":
        return timezone.utc
    sign = -1 if text[0] == "-" else 1
    hours, minutes = int(text[1:3]), int(text[-2:])
    if minutes > 59:
        raise ValueError(text)
    return timezone(sign * timedelta(hours=hours, minutes=minutes))
