"""When a schedule ticks: cron expressions and intervals, and the instants that they stand for.

The dialect is that of robfig/cron v3, which asynq uses: five fields, names, ranges, steps, lists, `?`, words such as `@hourly`,
`@every 1h30m`, and a `CRON_TZ=` or `TZ=` in front. Pure: no clock is read here and nothing is stored.

How a day of a time zone becomes instants::

    date that the fields allow ─► no change of the clocks on it? ─ yes ─► midnight + minutes
                                       │
                                       no ─► each wall time by itself: it is there once, twice, or (in a gap) not at all

Where the clocks change, a fixed time runs once: the first of two, or at the first instant after a gap. A `*` or a step in minute
or hour means "again and again" rather than a time: what it names runs whenever the clock shows it.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import islice
from typing import NamedTuple, Protocol

from fireforget.errors import InvalidSchedule

LONGEST_EXPRESSION = 256
SHORTEST_INTERVAL = 1.0
"""Seconds between two ticks of `@every`."""
_LONGEST_INTERVAL = 1e10
_MOST_YEARS = 9  # between two ticks: the 29th of February around a year such as 2100
_NAIVE_EPOCH = datetime(1970, 1, 1)
_ONE_DAY = timedelta(days=1)
_NEVER = float("inf")

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_ONE_DURATION = r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)"

_WORDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class _Field(NamedTuple):
    """What one of the five fields may hold."""

    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()
    """The first stands for `least`."""


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 6, _WEEKDAYS),
)
_DAYS_OF_MONTH = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class Schedule(Protocol):
    """When something ticks. Instants are Unix seconds."""

    expression: str
    """As it was written, without a zone in front."""
    timezone: str
    """The name of the zone in which it is read."""

    def next_after(self, instant: float) -> float:
        """Return the first tick after an instant; infinity when there is none in the years to come."""

    def last_until(self, instant: float) -> float:
        """Return the last tick at or before an instant; minus infinity when there is none in the years before."""

    def local(self, instant: float) -> datetime:
        """Return an instant as a datetime in the schedule's zone."""

    def upcoming(self, start: datetime, count: int) -> list[datetime]:
        """Return the next ticks after `start`, an aware datetime, in the schedule's zone."""


# --- reading an expression ----------------------------------------------------------------------------------------------


def parse(expression: str, timezone: object = None) -> Schedule:
    """Return the schedule that an expression stands for.

    `timezone` is an IANA name such as "Europe/Berlin", or a `ZoneInfo`; None is the zone in front of the expression
    (`CRON_TZ=Europe/Berlin 0 3 * * *`), or UTC. Raises `InvalidSchedule`, which names the field, the value and the remedy; for a
    zone without data it names `tzdata`.
    """
    if not isinstance(expression, str):
        raise InvalidSchedule(expression, "give text, such as '0 3 * * *' or '@every 30s'")
    if len(expression) > LONGEST_EXPRESSION:
        raise InvalidSchedule(expression[:40] + "...", f"it has more than {LONGEST_EXPRESSION} characters")
    given = expression
    text, prefix = _without_zone(expression)
    if prefix is not None and timezone is not None:
        raise InvalidSchedule(given, f"it has a time zone in front and timezone={timezone!r} beside it: give one of them")
    if prefix is not None:
        timezone = prefix
    zone_name = _name_of_zone(given, timezone)
    if not text:
        raise InvalidSchedule(given, "it is empty: give five fields, such as '0 3 * * *', or a word such as @hourly")
    zone = load_zone(zone_name, given)
    if text.startswith("@"):
        word, _, rest = text.partition(" ")
        if word.lower() == "@every":
            return Every(text, zone_name, _interval(given, rest.strip()), zone)
        if text.lower() not in _WORDS:
            known = ", ".join(["@every", *_WORDS])
            raise InvalidSchedule(given, f"there is no word {text!r}: choose among {known}")
        return Cron(text, zone_name, _read_fields(given, _WORDS[text.lower()].split()), zone)
    fields = text.split()
    if len(fields) != len(_FIELDS):
        hint = "; there is none for seconds, use such as '@every 10s'" if len(fields) == len(_FIELDS) + 1 else ""
        raise InvalidSchedule(
            given,
            f"it has {len(fields)} field{'' if len(fields) == 1 else 's'} and needs five: minute, hour, day of month, month, "
            f"day of week{hint}",
        )
    return Cron(text, zone_name, _read_fields(given, fields), zone)


