"""`@registry.periodic`, and which ticks are enqueued when a worker comes late."""

from datetime import datetime

import pytest

from fireforget import InvalidOption, InvalidPayload, InvalidSchedule, RegistrationError, Registry, UnknownOption
from fireforget.cron import parse
from fireforget.periodic import due_ticks


@pytest.fixture
def registry():
    return Registry()


def at(text):
    return datetime.fromisoformat(f"2026-03-02T{text}+00:00").timestamp()


def test_schedules_stand_above_a_handler(registry):
    """Several, each with its zone, payload and options over the handler's; the handler is still the function that it was."""

    @registry.periodic("0 9 * * MON", timezone="Europe/Berlin", payload={"full": True}, queue="low", name="weekly")
    @registry.periodic("@every 5m", headers={"from": "schedule"})
    @registry.task("report:build", queue="critical", max_retry=3)
    def build(full: bool = False) -> str:
        return f"full={full}"

    assert build(full=True) == "full=True"
    assert list(registry.definitions) == ["report:build"]
    assert list(registry.schedules) == ["report:build", "weekly"]
    weekly = registry.schedules["weekly"].task(at("08:00:00"))
    assert (weekly.type, weekly.payload, weekly.options["queue"], weekly.options["max_retry"]) == (
        "report:build", {"full": True}, "low", 3
    )  # fmt: skip
    headers = {"fireforget-schedule": "weekly", "fireforget-tick": "2026-03-02T08:00:00+00:00"}
    assert weekly.options["headers"] == headers
    often = registry.schedules["report:build"].task(at("08:00:00"))
    assert (often.payload, often.options["queue"], often.options["headers"]["from"]) == (None, "critical", "schedule")


def test_a_schedule_above_a_plain_function_makes_a_handler(registry):
    """Whose type is the function's name, or the one that is given; options are the handler's."""

    @registry.periodic("@hourly", queue="low")
    def refresh_cache(): ...

    @registry.periodic("@hourly", type="cache:drop")
    def drop(): ...

    assert list(registry.definitions) == list(registry.schedules) == ["refresh_cache", "cache:drop"]
    assert refresh_cache.task().options == {"queue": "low"}


def test_further_schedules_get_a_name_of_their_own(registry):
    """Which does not depend on their order among each other; a name that is taken is refused."""

    @registry.periodic("0 17 * * *", timezone="Europe/Berlin")
    @registry.periodic("0 12 * * *")
    @registry.periodic("0 9 * * *")
    @registry.task("mail:digest")
    def digest(): ...

    assert list(registry.schedules) == ["mail:digest", "mail:digest 0 12 * * *", "mail:digest 0 17 * * * Europe/Berlin"]
    with pytest.raises(RegistrationError, match="there is a schedule 'mail:digest 0 12"):
        registry.periodic("0 12 * * *")(digest)


def test_a_payload_is_built_from_the_tick_in_the_zone_of_the_schedule(registry):
    """Or from nothing, where the function takes nothing."""

    @registry.periodic("0 3 * * *", timezone="America/New_York", payload=lambda tick: {"day": f"{tick:%Y-%m-%d %H:%M %z}"})
    @registry.periodic("0 4 * * *", name="constant", payload=lambda: {"day": "today"})
    @registry.task("report:day")
    def day(day: str) -> None: ...

    assert registry.schedules["report:day"].task(at("08:00:00")).payload == {"day": "2026-03-02 03:00 -0500"}
    assert registry.schedules["constant"].task(at("04:00:00")).payload == {"day": "today"}


