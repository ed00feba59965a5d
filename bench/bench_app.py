"""The application that the workers of `bench/` run: handlers that do nothing, or tell when they started."""

import os
import struct
import time

from fireforget import Registry, current_job

registry = Registry()

START = struct.Struct("<qdd")
"""What a handler tells of its start: the job's number in the payload, monotonic and Unix seconds."""
_voice: list[int] = []


@registry.task("bench:noop")
def noop(n: int = 0) -> None:
    """Do nothing."""


@registry.task("bench:start")
def tell_start(n: int) -> None:
    """Tell, through the pipe that BENCH_PIPE names, when the handler started."""
    told = START.pack(n, time.monotonic(), time.time())
    if not _voice:
        _voice.append(os.open(os.environ["BENCH_PIPE"], os.O_WRONLY))
    os.write(_voice[0], told)


@registry.task("bench:die")
def die(n: int) -> None:
    """Tell of the start, and take the child down."""
    tell_start(n)
    os._exit(3)


@registry.task("bench:sometimes", retry_delay=1)
def fail_sometimes(n: int) -> None:
    """Fail the first run of every hundredth job."""
    if n % 100 == 0 and current_job().retry_count == 0:
        raise RuntimeError("the hundredth fails once")