def _without_zone(expression: str) -> tuple[str, str | None]:
    """Return the expression without the zone in front, and that zone."""
    text = expression.strip()
    if not text.startswith(("CRON_TZ=", "TZ=")):
        return " ".join(text.split()), None
    zone, *rest = text.split(None, 1)
    return " ".join("".join(rest).split()), zone.partition("=")[2]


def _name_of_zone(expression: str, timezone: object) -> str:
    if timezone is None or timezone is UTC:
        return "UTC"
    name = getattr(timezone, "key", timezone)
    if not isinstance(name, str) or not name.strip():
        raise InvalidSchedule(expression, f"timezone={timezone!r} is no time zone: give a name such as 'Europe/Berlin'")
    return name.strip()


def load_zone(name: str, expression: str = "") -> tzinfo:
    """Return a time zone by its IANA name; raises `InvalidSchedule`. UTC needs no zone data."""
    if name in ("UTC", "Etc/UTC"):
        return UTC
    import zoneinfo  # here, so that a producer, and a worker without schedules, does not pay for it

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = zoneinfo.available_timezones()
    if not known:
        raise InvalidSchedule(
            expression,
            f"there is no time zone data on this machine to look up {name!r}: install it with the system's package tzdata, or "
            "with `pip install tzdata`",
        )
    from difflib import get_close_matches

    near = get_close_matches(name, sorted(known), n=1)
    raise InvalidSchedule(
        expression,
        f"there is no time zone {name!r}{f': did you mean {near[0]!r}?' if near else ''} (if the name is right, this machine's "
        "zone data is too old: `pip install -U tzdata`)",
    )


def _interval(expression: str, text: str) -> float:
    """Return the seconds of a duration as Go writes it, "1h30m"."""
    if not re.fullmatch(f"(?:{_ONE_DURATION})+", text, re.ASCII):
        raise InvalidSchedule(
            expression, f"the interval {text!r} is no duration: give such as 30s, 5m or 1h30m; for a day write 24h"
        )
    seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_ONE_DURATION, text))
    if not SHORTEST_INTERVAL <= seconds <= _LONGEST_INTERVAL:
        raise InvalidSchedule(expression, f"the interval {text!r} is too short or too long: give one second or more")
    return seconds


# --- the fields ---------------------------------------------------------------------------------------------------------


class _Read(NamedTuple):
    """A field as it was read."""

    values: tuple[int, ...]
    """In order."""
    again_and_again: bool
    """Whether it has a `*` or a step."""
    is_star: bool
    """Whether it restricts nothing; `*/2` does."""


def _read_fields(expression: str, texts: list[str]) -> tuple[_Read, ...]:
    fields = tuple(_read_field(expression, field, text) for field, text in zip(_FIELDS, texts, strict=True))
    _, _, days, months, weekdays = fields
    if not days.is_star and weekdays.is_star and not any(days.values[0] <= _DAYS_OF_MONTH[month] for month in months.values):
        raise InvalidSchedule(
            expression,
            f"day of month {texts[2]} never comes in month {texts[3]}, so it would never run: correct one of them",
        )
    return fields


def _read_field(expression: str, field: _Field, text: str) -> _Read:
    values: set[int] = set()
    again = star = False
    for part in text.split(","):
        found, step, is_any = _read_part(expression, field, part)
        values |= set(found)
        again = again or is_any or step is not None
        star = star or (is_any and step in (None, 1))
    return _Read(tuple(sorted(values)), again, star)


def _read_part(expression: str, field: _Field, part: str) -> tuple[range, int | None, bool]:
    """Return the values of one item of a list, its step, and whether it begins with `*`."""
    whole, slash, step_text = part.partition("/")
    first, dash, last = whole.partition("-")
    is_any = whole in ("*", "?")
    if is_any:
        low, high = field.least, field.most
    else:
        low = _read_value(expression, field, part, first)
        high = _read_value(expression, field, part, last) if dash else field.most if slash else low
    if low > high:
        raise InvalidSchedule(
            expression, f"{field.name} {part!r} ends before it begins: write it as two, {first}-{field.most},{field.least}-{last}"
        )
    if not slash:
        return range(low, high + 1), None, is_any
    if not (step_text.isascii() and step_text.isdigit()) or not int(step_text):
        raise InvalidSchedule(expression, f"{field.name} {part!r} has the step {step_text!r}: give a whole number above 0")
    step = int(step_text)
    if step > field.most + 1:
        remedy = f"; for one interval over hours use '@every {step}m'" if field.name == "minute" else ""
        raise InvalidSchedule(
            expression, f"{field.name} {part!r} has the step {step}, and there are no more than {field.most} to step over{remedy}"
        )
    return range(low, high + 1, step), step, is_any


