"""Handlers: how they are found, how tasks for them are made, and what a stored payload becomes."""

import asyncio
import inspect
import sys

import pytest

from fireforget import idempotent
from fireforget.errors import InvalidOption, InvalidPayload, InvalidTask, RegistrationError, UnknownOption
from fireforget.middleware import DEFAULT_CHAIN
from fireforget.registry import PayloadMismatch, Registry


@pytest.fixture
def registry():
    return Registry()


# --- finding ------------------------------------------------------------------------------------------------------------


def test_an_exact_type_comes_before_the_longest_prefix(registry):
    """A prefix handles what nothing more exact does."""
    names = ["a:", "a:b:", "a:b:c", "other"]
    for name in names:
        registry.task(name)(lambda: None)
    found = {type: registry.match(type) for type in ("a:b:c", "a:b:d", "a:x", "a:b:c:d", "a:", "other", "others", "b", "a")}
    patterns = {type: definition and definition.pattern for type, definition in found.items()}
    assert patterns == {
        "a:b:c": "a:b:c", "a:b:d": "a:b:", "a:x": "a:", "a:b:c:d": "a:b:", "a:": "a:", "other": "other",
        "others": None, "b": None, "a": None,
    }  # fmt: skip
    assert list(registry.definitions) == names


def test_a_second_handler_for_a_type_is_refused_and_the_first_one_stays(registry):
    """Which of two would run is nothing to leave to chance."""

    @registry.task("a:b")
    def first():
        pass

    with pytest.raises(RegistrationError, match=r"'a:b' has a handler already, .*first"):
        registry.task("a:b")(lambda: None)
    assert registry.match("a:b") is first


@pytest.mark.parametrize("type", ["", "  ", None, 5])
def test_a_blank_type_cannot_be_registered(registry, type):
    """Not at the first job, but while the module is imported."""
    with pytest.raises(RegistrationError):
        registry.task(type)


@pytest.mark.parametrize("what", [None, "function", 5])
def test_what_cannot_be_called_cannot_be_registered(registry, what):
    """Neither a forgotten function nor a handler that is one already."""
    with pytest.raises(RegistrationError):
        registry.task("a:b")(what)
    definition = registry.task("a:b")(lambda: None)
    with pytest.raises(RegistrationError):
        registry.task("a:c")(definition)


def test_options_of_a_handler_are_checked_at_registration(registry):
    """Also those that would name one job or one instant for all of them."""
    with pytest.raises(InvalidOption):
        registry.task("a:b", max_retry=-1)
    with pytest.raises(UnknownOption):
        registry.task("a:b", task_id="one")
    with pytest.raises(InvalidOption):
        registry.task("a:b", retry_delay="soon")
    with pytest.raises(InvalidOption):
        Registry(retry_delay=-1)


def test_an_option_that_a_handler_cannot_have_is_explained(registry):
    """It is an option of one task, or has another name."""
    for option, said in (
        ("eta", "give process_at with each task"),
        ("task_id", "give task_id with each"),
        ("run_timeout", "timeout"),
    ):
        with pytest.raises(UnknownOption, match=said):
            registry.task("a:b", **{option: 1})


def test_a_decorator_without_parentheses_is_told_how_to_write_it(registry):
    """Registered under no type, it would never run."""
    with pytest.raises(RegistrationError, match=r"write @registry\.task\('send'\) above it"):

        @registry.task
        def send():
            pass


# --- making tasks -------------------------------------------------------------------------------------------------------


def test_a_task_has_its_arguments_by_name_and_its_handlers_options(registry):
    """A producer and a worker never disagree about a queue or a timeout."""

    @registry.task("email:send", queue="critical", max_retry=5, timeout=30)
    def send(to, subject="hello", *, copy=False):
        return to, subject, copy

    task = send.task("a@example.com", copy=True)
    assert (task.type, task.payload) == ("email:send", {"to": "a@example.com", "copy": True})
    assert task.options == {"queue": "critical", "max_retry": 5, "timeout": 30.0}
    assert send.task(to="a@example.com", copy=True) == task


def test_arguments_that_do_not_fit_raise_type_error_at_once(registry):
    """As calling the function would, and with its signature in the message."""

    @registry.task("email:send")
    def send(to, subject="hello"):
        pass

    for args, kwargs in (((), {}), (("a", "b", "c"), {}), (("a",), {"to": "b"}), ((), {"to": "a", "cc": "b"})):
        with pytest.raises(TypeError, match=r"email:send: .*\(to, subject='hello'\)"):
            send.task(*args, **kwargs)
    with pytest.raises(InvalidPayload):
        send.task(to={1})


def test_a_mistyped_argument_is_named_beside_the_one_that_is_missing(registry):
    """When a task is made, and when a stored payload does not fit; not where any name is taken."""

    @registry.task("file:index")
    def index(path, depth=1):
        pass

    @registry.task("any")
    def any_name(path, **more):
        pass

    said = r"missing a required argument: 'path', and got an unexpected 'pth', 'dpth'"
    with pytest.raises(TypeError, match=said):
        index.task(pth="x", dpth=2)
    with pytest.raises(PayloadMismatch, match=said):
        index.call({"pth": "x", "dpth": 2})
    with pytest.raises(TypeError, match=r"argument: 'path'; its"):
        any_name.task(pth="x")


