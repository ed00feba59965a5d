"""A durable job queue made of the standard library and one SQLite file.

The public names stand here and are loaded when they are first used, so that a producer pays for what it uses alone.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "Enqueuer": "enqueuer",
    "Inspector": "inspector",
    "Progress": "task",
    "Registry": "registry",
    "RetryPolicy": "retry",
    "SqliteQueue": "queue_sqlite",
    "State": "task",
    "Task": "task",
    "TaskInfo": "task",
    "Worker": "_pool.control",
    "chain": "patterns",
    "current_job": "job",
    "fan_out": "patterns",
    "exponential": "retry",
    "fixed": "retry",
    "linear": "retry",
    "fire_and_forget": "patterns",
    "flush": "patterns",
    "idempotent": "idempotency",
    "submission_counts": "patterns",
    "BackupExists": "errors",
    "ChildDied": "errors",
    "ClaimLost": "errors",
    "write_metrics": "metrics",
    "DuplicateTask": "errors",
    "FireforgetError": "errors",
    "HelperDied": "errors",
    "WrongState": "errors",
    "UnknownQueue": "errors",
    "UnknownSchedule": "errors",
    "ScheduleInUse": "errors",
    "InvalidSchedule": "errors",
    "QueueNotEmpty": "errors",
    "JobActive": "errors",
    "InvalidOption": "errors",
    "InvalidPayload": "errors",
    "InvalidTask": "errors",
    "JobCancelled": "errors",
    "JobTimeout": "errors",
    "QueueClosed": "errors",
    "RegistrationError": "errors",
    "RetryLater": "errors",
    "RevokeTask": "errors",
    "SchemaTooNew": "errors",
    "SkipRetry": "errors",
    "StepError": "errors",
    "StoreBusy": "errors",
    "StoreCorrupt": "errors",
    "StoreError": "errors",
    "StoreFull": "errors",
    "StoreReadOnly": "errors",
    "StoreReplaced": "errors",
    "StoreUnavailable": "errors",
    "TaskIDConflict": "errors",
    "UnknownJob": "errors",
    "UnknownOption": "errors",
    "WorkerError": "errors",
}

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604 - the names are the keys of a table

if TYPE_CHECKING:
    from fireforget._pool.control import Worker as Worker
    from fireforget.enqueuer import Enqueuer as Enqueuer
    from fireforget.errors import BackupExists as BackupExists
    from fireforget.errors import ChildDied as ChildDied
    from fireforget.errors import ClaimLost as ClaimLost
    from fireforget.errors import DuplicateTask as DuplicateTask
    from fireforget.errors import FireforgetError as FireforgetError
    from fireforget.errors import HelperDied as HelperDied
    from fireforget.errors import InvalidOption as InvalidOption
    from fireforget.errors import InvalidPayload as InvalidPayload
    from fireforget.errors import InvalidSchedule as InvalidSchedule
    from fireforget.errors import InvalidTask as InvalidTask
    from fireforget.errors import JobActive as JobActive
    from fireforget.errors import JobCancelled as JobCancelled
    from fireforget.errors import JobTimeout as JobTimeout
    from fireforget.errors import QueueClosed as QueueClosed
    from fireforget.errors import QueueNotEmpty as QueueNotEmpty
    from fireforget.errors import RegistrationError as RegistrationError
    from fireforget.errors import RetryLater as RetryLater
    from fireforget.errors import RevokeTask as RevokeTask
    from fireforget.errors import ScheduleInUse as ScheduleInUse
    from fireforget.errors import SchemaTooNew as SchemaTooNew
    from fireforget.errors import SkipRetry as SkipRetry
    from fireforget.errors import StepError as StepError
    from fireforget.errors import StoreBusy as StoreBusy
    from fireforget.errors import StoreCorrupt as StoreCorrupt
    from fireforget.errors import StoreError as StoreError
    from fireforget.errors import StoreFull as StoreFull
    from fireforget.errors import StoreReadOnly as StoreReadOnly
    from fireforget.errors import StoreReplaced as StoreReplaced
    from fireforget.errors import StoreUnavailable as StoreUnavailable
    from fireforget.errors import TaskIDConflict as TaskIDConflict
    from fireforget.errors import UnknownJob as UnknownJob
    from fireforget.errors import UnknownOption as UnknownOption
    from fireforget.errors import UnknownQueue as UnknownQueue
    from fireforget.errors import UnknownSchedule as UnknownSchedule
    from fireforget.errors import WorkerError as WorkerError
    from fireforget.errors import WrongState as WrongState
    from fireforget.idempotency import idempotent as idempotent
    from fireforget.inspector import Inspector as Inspector
    from fireforget.job import current_job as current_job
    from fireforget.metrics import write_metrics as write_metrics
    from fireforget.patterns import chain as chain
    from fireforget.patterns import fan_out as fan_out
    from fireforget.patterns import fire_and_forget as fire_and_forget
    from fireforget.patterns import flush as flush
    from fireforget.patterns import submission_counts as submission_counts
    from fireforget.queue_sqlite import SqliteQueue as SqliteQueue
    from fireforget.registry import Registry as Registry
    from fireforget.retry import RetryPolicy as RetryPolicy
    from fireforget.retry import exponential as exponential
    from fireforget.retry import fixed as fixed
    from fireforget.retry import linear as linear
    from fireforget.task import Progress as Progress
    from fireforget.task import State as State
    from fireforget.task import Task as Task
    from fireforget.task import TaskInfo as TaskInfo


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'fireforget' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"fireforget.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
