"""What every enqueuer promises, as checks that people run against their own: `check_enqueuer` of `fireforget.testing`.

A check is a function of a fresh enqueuer and of nothing else, so it runs under any test framework. It uses the protocol alone:
what was stored is seen in the `TaskInfo` that `enqueue` answers with, and in what a second call says of the first.

An option that an engine cannot keep is refused with `InvalidOption`, which names it; a check takes that for an answer. What none
takes is an option that is dropped in silence.
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

from fireforget.enqueuer import Enqueuer
from fireforget.errors import DuplicateTask, FireforgetError, InvalidOption, InvalidTask, TaskIDConflict, UnknownOption
from fireforget.middleware import describe
from fireforget.patterns import fan_out, fire_and_forget
from fireforget.registry import Registry
from fireforget.task import DEFAULT_MAX_RETRY, DEFAULT_TIMEOUT, State, Task, TaskInfo

TYPE = "conformance:check"
"""The type of every task of the checks, but for those that are fanned out."""
EVENT = "conformance:event"

_PATIENCE = 10.0  # seconds for what happens on other threads
_NEAR = timedelta(seconds=30)  # an engine's clock may differ from ours


def check_enqueuer(make: Callable[[], Enqueuer], *, type: str = TYPE) -> list[str]:
    """Check that an enqueuer keeps what every `Enqueuer` promises, and return the names of the promises.

    `make` is called with nothing, once for each promise, and returns an enqueuer; it may be the same one again. `type` is that of
    the tasks, for an engine that takes known ones alone. They are enqueued and never run; no handler is needed. An option that
    the engine cannot keep must be refused with `InvalidOption` naming it.

    Raises `AssertionError` that names each promise which was not kept, after all checks have run.
    """
    passed: list[str] = []
    broken: list[str] = []
    for name, check in CHECKS.items():
        try:
            check(make(), type)
        except Exception as error:
            broken.append(f"{name}: {describe(error)}")
        else:
            passed.append(name)
    if broken:
        raise AssertionError("the enqueuer does not keep what enqueuers promise:\n  " + "\n  ".join(broken))
    return passed


def _holds(condition: object, otherwise: str) -> None:
    """Raise `AssertionError` unless the condition holds; an `assert` would not under `python -O`."""
    if not condition:
        raise AssertionError(otherwise)


def _is(what: str, actual: object, wanted: object) -> None:
    _holds(actual == wanted, f"{what} is {actual!r} and should be {wanted!r}")


def _raises(kind: type[BaseException], what: str, call: Callable[[], object]) -> Any:
    try:
        call()
    except kind as error:
        return error
    except Exception as error:
        raise AssertionError(f"{what} raised {describe(error)} and should raise {kind.__name__}") from error
    raise AssertionError(f"{what} should raise {kind.__name__} and was taken")


def _kept_or_refused(option: str, call: Callable[[], TaskInfo]) -> TaskInfo | None:
    """Return what was stored with an option; None where the engine refused that very option by name."""
    try:
        return call()
    except InvalidOption as error:
        _is(f"the `option` of the error that refuses {option}", error.option, option)
        return None


# --- the checks -----------------------------------------------------------------------------------------------------------


def _answers_with_what_it_stored(enqueuer: Enqueuer, type: str) -> None:
    _holds(isinstance(enqueuer, Enqueuer), f"{enqueuer!r} has no method enqueue")
    now = datetime.now(UTC)
    first = enqueuer.enqueue(Task(type, {"number": 1}))
    second = enqueuer.enqueue(Task(type, {"number": 2}))
    _holds(isinstance(first, TaskInfo), f"enqueue returned {first!r} and should return a TaskInfo")
    _holds(isinstance(first.id, str) and first.id.strip(), f"the id is {first.id!r} and should be text")
    _holds(first.id != second.id, f"two tasks have the id {first.id!r}")
    _is("type", first.type, type)
    _is("payload", first.payload, {"number": 1})
    _is("queue", first.queue, "default")
    _is("state", first.state, State.PENDING)
    _is("retry_count", first.retry_count, 0)
    _is("max_retry", first.max_retry, DEFAULT_MAX_RETRY)
    _is("timeout", first.timeout, DEFAULT_TIMEOUT)
    _is("priority", first.priority, 0)
    _is("headers", dict(first.headers), {})
    _holds(first.enqueued_at.utcoffset() == timedelta(0), f"enqueued_at is {first.enqueued_at!r} and should be in UTC")
    _holds(abs(first.enqueued_at - now) < _NEAR, f"enqueued_at is {first.enqueued_at!r}, and it was {now!r}")


def _takes_any_json(enqueuer: Enqueuer, type: str) -> None:
    for payload in (None, {}, [1, 2], "text", 0, 1.5, True, {"ä": ["\u2028", {"deep": [None]}]}, 2**53):
        _is(f"the payload {payload!r}", enqueuer.enqueue(Task(type, payload)).payload, payload)


def _with(enqueuer: Enqueuer, task: Task, option: str, value: Any) -> Callable[[], TaskInfo]:
    """Return the call that enqueues a task with one option, whatever its value."""
    options: dict[str, Any] = {option: value}
    return lambda: enqueuer.enqueue(task, **options)


def _takes_options_of_the_task(enqueuer: Enqueuer, type: str) -> None:
    """Each by itself, on the task; refused by name where the engine cannot keep it."""
    deadline = datetime.now(UTC) + timedelta(hours=1)
    options: dict[str, Any] = {
        "queue": "low", "priority": 3, "max_retry": 2, "timeout": 7, "deadline": deadline, "headers": {"a": "b"},
    }  # fmt: skip
    for option, value in options.items():
        info = _kept_or_refused(option, partial(enqueuer.enqueue, Task(type, **{option: value})))
        if info is not None:
            _is(option, getattr(info, option), value)
    group = _kept_or_refused("group", lambda: enqueuer.enqueue(Task(type, group="conformance")))
    _holds(group is None or group.group == "conformance", "group was dropped")
    _kept_or_refused("retention", lambda: enqueuer.enqueue(Task(type, retention=60)))


def _options_of_the_call_override_those_of_the_task(enqueuer: Enqueuer, type: str) -> None:
    task = Task(type, queue="low", max_retry=1, timeout=7)
    info = enqueuer.enqueue(task, queue="critical", max_retry=3, run_timeout=9, timeout=_PATIENCE)
    _is("queue", info.queue, "critical")
    _is("max_retry", info.max_retry, 3)
    _is("timeout (run_timeout at the call)", info.timeout, 9)
    _is("timeout of a call that may wait for 10 s", enqueuer.enqueue(task, timeout=_PATIENCE).timeout, 7)


def _delays(enqueuer: Enqueuer, type: str) -> None:
    now = datetime.now(UTC)
    for option, value in (("process_in", 3600), ("process_at", now + timedelta(hours=1))):
        info = _kept_or_refused(option, _with(enqueuer, Task(type), option, value))
        if info is not None:
            _is(f"state with {option}", info.state, State.SCHEDULED)
            due = info.next_process_at
            _holds(due is not None and abs(due - now - timedelta(hours=1)) < _NEAR, f"next_process_at with {option} is {due!r}")


def _refuses_what_is_wrong(enqueuer: Enqueuer, type: str) -> None:
    task = Task(type)
    naive = datetime(2030, 1, 1)
    wrong: tuple[Any, ...] = (None, "text", len, {"type": type})
    for thing in wrong:
        _raises(InvalidTask, f"enqueue({thing!r})", partial(enqueuer.enqueue, thing))
    _raises(UnknownOption, "an unknown option", lambda: enqueuer.enqueue(task, retries=3))
    for option, value in (
        ("queue", " "), ("priority", "high"), ("max_retry", -1), ("run_timeout", 0), ("deadline", naive), ("process_in", -1),
        ("process_at", naive), ("headers", {"a": 1}), ("timeout", 0),
    ):  # fmt: skip
        _raises(InvalidOption, f"{option}={value!r}", _with(enqueuer, task, option, value))
    _raises(InvalidTask, "both process_in and process_at", lambda: enqueuer.enqueue(task, process_in=1, process_at=_tomorrow()))
    _raises(InvalidTask, "unique_key without unique_for", lambda: enqueuer.enqueue(task, unique_key="a"))


def _tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


def _an_id_is_taken_once(enqueuer: Enqueuer, type: str) -> None:
    task_id = f"conformance-{uuid4()}"
    info = _kept_or_refused("task_id", lambda: enqueuer.enqueue(Task(type), task_id=task_id))
    if info is not None:
        _is("the id with a task_id", info.id, task_id)
        error = _raises(TaskIDConflict, "a task_id that is taken", lambda: enqueuer.enqueue(Task(type), task_id=task_id))
        _is("the `task_id` of the conflict", error.task_id, task_id)


def _a_unique_key_is_held(enqueuer: Enqueuer, type: str) -> None:
    unique = {"unique_for": 600, "unique_key": f"conformance-{uuid4()}"}
    if _kept_or_refused("unique_for", lambda: enqueuer.enqueue(Task(type, **unique))) is not None:
        error = _raises(DuplicateTask, "a unique key that is held", lambda: enqueuer.enqueue(Task(type, **unique)))
        _holds(error.unique_key.endswith(unique["unique_key"]), f"the `unique_key` of the error is {error.unique_key!r}")


def _many_are_all_or_nothing(enqueuer: Enqueuer, type: str) -> None:
    """Asked only of an enqueuer that has `enqueue_many`."""
    enqueue_many: Callable[..., list[TaskInfo]] | None = getattr(enqueuer, "enqueue_many", None)
    if enqueue_many is None:
        return
    infos = enqueue_many([Task(type, {"number": number}) for number in range(3)], queue="low")
    _is("the payloads of enqueue_many", [info.payload for info in infos], [{"number": number} for number in range(3)])
    _is("their queues", [info.queue for info in infos], ["low"] * 3)
    _is("enqueue_many of nothing", enqueue_many([]), [])
    taken, free = f"conformance-{uuid4()}", f"conformance-{uuid4()}"
    if _kept_or_refused("task_id", lambda: enqueuer.enqueue(Task(type), task_id=taken)) is None:
        return
    tasks = [Task(type, task_id=free), Task(type, task_id=taken)]
    _raises(TaskIDConflict, "enqueue_many with an id that is taken", lambda: enqueue_many(tasks))
    enqueuer.enqueue(Task(type), task_id=free)  # raises where the first of them was stored all the same


def _threads_may_share_it(enqueuer: Enqueuer, type: str) -> None:
    ids: list[str] = []
    errors: list[BaseException] = []

    def enqueue() -> None:
        try:
            ids.extend([enqueuer.enqueue(Task(type)).id for _ in range(5)])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=enqueue) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _holds(not errors, f"a thread met {describe(errors[0])}" if errors else "")
    _is("the number of ids of 20 tasks from 4 threads", len(set(ids)), 20)


class _Noting:
    """Passes tasks on and keeps what came of them, for what is enqueued behind the back of the caller."""

    def __init__(self, enqueuer: Enqueuer) -> None:
        self._enqueuer = enqueuer
        self.came: threading.Event = threading.Event()
        self.info: TaskInfo | None = None
        self.error: BaseException | None = None

    def enqueue(self, task: Task, *, timeout: Any = None, **options: Any) -> TaskInfo:
        try:
            self.info = self._enqueuer.enqueue(task, timeout=timeout, **options)
            return self.info
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.came.set()


def _patterns_work_with_it(enqueuer: Enqueuer, type: str) -> None:
    noting = _Noting(enqueuer)
    fire_and_forget(noting, Task(type, {"fired": True}))
    _holds(noting.came.wait(_PATIENCE), "fire_and_forget did not arrive")
    _holds(noting.info is not None, f"fire_and_forget met {describe(noting.error)}" if noting.error else "")
    assert noting.info is not None
    _is("the queue of what was fired and forgotten", noting.info.queue, "low")
    registry = Registry()

    @registry.subscribe(EVENT, name="one")
    def one(number: int) -> None: ...

    @registry.subscribe(EVENT, name="two", queue="low")
    def two(number: int) -> None: ...

    infos = fan_out(enqueuer, EVENT, {"number": 1}, registry=registry)
    _is("what was fanned out", [(info.type, info.queue) for info in infos],
        [(f"fanout:{EVENT}:one", "default"), (f"fanout:{EVENT}:two", "low")])  # fmt: skip


def _a_failure_is_an_error_of_ours_or_the_engines(enqueuer: Enqueuer, type: str) -> None:
    """What is wrong with a call is one of our errors, so that callers can tell it from an engine that is down."""
    error = _raises(InvalidTask, "a negative max_retry", lambda: enqueuer.enqueue(Task(type), max_retry=-1))
    _holds(isinstance(error, FireforgetError) and "max_retry" in str(error), f"the error {error!r} does not name max_retry")


CHECKS: dict[str, Callable[[Enqueuer, str], None]] = {
    "answers with what it stored": _answers_with_what_it_stored,
    "takes any JSON as payload": _takes_any_json,
    "keeps an option or refuses it by name": _takes_options_of_the_task,
    "options of the call override those of the task": _options_of_the_call_override_those_of_the_task,
    "a delay is kept": _delays,
    "what is wrong raises at the call": _refuses_what_is_wrong,
    "an id is taken once": _an_id_is_taken_once,
    "a unique key is held": _a_unique_key_is_held,
    "enqueue_many is all or nothing": _many_are_all_or_nothing,
    "threads may share it": _threads_may_share_it,
    "patterns work with it": _patterns_work_with_it,
    "errors are ours and name what is wrong": _a_failure_is_an_error_of_ours_or_the_engines,
}
