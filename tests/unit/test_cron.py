"""When schedules tick: the dialect, what it refuses, and the days on which the clocks change."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from fireforget import InvalidSchedule
from fireforget.cron import parse

ROOT = Path(__file__).resolve().parents[2]


def at(text):
    return datetime.fromisoformat(text + "+00:00").timestamp()


def ticks(expression, start, count, timezone=None):
    """The next ticks as UTC text, "03-29T01:00"."""
    moments = parse(expression, timezone).upcoming(datetime.fromisoformat(start + "+00:00"), count)
    return [moment.astimezone(UTC).strftime("%m-%dT%H:%M") for moment in moments]


# --- the dialect ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "moment", "ticks_then"),
    [
        ("0/15 * * * *", "2012-07-09T15:00", True),
        ("0/15 * * * *", "2012-07-09T15:45", True),
        ("0/15 * * * *", "2012-07-09T15:40", False),
        ("5/15 * * * *", "2012-07-09T15:05", True),
        ("5/15 * * * *", "2012-07-09T15:20", True),
        ("5/15 * * * *", "2012-07-09T15:50", True),
        ("0/15 * * Jul *", "2012-07-15T15:00", True),
        ("0/15 * * Jun *", "2012-07-15T15:00", False),
        ("30 08 ? Jul Sun", "2012-07-15T08:30", True),
        ("30 08 15 Jul ?", "2012-07-15T08:30", True),
        ("30 08 ? Jul Sun", "2012-07-16T08:30", False),
        ("30 08 15 Jul ?", "2012-07-16T08:30", False),
        ("@hourly", "2012-07-09T15:00", True),
        ("@hourly", "2012-07-09T15:04", False),
        ("@daily", "2012-07-09T15:00", False),
        ("@daily", "2012-07-09T00:00", True),
        ("@weekly", "2012-07-09T00:00", False),
        ("@weekly", "2012-07-08T00:00", True),
        ("@monthly", "2012-07-08T00:00", False),
        ("@monthly", "2012-07-01T00:00", True),
        ("@yearly", "2013-01-01T00:00", True),
        ("@annually", "2013-02-01T00:00", False),
        ("@midnight", "2013-02-01T00:00", True),
        # Both days restricted: either is enough. A step restricts, too.
        ("* * 1,15 * Sun", "2012-07-15T00:00", True),
        ("* * 1,15 * Sun", "2012-06-15T00:00", True),
        ("* * 1,15 * Sun", "2012-08-01T00:00", True),
        ("* * */10 * Sun", "2012-07-15T00:00", True),
        # One of them a star: both must fit.
        ("* * * * Mon", "2012-07-15T00:00", False),
        ("* * 1,15 * *", "2012-07-09T00:00", False),
        ("* * 1,15 * *", "2012-07-15T00:00", True),
        ("* * */2 * Sun", "2012-07-15T00:00", True),
        ("0 9-17 * * MON-fri", "2012-07-13T17:00", True),
        ("0 9-17 * * MON-fri", "2012-07-14T17:00", False),
        ("  1,5-7/2,30   0 *\t* *", "2012-07-14T00:07", True),
        ("1,5-7/2,30 0 * * *", "2012-07-14T00:06", False),
        ("CRON_TZ=Asia/Tokyo 0 5 * * *", "2012-07-13T20:00", True),
        ("TZ=Asia/Tokyo @daily", "2012-07-13T15:00", True),
    ],
)
def test_an_expression_ticks_when_it_says(expression, moment, ticks_then):
    """The examples of robfig/cron, whose dialect asynq speaks."""
    schedule = parse(expression)
    assert (schedule.next_after(at(moment) - 1) == at(moment)) is ticks_then
    assert (schedule.last_until(at(moment)) == at(moment)) is ticks_then


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "it is empty"),
        ("   ", "it is empty"),
        ("CRON_TZ=UTC", "it is empty"),
        ("not a schedule", "has 3 fields and needs five"),
        ("* * * *", "has 4 fields and needs five"),
        ("0 * * * * *", "there is none for seconds, use such as '@every 10s'"),
        ("60 * * * *", "minute '60' is out of range: give 0 to 59"),
        ("-1 * * * *", "minute '' in '-1' is no number"),
        ("* 24 * * *", "hour '24' is out of range: give 0 to 23"),
        ("* * 0 * *", "day of month '0' is out of range: give 1 to 31"),
        ("* * 32 * *", "day of month '32' is out of range"),
        ("* * * 13 *", "month '13' is out of range: give 1 to 12, or JAN to DEC"),
        ("* * * 0 *", "month '0' is out of range"),
        ("* * * * 7", "day of week '7' is out of range: Sunday is 0 or SUN"),
        ("* * * * XYZ", "day of week 'XYZ' is no number: give 0 to 6, or SUN to SAT"),
        ("* * * * monday", "write MON"),
        ("5 j * * *", "hour 'j' is no number"),
        ("jan-x * * * *", "minute 'jan' in 'jan-x' is no number"),
        ("5--5 * * * *", "minute '-5' in '5--5' is no number"),
        ("*/-12 * * * *", "has the step '-12': give a whole number above 0"),
        ("*//2 * * * *", "has the step '/2'"),
        ("*/0 * * * *", "has the step '0'"),
        ("*/90 * * * *", "use '@every 90m'"),
        ("5-3 * * * *", "minute '5-3' ends before it begins: write it as two, 5-59,0-3"),
        ("1,,2 * * * *", "minute '' is no number"),
        ("٣ * * * *", "is no number"),
        ("* * L * *", "day of month 'L' is no number"),
        ("0 0 30 2 *", "day of month 30 never comes in month 2"),
        ("0 0 31 4,6,sep,11 *", "would never run"),
        ("@reboot", "there is no word '@reboot': choose among @every, @yearly"),
        ("@every Xm", "the interval 'Xm' is no duration: give such as 30s"),
        ("@every", "the interval '' is no duration"),
        ("@every 1d", "for a day write 24h"),
        ("@every -5s", "is no duration"),
        ("@every 10ms", "give one second or more"),
        ("CRON_TZ=Europe/Berln 0 3 * * *", "there is no time zone 'Europe/Berln': did you mean 'Europe/Berlin'?"),
        ("TZ=../../etc/passwd 0 3 * * *", "there is no time zone"),
        ("TZ= 0 3 * * *", "is no time zone"),
        ("0 3 * * *" * 100, "more than 256 characters"),
        (None, "give text"),
    ],
)
def test_what_makes_no_sense_is_refused_with_field_value_and_remedy(expression, said):
    """At once, where it is written."""
    with pytest.raises(InvalidSchedule) as error:
        parse(expression)
    assert said in str(error.value)


@pytest.mark.parametrize("expression", ["0 0 29 2 *", "0 0 31 1,2 *", "0 0 30 2 MON", "*/60 * * * *", "0 0 30 * *"])
def test_what_comes_seldom_is_not_refused(expression):
    """Leap years, and a weekday beside an impossible day."""
    assert parse(expression).next_after(at("2026-01-01T00:00")) < float("inf")


def test_leap_days_are_found_over_a_year_that_is_none():
    """2100 is no leap year: eight years lie between."""
    assert parse("0 0 29 2 *").next_after(at("2096-03-01T00:00")) == at("2104-02-29T00:00")
    assert parse("0 0 29 2 *").last_until(at("2104-02-28T00:00")) == at("2096-02-29T00:00")


def test_a_zone_is_given_in_one_place():
    """By name or as an object; both in front and beside is a contradiction."""
    assert parse("0 3 * * *", ZoneInfo("Europe/Berlin")).timezone == "Europe/Berlin"
    assert parse("0 3 * * *").timezone == parse("0 3 * * *", UTC).timezone == "UTC"
    with pytest.raises(InvalidSchedule, match="give one of them"):
        parse("TZ=UTC 0 3 * * *", "Europe/Berlin")
    with pytest.raises(InvalidSchedule, match="is no time zone"):
        parse("0 3 * * *", 3)


def test_missing_zone_data_is_told_with_the_remedy():
    """Slim images have none; UTC works there, and the error names `tzdata`."""
    code = (
        "import sys; sys.modules['tzdata'] = None\n"
        "from fireforget.cron import parse\n"
        "assert 'zoneinfo' not in sys.modules\n"
        "parse('0 3 * * *'), parse('@every 5m')\n"
        "assert 'zoneinfo' not in sys.modules\n"
        "parse('0 3 * * *', 'Europe/Berlin')\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PYTHONTZPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "InvalidSchedule" in done.stderr.splitlines()[-1]
    assert "pip install tzdata" in done.stderr


# --- intervals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "seconds"),
    [("@every 30s", 30), ("@every 1h30m", 5400), ("@every 1h30m10.5s", 5410.5), ("@EVERY 1500ms", 1.5), ("@every .5h", 1800)],
)
def test_an_interval_counts_from_the_epoch(expression, seconds):
    """So every worker, whenever it was started, means the same instants."""
    schedule = parse(expression)
    start = 1_800_000_001.25
    first = schedule.next_after(start)
    assert first % seconds == 0 and start < first <= start + seconds
    assert schedule.next_after(first) == first + seconds
    assert schedule.last_until(first) == first
    assert schedule.last_until(first - 0.001) == first - seconds


# --- the clocks change ------------------------------------------------------------------------------------------------------

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"


@pytest.mark.parametrize(
    ("zone", "expression", "start", "expected"),
    [
        # Berlin: 2026-03-29 02:00 becomes 03:00 at 01:00 UTC; 2026-10-25 03:00 becomes 02:00 at 01:00 UTC.
        (BERLIN, "30 2 * * *", "2026-03-28T00:00", ["03-28T01:30", "03-29T01:00", "03-30T00:30"]),
        (BERLIN, "30 2 * * *", "2026-10-24T12:00", ["10-25T00:30", "10-26T01:30"]),
        (BERLIN, "30 3 * * *", "2026-03-28T12:00", ["03-29T01:30", "03-30T01:30"]),
        (BERLIN, "0 2,3 * * *", "2026-03-28T12:00", ["03-29T01:00", "03-30T00:00", "03-30T01:00"]),
        (BERLIN, "0 1-3 * * *", "2026-10-24T12:00", ["10-24T23:00", "10-25T00:00", "10-25T02:00", "10-26T00:00"]),
        (BERLIN, "0 * * * *", "2026-03-28T23:30", ["03-29T00:00", "03-29T01:00", "03-29T02:00"]),
        (BERLIN, "30 * * * *", "2026-10-24T23:00", ["10-24T23:30", "10-25T00:30", "10-25T01:30", "10-25T02:30"]),
        (BERLIN, "0 */2 * * *", "2026-03-28T22:00", ["03-28T23:00", "03-29T02:00", "03-29T04:00"]),
        (BERLIN, "*/20 2 * * *", "2026-03-28T12:00", ["03-29T01:00", "03-30T00:00", "03-30T00:20"]),
        (
            BERLIN,
            "*/20 2 * * *",
            "2026-10-24T12:00",
            ["10-25T00:00", "10-25T00:20", "10-25T00:40", "10-25T01:00", "10-25T01:20", "10-25T01:40", "10-26T01:00"],
        ),
        (BERLIN, "0 0 * * *", "2026-03-28T12:00", ["03-28T23:00", "03-29T22:00", "03-30T22:00"]),
        # New York: 2026-03-08 02:00 becomes 03:00 at 07:00 UTC; 2026-11-01 02:00 becomes 01:00 at 06:00 UTC.
        (NEW_YORK, "30 2 * * *", "2026-03-07T00:00", ["03-07T07:30", "03-08T07:00", "03-09T06:30"]),
        (NEW_YORK, "30 1 * * *", "2026-10-31T12:00", ["11-01T05:30", "11-02T06:30"]),
        (NEW_YORK, "@hourly", "2026-11-01T04:30", ["11-01T05:00", "11-01T06:00", "11-01T07:00"]),
        (NEW_YORK, "@daily", "2026-10-31T12:00", ["11-01T04:00", "11-02T05:00"]),
        (NEW_YORK, "0 9 * * MON-FRI", "2026-03-06T12:00", ["03-06T14:00", "03-09T13:00"]),
        # Lord Howe, by half an hour: 2026-10-04 02:00 becomes 02:30 at 15:30 UTC; 2026-04-05 02:00 becomes 01:30 at 15:00 UTC.
        (LORD_HOWE, "15 2 * * *", "2026-10-02T12:00", ["10-02T15:45", "10-03T15:30", "10-04T15:15"]),
        (LORD_HOWE, "45 2 * * *", "2026-10-03T12:00", ["10-03T15:45", "10-04T15:45"]),
        (LORD_HOWE, "45 1 * * *", "2026-04-03T12:00", ["04-03T14:45", "04-04T14:45", "04-05T15:15"]),
        (LORD_HOWE, "15 1 * * *", "2026-04-04T12:00", ["04-04T14:15", "04-05T14:45"]),
        (LORD_HOWE, "0 * * * *", "2026-10-03T14:00", ["10-03T14:30", "10-03T16:00", "10-03T17:00"]),
        (LORD_HOWE, "0 * * * *", "2026-04-04T13:30", ["04-04T14:00", "04-04T15:30", "04-04T16:30"]),
        (LORD_HOWE, "*/30 * * * *", "2026-04-04T14:00", ["04-04T14:30", "04-04T15:00", "04-04T15:30", "04-04T16:00"]),
        # At midnight: Sao Paulo 2017-10-15 00:00 becomes 01:00 at 03:00 UTC; Santiago 2026-04-04 24:00 becomes 23:00.
        ("America/Sao_Paulo", "@daily", "2017-10-14T00:00", ["10-14T03:00", "10-15T03:00", "10-16T02:00"]),
        ("America/Santiago", "30 23 * * *", "2026-04-04T12:00", ["04-05T02:30", "04-06T03:30"]),
        ("America/Santiago", "@daily", "2026-04-03T12:00", ["04-04T03:00", "04-05T04:00"]),
        # Apia had no 2011-12-30: the 31st began at 10:00 UTC on the 30th.
        ("Pacific/Apia", "0 12 30 * *", "2011-12-01T00:00", ["12-30T10:00", "01-29T22:00"]),
    ],
)
def test_where_the_clocks_change_nothing_is_lost_and_nothing_doubled(zone, expression, start, expected):
    """Worked out by hand: a time in a gap runs at the first instant after it, a repeated one first, `*` and steps every hour."""
    assert ticks(expression, start, len(expected), zone) == expected


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, LORD_HOWE, "America/Santiago", "Asia/Kathmandu"])
@pytest.mark.parametrize("expression", ["*/7 * * * *", "15 * * * *", "*/30 */3 * * SAT,SUN", "* * 1,5,25,29 3,4,10 *"])
def test_stars_tick_whenever_the_clock_shows_it(zone, expression):
    """The same as looking at the clock each minute, over the changes of a year."""
    schedule, place = parse(expression, zone), ZoneInfo(zone)
    minutes, hours, days, months, weekdays = (field.values for field in (
        schedule._minutes, schedule._hours, schedule._days, schedule._months, schedule._weekdays
    ))  # fmt: skip
    for beginning in ("2026-03-07T22:00", "2026-03-28T18:00", "2026-04-04T10:00", "2026-10-03T10:00", "2026-10-24T20:00"):
        start = datetime.fromisoformat(beginning + "+00:00")
        moments = [(start + timedelta(minutes=n)).astimezone(place) for n in range(1, 1200)]
        shown = [
            moment.timestamp()
            for moment in moments
            if moment.minute in minutes and moment.hour in hours and moment.month in months
            and moment.day in days and moment.isoweekday() % 7 in weekdays
        ]  # fmt: skip
        found, tick = [], start.timestamp()
        while (tick := schedule.next_after(tick)) <= moments[-1].timestamp():
            found.append(tick)
        assert found == shown


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, LORD_HOWE, "America/Santiago", "UTC"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "45 1 * * *", "0,30 23,0 * * *", "*/25 1-3 * * *", "0 0 1 */2 MON"])
def test_the_way_back_is_the_way_there(zone, expression):
    """The last tick until an instant is the one before the next after it, all through a year."""
    schedule = parse(expression, zone)
    tick = schedule.next_after(at("2026-01-01T00:00"))
    while tick < at("2027-01-01T00:00"):
        following = schedule.next_after(tick)
        assert following > tick
        assert schedule.last_until(following - 0.5) == schedule.last_until(tick) == tick
        tick = following


def test_there_is_an_end_to_what_a_datetime_can_carry():
    """Rather than an error in a worker's loop."""
    assert parse("0 0 1 1 *").next_after(at("9999-06-01T00:00")) == float("inf")
    assert parse("0 0 1 1 *").last_until(at("0001-01-01T00:00") - 1) == -float("inf")
