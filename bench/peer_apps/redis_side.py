"""RQ, Dramatiq and Celery measured on a Redis server of our own, on a free loopback port."""

import importlib.util
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

import _common as common

PERSISTENCE = {"no persistence": ["--appendonly", "no"], "appendfsync always": ["--appendonly", "yes", "--appendfsync", "always"]}


class Peer(NamedTuple):
    """How one of them is used: its worker's commands, how to enqueue, and how many jobs are not done yet."""

    name: str
    settings: str
    commands: list[list[str]]
    enqueue: Callable[[], Callable[[int], object]]
    left: Callable[[Any], int]


def server() -> str | None:
    """Return the path of redis-server, None where there is none."""
    return shutil.which("redis-server")


def peers() -> list[Peer]:
    """Return those that are installed."""
    known = [_rq(), _dramatiq(), _celery()]
    return [peer for peer in known if importlib.util.find_spec("redis") and importlib.util.find_spec(peer.name)]


def version(name: str) -> str:
    return metadata.version(name)


@contextmanager
def redis(folder: Path, persistence: str) -> Iterator[Any]:
    """Run a Redis server in this folder; give a client."""
    from redis import Redis
    from redis.exceptions import ConnectionError as NotUpYet

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [server() or "redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder)]
    with common.running([*command, *PERSISTENCE[persistence]], log=folder / "redis.log"), Redis(port=port) as client:
        os.environ["BENCH_REDIS_PORT"] = str(port)

        def is_up() -> bool:
            try:
                return bool(client.ping())
            except NotUpYet:
                return False

        common.wait_until(is_up, "the start of redis-server", 20)
        yield client


def measure(peer: Peer, persistence: str, jobs: int) -> tuple[float, float]:
    """Return the rates of enqueuing one at a time, and of draining with two processes."""
    for module in [name for name in sys.modules if name.startswith("peer_apps.") and name.endswith("_app")]:
        del sys.modules[module]
    with common.folder() as folder, redis(folder, persistence) as client, ExitStack() as stack:
        enqueue = peer.enqueue()
        began = time.perf_counter()
        for n in range(jobs):
            enqueue(n)
        enqueued = jobs / (time.perf_counter() - began)
        for command in peer.commands:
            stack.enter_context(common.running(command, log=folder / "worker.log"))
        return enqueued, _time_drain(lambda: peer.left(client), jobs)


def _time_drain(left: Callable[[], int], jobs: int) -> float:
    common.wait_until(lambda: left() < jobs, "the first job", 120)
    remaining, began = left(), time.perf_counter()
    common.wait_until(lambda: left() == 0, "the last job")
    return remaining / (time.perf_counter() - began)


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def _rq() -> Peer:
    def enqueue() -> Callable[[int], object]:
        from redis import Redis
        from rq import Queue

        queue = Queue(connection=Redis(port=int(os.environ["BENCH_REDIS_PORT"])))
        noop = import_module("peer_apps.rq_app").noop
        return lambda n: queue.enqueue(noop, n, result_ttl=0)

    # The URL is read from the environment when the command runs, since the port is not known yet.
    run = "import os; from rq import Queue, SimpleWorker; from redis import Redis; "
    run += "c = Redis(port=int(os.environ['BENCH_REDIS_PORT'])); "
    run += "SimpleWorker([Queue(connection=c)], connection=c).work(logging_level='WARNING')"
    left = lambda client: client.llen("rq:queue:default") + client.zcard("rq:wip:default")  # noqa: E731 - as short as it is
    return Peer("rq", "two processes of SimpleWorker, no results", [[sys.executable, "-c", run]] * 2, enqueue, left)


def _dramatiq() -> Peer:
    def enqueue() -> Callable[[int], object]:
        return import_module("peer_apps.dramatiq_app").noop.send

    command = _python("dramatiq", "peer_apps.dramatiq_app", "--processes", "2", "--threads", "8", "--skip-logging")
    return Peer("dramatiq", "two processes of 8 threads", [command], enqueue, lambda client: client.hlen("dramatiq:default.msgs"))


def _celery() -> Peer:
    def enqueue() -> Callable[[int], object]:
        return import_module("peer_apps.celery_app").noop.delay

    command = _python("celery", "-A", "peer_apps.celery_app", "worker", "-c", "2", "-l", "error")
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    left = lambda client: client.llen("celery") + client.hlen("unacked")  # noqa: E731 - as short as it is
    return Peer("celery", "prefork with two processes, late acknowledgement, prefetch 64, no results", [command], enqueue, left)