def test_mistakes_are_told_where_they_are_written(registry):
    """With the remedy, when the module is imported, not at night when the schedule ticks."""

    @registry.task("report:day")
    def day(day: str) -> None: ...

    @registry.task("user:")
    def users() -> None: ...

    for wrong, error, said in [
        ({"payload": None}, RegistrationError, "missing a required argument: 'day'.*payload="),
        ({"payload": {"dai": 1}}, RegistrationError, "payload="),
        ({"payload": {"day": object()}}, InvalidPayload, "is not JSON"),
        ({"payload": lambda a, b: None}, RegistrationError, "must take nothing, or the tick"),
        ({"missed": "never", "payload": "x"}, InvalidOption, "choose 'run_once', 'skip' or 'catch_up'"),
        ({"name": "", "payload": "x"}, RegistrationError, "not blank"),
        ({"name": "n" * 201, "payload": "x"}, RegistrationError, "at most 200"),
        ({"type": "other", "payload": "x"}, RegistrationError, "has a type already"),
        ({"task_id": "x"}, UnknownOption, "task_id"),
        ({"cron": "61 * * * *"}, InvalidSchedule, "out of range"),
        ({"timezone": "Mars/Base"}, InvalidSchedule, "no time zone"),
    ]:
        with pytest.raises(error, match=said):
            registry.periodic(**{"cron": "@daily", **wrong})(day)

    async def fetch(): ...

    with pytest.raises(RegistrationError, match="is async"):
        registry.periodic("@daily", payload=fetch)(day)
    with pytest.raises(RegistrationError, match="is a prefix"):
        registry.periodic("@daily")(users)
    with pytest.raises(RegistrationError, match="another registry"):
        Registry().periodic("@daily", payload="x")(day)
    with pytest.raises(RegistrationError, match=r"write @registry\.periodic above"):
        registry.task("report:night")(registry.periodic("@daily")(lambda: None))
    assert "report:day" not in registry.schedules


def test_what_a_schedule_says_is_told_apart(registry):
    """Workers compare digests: the same words are the same, any other word is another."""

    def digest(cron="@daily", **said):
        own = Registry()
        own.periodic(cron, **said)(own.task("a")(lambda x=0: None))
        return own.schedules["a"].digest

    assert digest() == digest()
    others = [{"cron": "@hourly"}, {"timezone": "Europe/Berlin"}, {"missed": "skip"}, {"payload": {"x": 1}}, {"queue": "low"}]
    assert len({digest(), *(digest(**said) for said in others)}) == 6


# --- ticks that are due -----------------------------------------------------------------------------------------------------


def due(missed, expected, now, cron="0 * * * *"):
    found = due_ticks(parse(cron), missed, at(expected), at(now))
    return tuple(found)


@pytest.mark.parametrize("missed", ["run_once", "skip", "catch_up"])
def test_a_tick_in_time_is_enqueued_whatever_the_policy(missed):
    """60 seconds late is in time; so are several ticks within them."""
    assert due(missed, "08:00:00", "08:00:00") == ([at("08:00:00")], at("09:00:00"), None)
    assert due(missed, "08:00:00", "08:01:00") == ([at("08:00:00")], at("09:00:00"), None)


def test_a_short_gap_makes_no_burst_of_short_intervals():
    """Of ticks that are due at the same look the last is in time, and the others were missed; catch_up has them all."""
    assert due("skip", "08:00:00", "08:00:32", "@every 5s")[0] == [at("08:00:30")]
    ticks, following, dropped = due("run_once", "08:00:00", "08:00:32", "@every 5s")
    assert (ticks, following, dropped) == ([at("08:00:30")], at("08:00:35"), (at("08:00:00"), at("08:00:25")))
    assert len(due("catch_up", "08:00:00", "08:00:32", "@every 5s")[0]) == 7


def test_of_missed_ticks_one_is_run_or_none_or_all():
    """As the schedule says; what is left out is told."""
    assert due("skip", "08:00:00", "08:01:01") == ([], at("09:00:00"), (at("08:00:00"), at("08:00:00")))
    assert due("run_once", "08:00:00", "08:01:01") == ([at("08:00:00")], at("09:00:00"), None)
    assert due("run_once", "05:00:00", "08:30:00") == ([at("08:00:00")], at("09:00:00"), (at("05:00:00"), at("07:00:00")))
    assert due("catch_up", "05:00:00", "08:30:00")[0] == [at(f"0{hour}:00:00") for hour in (5, 6, 7, 8)]


def test_one_that_is_in_time_stands_for_those_that_were_missed():
    """Once is once: not a second run beside it."""
    assert due("run_once", "05:00:00", "08:00:10") == ([at("08:00:00")], at("09:00:00"), (at("05:00:00"), at("07:00:00")))
    assert due("skip", "07:00:00", "08:00:10") == ([at("08:00:00")], at("09:00:00"), (at("07:00:00"), at("07:00:00")))


def test_catching_up_has_an_end():
    """The last 1,000, after whatever time; a year of minutes is looked through no further."""
    found = due_ticks(parse("* * * * *"), "catch_up", at("08:00:00") - 365 * 86400, at("08:00:00"))
    assert len(found.ticks) == 1001 and found.ticks[-1] == at("08:00:00")
    assert found.dropped == (at("08:00:00") - 365 * 86400, found.ticks[0] - 60)
