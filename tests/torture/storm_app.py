"""The application that the storm's workers run.

Its handler keeps the ledger and proves that it runs alone: it holds a lock on a file of its job's own, which the kernel frees
when the process dies. A second run at the same time finds the lock taken.
"""

import fcntl
import os
import random
import time

import kill_points

from fireforget import Registry, current_job

kill_points.arm()

registry = Registry(retry_delay=0)


@registry.task("storm", max_retry=100_000, timeout=60)
def storm(number: int) -> int | None:
    """Hold the job's lock for a few milliseconds, and write down when it began and ended."""
    job = current_job()
    path = os.path.join(os.environ["STORM_LOCKS"], job.id)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            kill_points.write(f"overlap {job.id} {os.getpid()}")
            return None
        if any(result != number for result in job.results.values()):  # all of a graph have the same
            kill_points.write(f"misinformed {job.id} {os.getpid()}")
        kill_points.write(f"began {job.id} {os.getpid()}")
        time.sleep(random.choice((0, 0, 0, 0.001, 0.003, 0.01)))
        kill_points.maybe_die("in the handler")
        kill_points.write(f"ended {job.id} {os.getpid()}")
        return number
    finally:
        os.close(descriptor)
