"""Every exception of fireforget, in one tree under `FireforgetError`.

Three families live here:

* what a caller of `enqueue` meets: a task that is wrong, an id or key that is taken, a store that is in trouble;
* what a handler raises on purpose to steer its own job: `SkipRetry`, `RevokeTask`, `RetryLater`;
* what interrupts a handler from outside: `JobTimeout` and `JobCancelled`. They derive from `BaseException`, so a handler's
  `except Exception` does not swallow them, and stand outside the tree for that reason.

A message says what happened, names the value, and says what to do next.
"""

from datetime import timedelta
from typing import Any


class FireforgetError(Exception):
    """The root of every error that fireforget raises. All of them can be pickled, with what they carry.

    `index` is the position of the task that it is about, where several were handed over; None where it is about no one of them.
    """

    index: int | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), self.args, self.__dict__)


def _remake(kind: type[FireforgetError], args: tuple[Any, ...], carried: dict[str, Any]) -> FireforgetError:
    """Make an error anew without its `__init__`, whose arguments are not those that its text was made of."""
    error = kind.__new__(kind, *args)
    BaseException.__init__(error, *args)
    error.__dict__.update(carried)
    return error


def shortened(value: object) -> str:
    """Return how a message shows a value: its `repr`, and the first part of a long one."""
    try:
        text = repr(value)
    except Exception:  # a repr of the caller's that fails must not hide what is wrong with the value
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


_LONGEST_SHOWN = 80  # characters

# --- a task that is wrong ---------------------------------------------------------------------------------------------


class InvalidTask(FireforgetError, ValueError, TypeError):
    """A task, payload or option cannot be used; nothing was stored.

    It is a `ValueError` and a `TypeError`, so that callers may catch either: whether `max_retry="3"` is a wrong value or a
    wrong type is not a question that error handling should depend on.
    """


class InvalidPayload(InvalidTask):
    """A payload is not JSON, or larger than the queue's `max_payload`."""


class InvalidOption(InvalidTask):
    """An option has a value outside what it allows. `option` is its name, `value` what was given, `remedy` what to do."""

    def __init__(self, option: str, value: object, remedy: str) -> None:
        super().__init__(f"{option}={shortened(value)}: {remedy}")
        self.option = option
        self.value = value
        self.remedy = remedy


class UnknownOption(InvalidTask):
    """An option that does not exist. `option` is the name that was given."""

    def __init__(self, option: str, remedy: str) -> None:
        super().__init__(f"unknown option {option!r}: {remedy}")
        self.option = option


class PayloadMismatch(InvalidTask):
    """A stored payload does not fit the handler's signature; the job is archived, since no retry would change that."""


# --- a registry that is wrong -----------------------------------------------------------------------------------------


class RegistrationError(FireforgetError, ValueError):
    """A handler cannot be registered: a blank type, a type that has a handler already, a function that cannot be called."""


class InvalidSchedule(RegistrationError):
    """A schedule cannot be used: its expression or its time zone. `expression` is what was given, `problem` says why."""

    def __init__(self, expression: object, problem: str) -> None:
        super().__init__(f"schedule {expression!r}: {problem}")
        self.expression = expression
        self.problem = problem


# --- an id or key that is taken, or a job that is not there -------------------------------------------------------------


class TaskIDConflict(FireforgetError):
    """The `task_id` is taken by a job of the same database, in whatever state it is. Nothing was stored."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task_id {task_id!r} is taken by a stored job: choose another id, or delete that job first")
        self.task_id = task_id


class DuplicateTask(FireforgetError):
    """A job with the same unique key is waiting or running. Nothing was stored.

    `unique_key` is the key, `existing_id` the id of the job that holds it (None when it ended in the meantime).
    """

    def __init__(self, unique_key: str, existing_id: str | None) -> None:
        holder = f"job {existing_id}" if existing_id else "another job"
        super().__init__(f"{holder} holds the unique key {unique_key!r}: wait until it has ended or its unique_for has passed")
        self.unique_key = unique_key
        self.existing_id = existing_id


class UnknownJob(FireforgetError, LookupError):
    """No job with this id is stored: it never was, or it is done and was not kept (see `retention`)."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"no job {job_id!r} is stored: it completed and was not kept (give it a retention), was deleted, or never existed"
        )
        self.job_id = job_id


class WrongState(FireforgetError):
    """What was asked for cannot be done to a job in this state; nothing was changed. `job_id`, `state`, `remedy` say more."""

    def __init__(self, job_id: str, state: str, remedy: str) -> None:
        super().__init__(f"job {job_id} is {state}: {remedy}")
        self.job_id = job_id
        self.state = state
        self.remedy = remedy


class JobActive(WrongState):
    """A worker runs the job, or is about to; nothing was changed. Cancel it, or wait until it has ended."""


