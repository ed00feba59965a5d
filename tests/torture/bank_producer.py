"""A producer of the bank: enqueues transfers and pipelines, and writes their ids into the ledger when `enqueue` has returned."""

import os
import random
import sys
import time

import kill_points

from fireforget import SqliteQueue, StoreBusy, Task

kill_points.arm()

queue = SqliteQueue(os.environ["STORM_DB"], durability="full")
while os.getppid() == int(sys.argv[1]):
    source, target = random.sample(range(10), 2)
    payload = {"source": source, "target": target, "cents": random.randrange(1, 10_000)}
    tasks = [Task("transfer", payload, max_retry=100_000), Task("pipeline", max_retry=100_000)]
    try:
        for task in tasks[: random.choice((1, 1, 2))]:
            kill_points.write(f"accepted {queue.enqueue(task).id} {task.type}")
    except StoreBusy:
        pass
    time.sleep(random.uniform(0, 0.008))
