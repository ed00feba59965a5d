"""A task is checked where it is written: its type, its payload, every one of its options."""

import dataclasses
import math
import pickle
import re
from collections import OrderedDict
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum

import pytest

from fireforget.errors import InvalidOption, InvalidPayload, InvalidTask, UnknownOption, shortened
from fireforget.task import State, Task, TaskInfo, check_call_options, check_task, merge_options

NOON = datetime(2030, 1, 2, 12, 0, tzinfo=UTC)
NOON_UNIX = 1893585600.0


# --- the payload --------------------------------------------------------------------------------------------------------


def test_a_payload_is_encoded_when_the_task_is_made():
    """What happens to the object afterwards is not seen, neither by the task nor by who reads its payload."""
    to = ["a@example.com"]
    task = Task("email:send", {"to": to})
    to.append("b@example.com")
    task.payload["to"].append("c@example.com")
    assert task.payload == {"to": ["a@example.com"]}


@pytest.mark.parametrize(
    "payload",
    [None, True, 0, -1.5, 2**80, "", "näh\0 \U0001f600", [], {}, [1, [2, {"a": None}]], {"": {"deep": [{}]}}, "\ud800"],
)
def test_every_json_value_comes_back_as_it_was(payload):
    """A payload is any JSON value, lone surrogates and large integers included."""
    assert Task("t", payload).payload == payload


def test_tuples_and_subclasses_become_plain_json():
    """What the standard encoder takes is taken."""
    assert Task("t", {"a": (1, 2), "b": OrderedDict(c=State.ACTIVE)}).payload == {"a": [1, 2], "b": {"c": "active"}}


def _cycle():
    cycle = []
    cycle.append(cycle)
    return cycle


def _cycle_through_objects():
    cycle = {}
    cycle["self"] = [cycle]
    return cycle


def _deep():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    return deep


class Unspeakable:
    def __repr__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "payload",
    [
        {1, 2},
        b"bytes",
        object(),
        NOON,
        math.nan,
        [math.inf],
        {"a": -math.inf},
        {1: "a"},
        {"a": {None: 1}},
        [{True: 1}],
        {("a", "b"): 1},
        _cycle(),
        _cycle_through_objects(),
        _deep(),
        Unspeakable(),
    ],
    ids=lambda payload: type(payload).__name__,
)
def test_what_is_not_json_raises_where_the_task_is_made(payload):
    """Sets, bytes, NaN, infinities, keys that are not text, cycles: each is refused at once, not at the worker."""
    with pytest.raises(InvalidPayload):
        Task("t", payload)


def test_the_error_names_the_value_and_the_remedy():
    """One reads in the message what was wrong, and what to write instead."""
    with pytest.raises(InvalidPayload, match=r"the key 1 is not text.*write '1'"):
        Task("t", {1: "a"})
    with pytest.raises(InvalidPayload, match=r"\{5\} is not JSON.*use None"):
        Task("t", {5})


# --- the type -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", ["", "  ", "\t", None, 5, b"email:send", "a\0b", "x" * 513, "email:\ud800"])
def test_a_type_that_names_nothing_is_refused(type):
    """Blank, not text, too long, or text that no UTF-8 file can hold."""
    with pytest.raises(InvalidTask, match="task type"):
        Task(type)


def test_a_handler_given_in_place_of_a_task_is_told_so():
    """The likeliest mistake has its own remedy in the message."""

    class Handler:
        def task(self):
            pass

    with pytest.raises(InvalidTask, match=r"call its \.task"):
        check_task(Handler())
    with pytest.raises(InvalidTask, match="not a Task"):
        check_task("email:send")


def test_what_calling_the_handler_itself_gave_is_told_so():
    """`enqueue(send(...))` ran the handler, or made a coroutine of it; `enqueue(send.task)` did not go far enough."""

    async def send():
        pass

    class Handler:
        def task(self):
            pass

    coroutine = send()
    for given in (None, coroutine):
        with pytest.raises(InvalidTask, match=r"did you call the handler itself\? Use handler\.task\(\.\.\.\)"):
            check_task(given)
    coroutine.close()
    with pytest.raises(InvalidTask, match=r"call it with the arguments"):
        check_task(Handler().task)


