"""Many messages, few mails: what comes for a person within a moment is collected and goes out as one mail.

python -m examples.groups
"""

import argparse
import tempfile
import time
from pathlib import Path

from fireforget import Inspector, Registry, SqliteQueue, Task, TaskInfo, Worker

registry = Registry()


@registry.task("mail:digest", retention=3600)
def send_digest(to: str, lines: list[str]) -> int:
    print(f"to {to}: {', '.join(lines)}", flush=True)
    return len(lines)


@registry.aggregator("news:", group_grace=0.5, group_max_size=4)
def one_mail(group: str, jobs: list[TaskInfo]) -> Task:
    return send_digest.task(to=group.removeprefix("news:"), lines=[job.payload for job in jobs])


def tell(queue: SqliteQueue, person: str, line: str) -> None:
    """Have a person told; together with what else comes for them."""
    queue.enqueue(Task("news:line", line), group=f"news:{person}")


def main() -> None:
    """Send nine messages to two people, and wait until the mails are out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", type=Path, help="the database (default: a temporary one)")
    given = parser.parse_args().db
    with tempfile.TemporaryDirectory() as folder, SqliteQueue(given or Path(folder) / "jobs.db") as queue:
        for number in range(1, 7):
            tell(queue, "ada", f"message {number}")
        for number in range(1, 4):
            tell(queue, "bert", f"message {number}")
        inspector = Inspector(queue)
        for group in inspector.groups(registry=registry):
            print(f"{group.size} jobs wait in {group.name}", flush=True)
        with Worker(registry, queue, concurrency=1):
            while sum(job.result for job in inspector.tasks("completed", type="mail:digest")) < 9:
                time.sleep(0.05)


if __name__ == "__main__":
    main()