def _read_value(expression: str, field: _Field, part: str, text: str) -> int:
    if text.lower() in field.names:
        return field.least + field.names.index(text.lower())
    if not (text.isascii() and text.isdigit()):
        raise InvalidSchedule(expression, f"{field.name} {_shown(part, text)} is no number: {_remedy(field, text)}")
    value = int(text)
    if not field.least <= value <= field.most:
        raise InvalidSchedule(expression, f"{field.name} {_shown(part, text)} is out of range: {_remedy(field, text)}")
    return value


def _shown(part: str, text: str) -> str:
    return repr(text) if text == part else f"{text!r} in {part!r}"


def _remedy(field: _Field, text: str) -> str:
    known = f"give {field.least} to {field.most}"
    if field.names:
        known += f", or {field.names[0].upper()} to {field.names[-1].upper()}"
    if field.name == "day of week" and text == "7":
        return f"Sunday is 0 or SUN ({known})"
    if field.names and text[:3].lower() in field.names:
        return f"write {text[:3].upper()} ({known})"
    return f"{known}, a list, a range such as {field.least}-{field.least + 4}, or a step such as */5"


# --- five fields --------------------------------------------------------------------------------------------------------


class Cron:
    """Five fields in a time zone; immutable, and safe to share between threads."""

    def __init__(self, expression: str, timezone: str, fields: tuple[_Read, ...], zone: tzinfo) -> None:
        self.expression = expression
        self.timezone = timezone
        self._zone = zone
        self._minutes, self._hours, self._days, self._months, self._weekdays = fields
        self._either = not self._days.is_star and not self._weekdays.is_star
        self._runs_again = self._minutes.again_and_again or self._hours.again_and_again
        self._minutes_of_day = [60.0 * (60 * hour + minute) for hour in self._hours.values for minute in self._minutes.values]
        self._of_date: dict[date, list[float]] = {}

    def next_after(self, instant: float) -> float:
        """Return the first tick after an instant; infinity when there is none in the years to come."""
        try:
            for day in self._dates(self.local(instant).date() - _ONE_DAY, _ONE_DAY):
                if self._first_on(day, instant) < _NEVER:
                    # Where the clocks go back at midnight, a date's last ticks come after the first of the next.
                    return min(self._first_on(day, instant), self._first_on(day + _ONE_DAY, instant))
        except (OverflowError, ValueError, OSError):  # beyond what a datetime can carry
            pass
        return _NEVER

    def _first_on(self, day: date, instant: float) -> float:
        ticks = self._ticks_on(day) if self._allows(day) else []
        at = bisect_right(ticks, instant)
        return ticks[at] if at < len(ticks) else _NEVER

    def last_until(self, instant: float) -> float:
        """Return the last tick at or before an instant; minus infinity when there is none in the years before."""
        try:
            for day in self._dates(self.local(instant).date() + _ONE_DAY, -_ONE_DAY):
                if self._last_on(day, instant) > -_NEVER:
                    return max(self._last_on(day, instant), self._last_on(day - _ONE_DAY, instant))
        except (OverflowError, ValueError, OSError):
            pass
        return -_NEVER

    def _last_on(self, day: date, instant: float) -> float:
        ticks = self._ticks_on(day) if self._allows(day) else []
        at = bisect_right(ticks, instant)
        return ticks[at - 1] if at else -_NEVER

    def upcoming(self, start: datetime, count: int) -> list[datetime]:
        """Return the next ticks after `start`, an aware datetime, in the schedule's zone."""
        return [self.local(tick) for tick in islice(_following(self, start.timestamp()), count)]

    # --- dates ----------------------------------------------------------------------------------------------------------

    def _dates(self, start: date, step: timedelta) -> Iterator[date]:
        """Yield the dates that the fields allow, in the order of `step`, for some years."""
        day = start
        while abs(day.year - start.year) <= _MOST_YEARS:
            if day.month not in self._months.values:
                day = _beginning_of_next_month(day) if step > timedelta(0) else day.replace(day=1) - _ONE_DAY
                continue
            if self._allows(day):
                yield day
            day += step

    def _allows(self, day: date) -> bool:
        if day.month not in self._months.values:
            return False
        by_day, by_weekday = day.day in self._days.values, day.isoweekday() % 7 in self._weekdays.values
        return (by_day or by_weekday) if self._either else (by_day and by_weekday)

    # --- instants -------------------------------------------------------------------------------------------------------

    def local(self, instant: float) -> datetime:
        """Return an instant as a datetime in the schedule's zone."""
        return datetime.fromtimestamp(instant, self._zone)

    def _ticks_on(self, day: date) -> list[float]:
        """Return the ticks of a date that the fields allow, in order."""
        ticks = self._of_date.get(day)
        if ticks is None:
            if len(self._of_date) > 4:  # those who step on ask for the same days again and again
                self._of_date = {}
            self._of_date[day] = ticks = self._work_out(day)
        return ticks

    def _work_out(self, day: date) -> list[float]:
        midnight = datetime(day.year, day.month, day.day)
        offsets = {self._offset(midnight.replace(hour=hour)) for hour in (0, 6, 12, 18)}
        offsets.add(self._offset((midnight + _ONE_DAY).replace(fold=1)))
        if len(offsets) == 1:
            start = _seconds(midnight) - offsets.pop()
            return [start + seconds for seconds in self._minutes_of_day]
        walls = [midnight + timedelta(seconds=seconds) for seconds in self._minutes_of_day]
        return sorted({tick for wall in walls for tick in self._instants(wall)})

    def _instants(self, wall: datetime) -> list[float]:
        """Return when the clocks show a wall time and it is to run, on a day on which they change."""
        first, second = self._offset(wall), self._offset(wall.replace(fold=1))
        if first == second:
            return [_seconds(wall) - first]
        if first > second:  # shown twice
            return [_seconds(wall) - first, _seconds(wall) - second][: 2 if self._runs_again else 1]
        return [] if self._hours.again_and_again else [self._end_of_gap(wall, first, second)]

    def _end_of_gap(self, wall: datetime, before: float, after: float) -> float:
        """Return the instant at which the clocks were put forward over a wall time, by halving the stretch it must be in."""
        low, high = _seconds(wall) - after, _seconds(wall) - before
        while high - low > 1:
            middle = (low + high) // 2
            offset = self.local(middle).utcoffset()
            if offset is not None and offset.total_seconds() == before:
                low = middle
            else:
                high = middle
        return high

    def _offset(self, wall: datetime) -> float:
        offset = wall.replace(tzinfo=self._zone).utcoffset()
        return 0.0 if offset is None else offset.total_seconds()