# --- options ------------------------------------------------------------------------------------------------------------

GOOD = [
    ("queue", "low", "low"),
    ("queue", "büro / 2", "büro / 2"),
    ("priority", -3, -3),
    ("priority", 2**63 - 1, 2**63 - 1),
    ("max_retry", 0, 0),
    ("max_retry", 10**6, 10**6),
    ("timeout", 30, 30.0),
    ("timeout", 0.001, 0.001),
    ("timeout", timedelta(minutes=1), 60.0),
    ("deadline", NOON, NOON_UNIX),
    ("deadline", NOON.astimezone(timezone(timedelta(hours=5, minutes=30))), NOON_UNIX),
    ("process_in", 0, 0.0),
    ("process_in", timedelta(days=1), 86400.0),
    ("process_at", NOON, NOON_UNIX),
    ("task_id", "order-17", "order-17"),
    ("unique_for", 0.5, 0.5),
    ("retention", 0, 0.0),
    ("retention", timedelta(hours=1), 3600.0),
    ("headers", {}, {}),
    ("headers", {"traceparent": "00-a-b-01"}, {"traceparent": "00-a-b-01"}),
]
NAIVE = datetime(2030, 1, 2, 12, 0)
BAD = [
    *(("queue", value) for value in ("", "  ", 5, b"low", "x" * 513, "a\0b", ["low"], "\udcff")),
    *(("priority", value) for value in (True, 1.0, "1", 2**63, -(2**63) - 1)),
    *(("max_retry", value) for value in (-1, True, 2.0, "3", 2**63)),
    *(("timeout", value) for value in (0, 0.0, -1, True, math.nan, math.inf, "30", timedelta(0), 10**400)),
    *(("deadline", value) for value in (NAIVE, 1893585600, "2030-01-02", NOON.date())),
    *(("process_in", value) for value in (-0.001, False, math.nan, math.inf, "1", timedelta(seconds=-1), NOON)),
    *(("process_at", value) for value in (NAIVE, 0, timedelta(1))),
    *(("task_id", value) for value in ("", " ", 17, "x" * 513, "\ud800")),
    *(("unique_for", value) for value in (0, -1, True, math.inf, "1")),
    *(("retention", value) for value in (-1, True, math.nan, "forever")),
    *(("headers", value) for value in ([("a", "b")], {"a": 1}, {1: "a"}, "a=b", {"a": None})),
]


@pytest.mark.parametrize(("option", "value", "kept"), GOOD)
def test_an_option_in_its_range_is_taken(option, value, kept):
    """Durations become seconds and instants Unix seconds, whatever they were written as."""
    options = Task("t", None, **{option: value}).options
    assert options == {option: kept}
    assert type(options[option]) is type(kept)


@pytest.mark.parametrize(("option", "value"), BAD, ids=[f"{option}-{number}" for number, (option, _) in enumerate(BAD)])
def test_an_option_out_of_its_range_raises_with_name_and_value(option, value):
    """Every option refuses what it cannot mean, booleans as numbers and naive datetimes included."""
    with pytest.raises(InvalidOption) as caught:
        Task("t", None, **{option: value})
    assert caught.value.option == option
    assert caught.value.value is value
    assert str(caught.value).startswith(f"{option}={shortened(value)}: ")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("option", ["retries", "delay", "run_timeout", "connection", "Queue"])
