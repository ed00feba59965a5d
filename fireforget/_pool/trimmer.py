"""Trims queues to their limits: a thread of the supervisor with a database connection of its own, since no job may wait for it.

It looks when the worker starts, when something has happened in the database, and when the next job will be too old. It sleeps in
between, so an idle worker writes nothing.
"""

import logging

from fireforget import _db, logs, metrics
from fireforget._limits import Trimming
from fireforget._pool.aside import Aside
from fireforget.clock import Clock
from fireforget.errors import StoreError

REST_SECONDS = 0.5
"""Between two looks, so that a busy worker looks twice a second and not at every job."""
PAUSE_SECONDS = 0.005
"""Between two transactions, for workers and producers to get their turn."""
_TROUBLE_SECONDS = 10.0
_LONGEST_SLEEP = 3600.0  # a wall clock may be set


class Trimmer(Aside):
    """Keeps the queues of a database within their limits."""

    def __init__(self, database: _db.Database, samples: metrics.Samples, clock: Clock) -> None:
        super().__init__("fireforget-trimmer")
        self._trimming = Trimming(database, clock)
        self._samples = samples
        self._clock = clock

    def stop(self) -> None:
        """End the thread; what is left to trim, the next worker will."""
        super().stop()
        self._trimming.close()

    def _run(self) -> None:
        rest = 0.0
        while not self._stopping.wait(rest):
            self._changed.clear()
            if self._stopping.is_set():  # since then: what was cleared was its call, and no other would come
                break
            try:
                self._trim()
                rest = REST_SECONDS
            except (OSError, StoreError) as error:
                logs.event(logging.WARNING, "history was not trimmed, trying again", error=str(error))
                self._changed.set()
                rest = _TROUBLE_SECONDS
            self._changed.wait(self._sleep())

    def _sleep(self) -> float | None:
        seconds = self._trimming.next_at - self._clock()
        return None if seconds == float("inf") else min(max(0.0, seconds), _LONGEST_SLEEP)

    def _trim(self) -> None:
        while not self._stopping.is_set() and (trimmed := self._trimming.step()) is not None:
            queue, state, number = trimmed
            self._samples.count("fireforget_jobs_trimmed_total", (queue, state.value), number)
            self._stopping.wait(PAUSE_SECONDS)