def test_arguments_that_have_no_name_cannot_be_stored(registry):
    """A payload is an object of names: positional-only parameters and `*args` say so when a task is made."""

    @registry.task("only")
    def only(a, /, b):
        pass

    @registry.task("many")
    def many(*args, **more):
        pass

    for make in (lambda: only.task(1, b=2), lambda: many.task(1)):
        with pytest.raises(TypeError, match="by position"):
            make()
    assert many.task(a=1).payload == {"a": 1}


def test_no_arguments_are_a_null_payload(registry):
    """Which is what the handler is then called with: nothing."""
    ping = registry.task("ping")(lambda: "pong")
    assert ping.task().payload is None
    assert ping.call(None) == "pong"


def test_a_prefix_cannot_make_a_task_by_itself(registry):
    """The type would be the prefix, which names nothing."""
    with pytest.raises(InvalidTask, match="name the full type"):
        registry.task("fanout:")(lambda: None).task()


# --- calling ------------------------------------------------------------------------------------------------------------


def test_a_definition_called_directly_is_the_plain_function(registry):
    """Positions, names, results and errors: nothing is added."""

    @registry.task("add")
    def add(a, b=1, /, *more):
        """Add."""
        return a + b + sum(more)

    assert add(1, 2, 3) == 6
    assert (add.__name__, add.__doc__) == ("add", "Add.")
    assert str(inspect.signature(add)) == "(a, b=1, /, *more)"
    with pytest.raises(TypeError):
        add()


def test_an_async_handler_is_known_as_one(registry):
    """Called directly it gives its coroutine, and an object with an async `__call__` counts as well."""

    @registry.task("slow")
    async def slow(x):
        return x

    class Callable:
        async def __call__(self, x):
            return x

    assert slow.is_async
    assert registry.task("object")(Callable()).is_async
    assert not registry.task("plain")(lambda: None).is_async
    assert asyncio.run(slow(3)) == 3


@pytest.mark.parametrize(
    ("payload", "seen"),
    [({"a": 1}, (1, 2, {})), ({"a": 1, "b": 3, "c": 4}, (1, 3, {"c": 4})), ([1, 2], ([1, 2], 2, {})), ("x", ("x", 2, {}))],
)
def test_a_stored_payload_becomes_arguments(registry, payload, seen):
    """An object's members are keyword arguments, anything else is the single positional one."""
    definition = registry.task("t")(lambda a, b=2, **more: (a, b, more))
    assert definition.call(payload) == seen


@pytest.mark.parametrize("payload", [None, {}, {"b": 1}, {"a": 1, "c": 2}])
def test_a_stored_payload_that_does_not_fit_says_so(registry, payload):
    """Told apart from a `TypeError` of the handler's own, which is worth a retry; this is not."""
    definition = registry.task("t")(lambda a, b=2: None)
    with pytest.raises(PayloadMismatch, match="the payload does not fit t"):
        definition.call(payload)


def test_a_type_error_inside_a_handler_is_its_own(registry):
    """Only the call itself is a mismatch."""
    definition = registry.task("t")(lambda a: a + "text")
    with pytest.raises(TypeError) as caught:
        definition.call({"a": 1})
    assert not isinstance(caught.value, PayloadMismatch)


def test_a_scalar_for_a_handler_without_parameters_does_not_fit(registry):
    """There is nowhere for it to go."""
    definition = registry.task("t")(lambda: None)
    with pytest.raises(PayloadMismatch):
        definition.call(5)


# --- middleware ---------------------------------------------------------------------------------------------------------


def test_middleware_goes_inside_what_is_there_and_can_be_replaced():
    """`use` adds to the default chain; a registry with its own chain has that alone."""

    def first(job, call_next):
        return call_next()

    registry = Registry()
    registry.use(first)
    assert registry.middleware == [*DEFAULT_CHAIN, first]
    assert Registry(middleware=[first]).middleware == [first]
    assert Registry(middleware=[]).middleware == []
    assert list(DEFAULT_CHAIN) == registry.middleware[:-1]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="before 3.14 an annotation is evaluated where it stands")
def test_an_annotation_may_name_what_is_there_for_a_checker_alone(registry):
    """Nobody here asks what it means."""
    names = {"registry": registry, "idempotent": idempotent}
    exec(
        """
@registry.task("a")
def a(order: Later, *, note: Later = None) -> Later: ...

@registry.task("b")
@idempotent("{order}", ttl=60)
def b(order: Later): ...

@registry.periodic("@hourly", payload=lambda tick: None)
@registry.task("c")
def c(): ...

def build(tick: Later) -> Later: ...

registry.periodic("@daily", payload=build, name="built")(c)
""",
        names,
    )
    assert names["a"].task(order=1).payload == {"order": 1}
    assert names["b"].task(order=1).payload == {"order": 1}