class UnknownQueue(FireforgetError, LookupError):
    """No queue has this name: no job is stored in it, it was never paused, and no worker serves it. `name` is what was given."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no queue {name!r}: no job is stored in it, and no worker serves it; queue_names() gives those there are"
        )
        self.name = name


class UnknownSchedule(FireforgetError, LookupError):
    """No schedule has this name: no worker whose registry has it has ever run on this database. `name` is what was given."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no schedule {name!r}: a worker whose registry has it makes it known when it starts")
        self.name = name


class ScheduleInUse(FireforgetError):
    """A running worker has the schedule in its registry, so it was not deleted. `name` is what was given."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"schedule {name!r} is in the registry of a running worker: pause it, or remove it from the registry and restart"
        )
        self.name = name


class QueueNotEmpty(FireforgetError):
    """The queue has jobs (or, where deleting was forced, running ones), so it was not deleted. `name`, `size` say more."""

    def __init__(self, name: str, size: int, remedy: str) -> None:
        super().__init__(f"queue {name!r} has {size} job{'' if size == 1 else 's'}{remedy}")
        self.name = name
        self.size = size
        self.remedy = remedy


# --- a store in trouble -----------------------------------------------------------------------------------------------


class StoreError(FireforgetError):
    """The database cannot do what was asked. `path` is the file."""

    def __init__(self, path: object, problem: str) -> None:
        super().__init__(f"{path if str(path).strip() else repr(path)}: {problem}")
        self.path = path
        self.problem = problem


class StoreUnavailable(StoreError):
    """The file cannot be opened: a folder, a missing folder, no permission, no database, or not one of ours."""


class SchemaTooNew(StoreUnavailable):
    """A newer fireforget has migrated the file; this one would misread it and does not try."""


class StoreReadOnly(StoreError):
    """The file, its folder or the file system does not allow writing."""


class StoreBusy(StoreError, TimeoutError):
    """Another program held the write lock for as long as the call was willing to wait. Nothing was stored."""


class StoreFull(StoreError):
    """The disk or quota is full. Nothing was stored."""


class StoreCorrupt(StoreError):
    """SQLite finds the file damaged. Nothing was changed."""


class StoreReplaced(StoreError):
    """The file at the path is no longer the one that was opened: it was deleted or replaced under a running program."""


class BackupExists(StoreError, FileExistsError):
    """A backup would overwrite a file, and was not told to. Nothing was written."""


class QueueClosed(FireforgetError):
    """The queue object was closed by `close()`; open a new one."""


class WorkerError(FireforgetError):
    """A worker could not start, or cannot go on."""


class HelperDied(WorkerError):
    """The process that a worker's children are forked from was killed, so nobody knows any more which of them still live."""


class ChildDied(FireforgetError):
    """The process of a job ended under it: by a signal, `os._exit`, or for want of memory. Given to `retry_delay` functions."""


# --- what a running handler meets ---------------------------------------------------------------------------------------


class StepError(FireforgetError):
    """A step cannot be run or its result not be stored: its name was used twice in a run, or its result is not JSON or too large.

    `step` is its name.
    """

    def __init__(self, step: object, problem: str) -> None:
        super().__init__(f"step {step!r}: {problem}")
        self.step = step


class ClaimLost(FireforgetError):
    """The job is no longer this run's: it was given to another worker, or removed. What the run would have stored is not."""


# --- what a handler raises to steer its own job -------------------------------------------------------------------------


class SkipRetry(FireforgetError):
    """Raise it in a handler: the job has failed for good and is archived at once, whatever retries are left."""


class RevokeTask(FireforgetError):
    """Raise it in a handler: the job is pointless by now and is dropped, neither as a success nor as a failure."""


class RetryLater(FireforgetError):
    """Raise it in a handler: the job runs again after `seconds`, and this run costs no attempt.

    `seconds` is an int, float or timedelta of 0 or more; anything else raises `InvalidOption` where it is written.
    """

    def __init__(self, seconds: float | timedelta, reason: str = "") -> None:
        value = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise InvalidOption("seconds", seconds, "give the delay in seconds, 0 or more")
        super().__init__(reason or f"retry in {value:g} s")
        self.seconds = float(value)


# --- what interrupts a handler from outside -----------------------------------------------------------------------------


class Interruption(BaseException):
    """The root of what fireforget raises inside a running handler; not an `Exception`, so that it is not swallowed."""


DEADLINE_PASSED = "deadline passed"
"""What a `JobTimeout` says, and the job's `last_error`, where it was the deadline."""


class JobTimeout(Interruption):
    """The job has reached its timeout or deadline; its process is killed one second later if the handler goes on."""


class JobCancelled(Interruption):
    """The job was cancelled while it ran; its process is killed one second later if the handler goes on."""
