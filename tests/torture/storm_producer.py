"""A producer of the storm: enqueues, and writes the id into the ledger when `enqueue` has returned."""

import os
import sys
import time

import kill_points

from fireforget import SqliteQueue, StoreBusy, Task

kill_points.arm()

queue = SqliteQueue(os.environ["STORM_DB"], durability="full")
number = 0
while os.getppid() == int(sys.argv[1]):
    number += 1
    try:
        if number % 5:
            ids = [queue.enqueue(Task("storm", {"number": number}, queue=("critical", "default", "low")[number % 3])).id]
        elif number % 2:
            first = Task("storm", {"number": number})
            middle = [Task("storm", {"number": number}, after=[first]) for _ in range(2)]
            infos = queue.enqueue_many([first, *middle, Task("storm", {"number": number}, after=middle)])
            ids = [info.id for info in infos]
            needs = [(1, 0), (2, 0), (3, 1), (3, 2)]
            kill_points.write("\n".join(f"needs {ids[job]} {ids[need]}" for job, need in needs))
        else:
            tasks = [Task("storm", {"number": number}, process_in=0.05 * (position % 2)) for position in range(8)]
            ids = [info.id for info in queue.enqueue_many(tasks)]
    except StoreBusy:
        continue
    kill_points.write("\n".join(f"accepted {job_id}" for job_id in ids))
    time.sleep(0.004)
