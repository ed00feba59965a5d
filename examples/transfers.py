"""A transactional handler: transfers between accounts that lie in the queue's own file.

Each transfer takes from one account and gives to another, and its job is settled by the same commit. To show what that is worth,
the handler's process is killed in the middle of some of them: the money is all there in the end, and each transfer happened once.

    python -m examples.transfers
"""

import os
import signal
import sqlite3
import sys
import tempfile
from contextlib import closing

from fireforget import Registry, SqliteQueue, Worker, current_job

registry = Registry(retry_delay=0)


@registry.task("transfer", transactional=True, retention=60)
def transfer(source: str, target: str, cents: int, crash: bool = False) -> None:
    """Move money from one account to another."""
    connection = current_job().connection
    connection.execute("UPDATE account SET cents = cents - ? WHERE name = ?", (cents, source))
    if crash and current_job().retry_count == 0:
        os.kill(os.getpid(), signal.SIGKILL)  # the worst moment: taken, and not yet given
    connection.execute("UPDATE account SET cents = cents + ? WHERE name = ?", (cents, target))


def main(path: str) -> None:
    """Run ten transfers, three of which crash, and print the accounts."""
    with SqliteQueue(path) as queue, closing(sqlite3.connect(path)) as connection:
        with connection:
            connection.execute("CREATE TABLE account (name TEXT PRIMARY KEY, cents INTEGER NOT NULL)")
            connection.execute("INSERT INTO account VALUES ('ada', 1000), ('bob', 0)")
        jobs = queue.enqueue_many([transfer.task("ada", "bob", 25, crash=n % 4 == 0) for n in range(10)])
        with Worker(registry, queue, concurrency=2):
            retries = sum(queue.wait(job.id, timeout=30).retry_count for job in jobs)
        accounts = dict(connection.execute("SELECT name, cents FROM account"))
    print(f"10 transfers, {retries} of them crashed once: ada has {accounts['ada']} cents, bob {accounts['bob']}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(folder, "bank.db"))
