"""`/healthz` and `/metrics`: what monitoring asks for."""

from http import HTTPStatus
from pathlib import Path

from fireforget import _db
from fireforget._dashboard.views import Views
from fireforget._dashboard.web import Answer, json_answer
from fireforget.errors import StoreError
from fireforget.metrics import METRICS, Labels, Samples, exposition

_MOST_BYTES = 16 * 1024 * 1024  # of a worker's metrics file


def healthz(views: Views, *, known: bool) -> Answer:
    """Return 200, or 503 with what is wrong: no worker, a stalled queue, a file that cannot be read.

    `known` is whether the details may be told; a load balancer that shows no token learns which check has failed.
    """
    try:
        problems = views.overview()["problems"]
    except StoreError as error:
        problems = [{"check": "file", "message": str(error)}]
    if not known:
        problems = [{"check": check} for check in dict.fromkeys(problem["check"] for problem in problems)]
    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
    return json_answer({"status": "failing" if problems else "ok", "problems": problems}, status)


def metrics(views: Views, metrics_file: str | None) -> Answer:
    """Return the text exposition: what the database tells, and what the worker with this metrics file has counted."""
    gauges: dict[tuple[str, Labels], float] = {}
    for queue in views.overview()["queues"]:
        name = queue["queue"]
        for state, jobs in queue["states"].items():
            gauges["fireforget_queue_size", (name, state)] = jobs
        gauges["fireforget_queue_latency_seconds", (name,)] = queue["latency"]
        gauges["fireforget_queue_paused", (name,)] = int(queue["paused"])
    gauges["fireforget_wal_bytes", ()] = _db.wal_size(views.queue.path)
    ours = {name for name, _ in gauges}
    text = exposition(Samples(), gauges) + ("" if metrics_file is None else _others(metrics_file, ours))
    return Answer(text.encode("utf-8", "replace"), "text/plain; version=0.0.4; charset=utf-8")


def _others(path: str, ours: set[str]) -> str:
    """Return the metrics of a worker's file that are not ours, as they stand there; nothing where there is no such file yet."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            lines = file.read(_MOST_BYTES).splitlines(keepends=True)
    except (OSError, UnicodeDecodeError):
        return ""
    kept, keep = "", False
    for line in lines:
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2].strip()
            keep = name in METRICS and name not in ours
        kept += line if keep else ""
    return kept
