"""A payment that is announced three times and whose process is killed once: the money is taken once.

python -m examples.idempotent
"""

import argparse
import os
import signal
import tempfile
from pathlib import Path

from fireforget import Inspector, Registry, SqliteQueue, Worker, current_job, idempotent

registry = Registry(retry_delay=0)


@registry.task("order:charge", queue="critical", retention=3600)
@idempotent("order:{order_id}", ttl=24 * 3600, on_store_error="closed")
def charge(order_id: int, cents: int) -> str:
    if current_job().id == "first" and current_job().retry_count == 0:
        os.kill(os.getpid(), signal.SIGKILL)  # stands for a crash: the key is free for the next run all the same
    print(f"charged order {order_id} with {cents}", flush=True)
    return f"receipt of order {order_id}"


def main() -> None:
    """Enqueue each order as often as the shop announces it, and run all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", type=Path, help="the database (default: a temporary one)")
    given = parser.parse_args().db
    with tempfile.TemporaryDirectory() as folder, SqliteQueue(given or Path(folder) / "jobs.db") as queue:
        queue.enqueue(charge.task(7, 1999), task_id="first")
        queue.enqueue_many([charge.task(8, 500), charge.task(7, 1999), charge.task(7, 1999)])
        Worker(registry, queue, concurrency=1, queues=["critical"], burst=True).run()
        for job in Inspector(queue).tasks("completed"):
            print(f"{job.payload['order_id']}: {job.result}")


if __name__ == "__main__":
    main()
