"""Limits: two reports of a customer at once, five messages a second, over two workers.

python -m examples.limits
"""

import argparse
import tempfile
import time
from pathlib import Path

from fireforget import Registry, SqliteQueue, TaskInfo, Worker

registry = Registry()


@registry.task("report:build", concurrency=2, concurrency_key="customer:{customer}", retention=60)
def build_report(customer: str, number: int) -> tuple[float, float]:
    began = time.monotonic()
    time.sleep(0.02)
    return began, time.monotonic()


@registry.task("sms:send", rate="5/s", retention=60)
def send_sms(number: int) -> float:
    return time.monotonic()


def most_at_once(jobs: list[TaskInfo]) -> int:
    """Return how many of the jobs ran at the same moment."""
    runs = [job.result for job in jobs]
    return max(sum(began <= moment < ended for began, ended in runs) for moment, _ in runs)


def main() -> None:
    """Run reports and messages on two workers, and say what the limits made of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", type=Path, help="the database (default: a temporary one)")
    given = parser.parse_args().db
    with tempfile.TemporaryDirectory() as folder, SqliteQueue(given or Path(folder) / "jobs.db") as queue:
        stored = {
            customer: queue.enqueue_many(build_report.task(customer=customer, number=n) for n in range(8))
            for customer in ("acme", "bert")
        }
        messages = queue.enqueue_many(send_sms.task(number=n) for n in range(8))
        with Worker(registry, queue, concurrency=3), Worker(registry, queue, concurrency=3):
            starts = sorted(queue.wait(job.id, 30).result for job in messages)
            reports = {customer: [queue.wait(job.id, 30) for job in jobs] for customer, jobs in stored.items()}
        for customer, jobs in reports.items():
            print(f"{len(jobs)} reports for {customer}, never more than 2 at once: {most_at_once(jobs) <= 2}", flush=True)
        print(f"8 messages, never more than 5 in a second: {starts[5] - starts[0] >= 1}", flush=True)


if __name__ == "__main__":
    main()
