"""Limits as they are written at a handler: what is refused, and what key a payload has."""

import pytest

from fireforget import Registry, Task
from fireforget._handler_limits import UNFIT, named_in
from fireforget.errors import InvalidOption
from fireforget.registry import PayloadMismatch


@pytest.fixture
def registry():
    return Registry()


def handler(registry, function, name="mail:send", **limits):
    return registry.task(name, **limits)(function)


def key_of(task):
    return task.options["limit_key"]


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "2", 10**7])
def test_a_concurrency_that_cannot_be_raises(registry, value):
    """Where it is written."""
    with pytest.raises(InvalidOption, match="concurrency"):
        registry.task("t", concurrency=value)


@pytest.mark.parametrize("value", ["10", "10/d", "0/s", "-1/s", "1.5/s", "10 per s", "", 10, "99999999/h", "٣/s"])
def test_a_rate_that_cannot_be_raises(registry, value):
    """With what it may look like."""
    with pytest.raises(InvalidOption, match="rate"):
        registry.task("t", rate=value)


def test_a_rate_is_starts_and_seconds(registry):
    """A second, a minute, an hour."""
    rates = [
        handler(registry, lambda: None, f"t{n}", rate=text).limits.rate for n, text in enumerate(("10/s", " 7 / m", "5000/h"))
    ]
    assert rates == [(10, 1.0), (7, 60.0), (5000, 3600.0)]
    assert list(map(str, rates)) == ["10/s", "7/m", "5000/h"]


@pytest.mark.parametrize(
    "key", ["", "  ", 7, "{user", "{user.name}", "{user[0]}", "{user!r}", "{user:>5}", "{}", "{0}", "{other}"]
)
def test_a_key_that_cannot_be_raises(registry, key):
    """Only names of arguments can be in braces: a payload has nothing else, and a format could run code."""
    with pytest.raises(InvalidOption, match="concurrency_key"):
        handler(registry, lambda user: None, concurrency=1, concurrency_key=key)


def test_a_key_alone_limits_nothing_and_raises(registry):
    """It says by what something counts."""
    with pytest.raises(InvalidOption, match="give concurrency or rate too"):
        handler(registry, lambda user: None, concurrency_key="{user}")


def test_a_task_of_a_handler_has_its_key(registry):
    """Text as it is, anything else as JSON writes it, defaults where the payload leaves them out."""
    send = handler(registry, lambda user, kind="plain": None, concurrency=2, concurrency_key="{{{user}}}/{kind}")
    assert key_of(send.task(user="ada")) == "mail:send {ada}/plain"
    assert key_of(send.task(user=7, kind=None)) == "mail:send {7}/null"
    assert key_of(send.task(user=True, kind=["b", {"c": 1}])) == 'mail:send {true}/["b",{"c":1}]'
    assert send.task(user=1) == send.task(user=1)
    assert send.task(user=1) != send.task(user=2)


def test_a_handler_without_a_key_has_one_for_all(registry):
    """And one without limits has none."""
    assert key_of(handler(registry, lambda: None, rate="1/s").task()) == "mail:send"
    plain = handler(registry, lambda: None, "plain")
    assert (plain.limits, plain.task().options) == (None, {})


def test_keys_of_handlers_are_apart(registry):
    """Whatever their names have in them."""
    first = handler(registry, lambda key: None, "a b", concurrency=1, concurrency_key="{key}")
    second = handler(registry, lambda key: None, "a", concurrency=1, concurrency_key="{key}")
    assert key_of(first.task(key="c")) != key_of(second.task(key="b c"))
    assert named_in(key_of(first.task(key="c d"))) == ("a b", "c d")
    third = handler(registry, lambda: None, "100% a", concurrency=1)
    assert named_in(key_of(third.task())) == ("100% a", None)


def test_long_keys_stay_short_and_apart(registry):
    """They stand in an index."""
    send = handler(registry, lambda text: None, concurrency=1, concurrency_key="{text}")
    one, other = (key_of(send.task(text="x" * 100_000 + end)) for end in "ab")
    assert one != other
    assert len(one) < 400


def test_text_that_utf8_cannot_carry_makes_a_key_too(registry):
    """A lone surrogate is JSON."""
    send = handler(registry, lambda text: None, concurrency=1, concurrency_key="{text}")
    key_of(send.task(text="\ud800")).encode()


def test_a_task_without_what_the_key_names_raises(registry):
    """At the call, as arguments do that do not fit."""
    send = handler(registry, lambda **rest: None, concurrency=1, concurrency_key="{user}")
    assert key_of(send.task(user=1)) == "mail:send 1"
    with pytest.raises(TypeError, match="needs user, which the payload does not have"):
        send.task(other=1)
    with pytest.raises(PayloadMismatch, match="needs user"):
        send.call({"other": 1})


@pytest.mark.parametrize(
    ("payload", "key"),
    [
        ('{"user": 7}', "mail:send 7"), ("7", "mail:send 7"), ("[7]", "mail:send [7]"),
        ("{}", UNFIT), (None, UNFIT), ("{", UNFIT), ("[" * 10**5, UNFIT),
    ],
)  # fmt: skip
def test_a_stored_payload_has_the_key_that_its_handler_would_make(registry, payload, key):
    """Also one that is no object, and fills the first argument."""
    send = handler(registry, lambda user: None, concurrency=1, concurrency_key="{user}")
    assert send.limits.key_of_text(payload) == key


def test_schedules_and_events_have_keys_too(registry):
    """Whatever makes the task."""
    tick = registry.periodic("@daily", payload={"user": 7})(
        handler(registry, lambda user: None, concurrency=1, concurrency_key="{user}")
    )
    assert key_of(registry.schedules["mail:send"].task(0.0)) == "mail:send 7"
    assert tick.limits is not None


def test_limits_are_no_options_of_a_task():
    """They are the handler's: two tasks of it cannot differ in them."""
    for option in ("concurrency", "rate", "concurrency_key", "limit_key"):
        with pytest.raises(InvalidOption.__mro__[1]):
            Task("t", None, **{option: 1})
