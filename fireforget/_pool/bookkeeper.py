"""Writes the metrics file: a thread of the supervisor with a database connection of its own.

Counting a million stored jobs takes a while, and no job may wait for it. The thread sleeps without a timeout while nothing has
happened, so an idle worker writes nothing and costs nothing.
"""

import logging
from collections.abc import Callable

from fireforget import _db, _sql_queues, logs, metrics
from fireforget._pool.aside import Aside
from fireforget._pool.config import Settings
from fireforget._schema import STATE_OF_NUMBER
from fireforget.clock import Clock
from fireforget.errors import StoreError


class Bookkeeper(Aside):
    """Keeps a worker's metrics file up to date."""

    def __init__(
        self, settings: Settings, database: _db.Database, samples: metrics.Samples, children: Callable[[], int], clock: Clock
    ) -> None:
        super().__init__("fireforget-metrics")
        assert settings.metrics_file is not None
        self._path = settings.metrics_file
        self._interval = settings.metrics_interval
        self._queues = list(settings.queues)
        self._database = database
        self._samples = samples
        self._children = children
        self._clock = clock
        self._written = ""

    def start(self) -> None:
        """Write the file for the first time, and start the thread."""
        self.write()
        super().start()

    def stop(self) -> None:
        """End the thread, and write the file for the last time."""
        super().stop()
        self.write()
        self._database.close_thread()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._changed.wait()
            if self._stopping.wait(self._interval):
                break
            self._changed.clear()
            if self.write():
                self._changed.set()  # an age that grows by itself
        self._database.close_thread()

    def write(self) -> bool:
        """Replace the file if a value has changed; return whether values change although nothing happens."""
        try:
            gauges = self._gauges()
            text = metrics.exposition(self._samples, gauges)
            if text != self._written:
                metrics.replace_file(self._path, text)
                self._written = text
        except (OSError, StoreError) as error:
            logs.event(logging.ERROR, "metrics file not written", error=str(error))
            return True
        return any(value for (name, _), value in gauges.items() if name == "fireforget_queue_latency_seconds")

    def _gauges(self) -> dict[tuple[str, metrics.Labels], float]:
        with self._database.use() as connection:
            counts = connection.execute(_sql_queues.COUNT_JOBS).fetchall()
            paused = dict(connection.execute(_sql_queues.QUEUES).fetchall())
        now = self._clock()
        gauges: dict[tuple[str, metrics.Labels], float] = {}
        oldest = {queue: due for queue, _, _, due in counts if due is not None}
        for queue in {*self._queues, *paused, *(queue for queue, *_ in counts)}:
            for state in STATE_OF_NUMBER.values():
                gauges["fireforget_queue_size", (queue, state.value)] = 0
            age = max(0.0, now - oldest[queue]) if queue in oldest else 0.0
            gauges["fireforget_queue_latency_seconds", (queue,)] = round(age, 3)
            gauges["fireforget_queue_paused", (queue,)] = int(paused.get(queue) is not None)
        for queue, number, jobs, _ in counts:
            gauges["fireforget_queue_size", (queue, STATE_OF_NUMBER[number].value)] = jobs
        gauges["fireforget_worker_children", ()] = self._children()
        gauges["fireforget_wal_bytes", ()] = _db.wal_size(self._database.path)
        return gauges
