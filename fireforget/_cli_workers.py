"""The command `worker list`: workers that have signed in, alive or dead, their children, and the jobs in their hands."""

import argparse
from collections.abc import Sequence

from fireforget import _cli_output as output
from fireforget._cli_common import Commands, add_command, add_group, opened, wants_json
from fireforget._cli_parser import a_count
from fireforget.inspector import WorkerInfo
from fireforget.task import TaskInfo

DEFAULT_JOBS_OF_WORKER = 10


def add_worker_list(commands: Commands) -> None:
    """Add `worker list`; a worker itself is started elsewhere."""
    worker = add_group(commands, "worker", "run the jobs of an application (worker --help), or list workers (worker list)")
    listing = add_command(
        worker, "list", _workers, "print the workers, alive and dead, their children, and the jobs in their hands", "worker list"
    )
    listing.add_argument(
        "--limit",
        type=a_count,
        default=DEFAULT_JOBS_OF_WORKER,
        metavar="N",
        help=f"at most N jobs of each (default: {DEFAULT_JOBS_OF_WORKER})",
    )


def _workers(arguments: argparse.Namespace) -> int:
    with opened(arguments) as (_, inspector):
        workers = inspector.workers()
        jobs = {worker.name: inspector.tasks_of_worker(worker.name, arguments.limit) for worker in workers}
    if wants_json(arguments):
        output.print_json([{**vars(w), "jobs": [output.members_of(info) for info in jobs[w.name]]} for w in workers])
        return 0
    output.print_table(
        ["worker", "state", "pid", "children", "threads", "active", "up", "queues"],
        [_row(worker) for worker in workers],
        empty="no worker is running",
        left=(0, 1, 7),
    )
    for worker in workers:
        _print_children_of(worker)
        _print_jobs_of(worker, jobs[worker.name])
    if any(not worker.alive for worker in workers):
        print("\nThe jobs of a dead worker are pending again as soon as another one looks.")
    return 0


def _print_children_of(worker: WorkerInfo) -> None:
    name = output.paint(output.printable(worker.name), "bold")
    if worker.child_deaths:
        print(f"\n{name}: {output.deaths_of_children(worker.child_deaths, worker.last_child_death)}")
    if worker.children:
        print(f"\n{name} has {output.plural(len(worker.children), 'child', 'children')}")
        rows = output.rows_of_children(worker.children)
        output.print_table(output.CHILD_HEAD, rows, empty="", left=output.CHILD_LEFT, whole=(0, 3))


def _print_jobs_of(worker: WorkerInfo, jobs: Sequence[TaskInfo]) -> None:
    if not jobs:
        return
    print(
        f"\n{output.paint(output.printable(worker.name), 'bold')} has {output.plural(max(worker.active, len(jobs)))} in its hands"
    )
    rows = [[info.id, info.type, info.queue, output.briefly(info.started_at) if info.started_at else ""] for info in jobs]
    output.print_table(["id", "type", "queue", "claimed"], rows, empty="", left=(0, 1, 2), whole=(0, 3))
    if worker.active > len(jobs):
        print(f"and {worker.active - len(jobs):,} more (--limit)")


def _row(worker: WorkerInfo) -> list[str]:
    queues = ",".join(f"{name}={weight}" for name, weight in worker.queues.items())
    up = output.briefly(worker.started_at).removesuffix(" ago").removeprefix("in ")
    state = "alive" if worker.alive else "dead"
    return [worker.name, state, f"{worker.pid}", f"{worker.concurrency}", f"{worker.threads}", f"{worker.active}", up, queues]
