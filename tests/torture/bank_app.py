"""The application of the bank: transfers between accounts in the queue's own file, and jobs of several steps.

A transfer writes down that it has happened, without any key that would keep it from doing so twice: the proof is that it does not
have to. Each enqueues a receipt inside its transaction, which is a transactional job as well.
"""

import os

import kill_points

from fireforget import Registry, SqliteQueue, Task, current_job

kill_points.arm()
kill_points.arm_effects()

registry = Registry(retry_delay=0)
queue = SqliteQueue(os.environ["STORM_DB"], durability="normal")
STEPS = ("fetch", "convert", "publish")


@registry.task("transfer", transactional=True, timeout=60)
def transfer(source: int, target: int, cents: int) -> None:
    """Move money, and say so."""
    job = current_job()
    kill_points.maybe_die("before the transaction")
    connection = job.connection
    connection.execute("UPDATE account SET cents = cents - ? WHERE number = ?", (cents, source))
    kill_points.maybe_die("in the transaction", 4)
    connection.execute("UPDATE account SET cents = cents + ? WHERE number = ?", (cents, target))
    connection.execute("INSERT INTO transfer VALUES (?, ?, ?, ?)", (job.id, source, target, cents))
    queue.enqueue(Task("receipt", {"transfer": job.id}, max_retry=100_000))
    kill_points.maybe_die("in the transaction", 4)


@registry.task("receipt", transactional=True, timeout=60)
def receipt(transfer: str) -> None:
    """Write down that a transfer's receipt was sent."""
    current_job().connection.execute("INSERT INTO receipt VALUES (?)", (transfer,))


@registry.task("pipeline", timeout=60)
def pipeline() -> None:
    """Run three steps; the ledger tells when each was called, and when its result was known to be stored."""
    job = current_job()
    for name in STEPS:
        assert job.step(name, call, job.id, name) == name
        kill_points.write(f"stored {job.id} {name}")
        kill_points.maybe_die("between steps", 4)
    kill_points.write(f"ended {job.id}")


def call(job_id: str, name: str) -> str:
    """Be a step."""
    kill_points.write(f"called {job_id} {name}")
    kill_points.maybe_die("in a step", 4)
    return name
