"""Celery's application on Redis: results off, acknowledged after the run, as jobs are here."""

import os

from celery import Celery

app = Celery("bench", broker=f"redis://127.0.0.1:{os.environ['BENCH_REDIS_PORT']}/0")
app.conf.update(
    task_ignore_result=True, task_acks_late=True, worker_prefetch_multiplier=64, worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)  # fmt: skip


@app.task
def noop(n: int = 0) -> None:
    """Do nothing."""