def test_an_unknown_option_raises_and_lists_those_there_are(option):
    """A typing mistake is not silently ignored."""
    with pytest.raises(UnknownOption, match=r"the options are .*max_retry") as caught:
        Task("t", None, **{option: 1})
    assert caught.value.option == option


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("prioritiy", "did you mean priority?"),
        ("max_retries", "did you mean max_retry?"),
        ("retries", "did you mean max_retry?"),
        ("delay", "did you mean process_in?"),
        ("countdown", "did you mean process_in?"),
        ("eta", "did you mean process_at?"),
        ("time_limit", "did you mean timeout?"),
        ("run_timeout", "here it is called timeout"),
        ("xyz", "unknown option 'xyz': the options are after, after_failure, deadline, "),
    ],
)
def test_an_unknown_option_gets_the_right_one_proposed(option, said):
    """The nearest name, or what other queues call it."""
    with pytest.raises(UnknownOption) as caught:
        Task("t", None, **{option: 1})
    assert said in str(caught.value)


def test_an_unknown_option_of_a_call_gets_the_name_that_calls_use():
    """There the run time is `run_timeout`."""
    for option, said in (("time_limit", "did you mean run_timeout?"), ("eta", "did you mean process_at?")):
        with pytest.raises(UnknownOption, match=re.escape(said)):
            check_call_options({option: 1})


def test_a_number_out_of_its_range_names_the_end_that_it_is_beyond():
    """Not the other one, which has 19 digits."""
    for value, said in ((-1, "max_retry=-1: it must be at least 0"), (2**63, "it must be at most 9223372036854775807")):
        with pytest.raises(InvalidOption) as caught:
            Task("t", None, max_retry=value)
        assert str(caught.value).endswith(said)


def test_none_is_as_if_the_option_were_not_given():
    """So that callers can pass on what they were given."""
    assert Task("t", None, queue=None, deadline=None, headers=None).options == {}


def test_options_that_contradict_each_other_raise():
    """Two delays, or a key without how long it is held."""
    with pytest.raises(InvalidOption, match="not both"):
        Task("t", None, process_in=1, process_at=NOON)
    with pytest.raises(InvalidOption, match="unique_for"):
        Task("t", None, unique_key="k")


def test_the_run_time_is_run_timeout_at_a_call():
    """`timeout` at a call is how long the call may wait, so as a task's option it is not taken there."""
    assert check_call_options({"run_timeout": timedelta(seconds=2)}) == {"timeout": 2.0}
    with pytest.raises(UnknownOption, match="run_timeout"):
        check_call_options({"timeout": 3})
    with pytest.raises(InvalidOption) as caught:
        check_call_options({"run_timeout": 0})
    assert caught.value.option == "run_timeout"


def test_what_a_call_says_wins_over_the_task():
    """And one kind of delay replaces the other."""
    assert merge_options({"queue": "low", "priority": 1}, {"queue": "high"}) == {"queue": "high", "priority": 1}
    assert merge_options({"process_at": NOON_UNIX}, {"process_in": 1.0}) == {"process_in": 1.0}
    assert merge_options({"process_in": 1.0}, {"process_at": NOON_UNIX}) == {"process_at": NOON_UNIX}


# --- the objects --------------------------------------------------------------------------------------------------------


def test_a_task_does_not_change():
    """It may be shared between threads and enqueued more than once."""
    task = Task("email:send", {"to": "a"}, queue="low")
    for change in (lambda: setattr(task, "type", "x"), lambda: delattr(task, "type")):
        with pytest.raises(AttributeError, match="immutable"):
            change()
    assert task == Task("email:send", {"to": "a"}, queue="low") == pickle.loads(pickle.dumps(task))
    assert len({task, Task("email:send", {"to": "a"}, queue="low")}) == 1
    assert task != Task("email:send", {"to": "a"})
    assert repr(task) == "Task('email:send', {'to': 'a'}, queue='low')"


def test_a_task_info_does_not_change(queue):
    """A snapshot cannot be mistaken for a handle on the job."""
    info = queue.enqueue(Task("t"))
    for field in dataclasses.fields(TaskInfo):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(info, field.name, None)


def test_states_are_text():
    """`info.state == "pending"` works, and so does JSON."""
    assert issubclass(State, StrEnum)
    assert State.PENDING == "pending"
    assert [str(state) for state in State] == [
        "scheduled", "pending", "active", "retry", "completed", "archived", "aggregating", "blocked", "cancelled",
    ]  # fmt: skip
