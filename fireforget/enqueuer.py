"""The protocol that patterns and applications depend on: whatever can take a task."""

from typing import Any, Protocol, runtime_checkable

from fireforget.clock import Seconds
from fireforget.task import Task, TaskInfo


@runtime_checkable
class Enqueuer(Protocol):
    """Takes a task and answers with what it stored.

    `SqliteQueue` is one, the recording enqueuer of `fireforget.testing` another, and any class with this one method is as good.
    An enqueuer that also has `enqueue_many(tasks, *, timeout=None, **options)`, all or nothing, gets batches from
    `fire_and_forget`.
    """

    def enqueue(self, task: Task, *, timeout: Seconds | None = None, **options: Any) -> TaskInfo:
        """Take one task.

        `timeout` is how long this call may wait, in seconds; None leaves it to the enqueuer. `options` override the task's
        own. Raises when the task was not taken.
        """
        ...
