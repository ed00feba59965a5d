"""huey's application; loaded by its consumer, and by the producer."""

import os
import time

from bench_app import START
from huey import SqliteHuey

huey = SqliteHuey("bench", filename=os.environ["BENCH_HUEY_DB"], fsync=False, results=False)
_voice: list[int] = []


@huey.task()
def noop(n: int = 0) -> None:
    """Do nothing."""


@huey.task()
def tell_start(n: int) -> None:
    """Tell when the handler started."""
    told = START.pack(n, time.monotonic(), time.time())
    if not _voice:
        _voice.append(os.open(os.environ["BENCH_PIPE"], os.O_WRONLY))
    os.write(_voice[0], told)