def _seconds(wall: datetime) -> float:
    return (wall.replace(fold=0) - _NAIVE_EPOCH).total_seconds()


def _beginning_of_next_month(day: date) -> date:
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1)


# --- intervals ----------------------------------------------------------------------------------------------------------


class Every:
    """One tick an interval, counted from the epoch: the same instants in every process, whenever it was started."""

    def __init__(self, expression: str, timezone: str, seconds: float, zone: tzinfo) -> None:
        self.expression = expression
        self.timezone = timezone
        self.seconds = seconds
        self._zone = zone

    def next_after(self, instant: float) -> float:
        """Return the first tick after an instant."""
        number = instant // self.seconds
        while number * self.seconds <= instant:
            number += 1
        return number * self.seconds

    def last_until(self, instant: float) -> float:
        """Return the last tick at or before an instant."""
        number = instant // self.seconds + 1
        while number * self.seconds > instant:
            number -= 1
        return number * self.seconds

    def local(self, instant: float) -> datetime:
        """Return an instant as a datetime in the schedule's zone."""
        return datetime.fromtimestamp(instant, self._zone)

    def upcoming(self, start: datetime, count: int) -> list[datetime]:
        """Return the next ticks after `start`, an aware datetime, in the schedule's zone."""
        return [self.local(tick) for tick in islice(_following(self, start.timestamp()), count)]


def _following(schedule: Schedule, instant: float) -> Iterator[float]:
    while (instant := schedule.next_after(instant)) < _NEVER:
        yield instant
