"""Named moments at which a process of the storm may kill itself, put around the package's functions from outside.

A process that imports this and calls `arm()` dies by SIGKILL at each point with the probability that the environment gives. What
it dies at is written to the ledger first, so the storm can say how often each point was hit.
"""

import os
import random
import signal
import threading
from contextlib import contextmanager

from fireforget import _claims, _db, _effects, _group_commit
from fireforget._pool import child, runner

PROBABILITY = float(os.environ.get("STORM_PROBABILITY", "0"))


def write(line: str) -> None:
    """Append one line to the ledger; one write, so lines of many processes stay whole."""
    with open(os.environ["STORM_LEDGER"], "ab", buffering=0) as ledger:
        ledger.write(line.encode() + b"\n")


def maybe_die(point: str, weight: float = 1.0) -> None:
    """Die here, sometimes."""
    if random.random() < PROBABILITY * weight:
        die(point)


def die(point: str) -> None:
    """Die here and now."""
    write(f"died {point.replace(' ', '-')} {os.getpid()}")
    os.kill(os.getpid(), signal.SIGKILL)


def arm() -> None:
    """Put the points around the package's functions."""
    random.seed()
    _arm_claims()
    _arm_checkpoint()
    _arm_enqueue()
    _arm_runs()


def _arm_claims() -> None:
    transaction, settle = _claims.Claims.transaction, _claims.Claims.settle

    @contextmanager
    def deadly_transaction(self):
        with transaction(self):
            yield
            maybe_die("before the commit of a turn")
        maybe_die("after the commit of a turn")

    def deadly_settle(self, settlement):
        late = settle(self, settlement)
        maybe_die("inside a settling batch")
        return late

    _claims.Claims.transaction = deadly_transaction
    _claims.Claims.settle = deadly_settle


def _arm_checkpoint() -> None:
    checkpoint = _db.checkpoint

    def deadly_checkpoint(connection, path):
        if random.random() < PROBABILITY * 20:
            threading.Timer(random.random() * 0.004, die, ["in a checkpoint"]).start()
        return checkpoint(connection, path)

    _db.checkpoint = deadly_checkpoint
    _db.WORKER_WAL_BYTES = 256 * 1024  # so that there are many


def _arm_enqueue() -> None:
    write_batch = _group_commit.GroupCommit._write

    def deadly_write(self, batch):
        maybe_die("before the commit of an enqueue")
        write_batch(self, batch)
        maybe_die("after the commit of an enqueue")

    _group_commit.GroupCommit._write = deadly_write


def _arm_runs() -> None:
    run = runner.Runner.run

    def deadly_run(self, index, row):
        maybe_die("between claim and start")
        outcome = run(self, index, row)
        maybe_die("between handler and settling")
        return outcome

    runner.Runner.run = deadly_run


def arm_effects() -> None:
    """Put points around the transactions of handlers and steps, and between a commit and the message that tells of it."""
    begin, end = _effects.Effects._begin, _effects.Effects._end
    finish_job = child.Child.finish_job

    def deadly_begin(self):
        maybe_die("before a handler's BEGIN")
        connection = begin(self)
        maybe_die("after a handler's BEGIN")
        return connection

    def deadly_end(self, *, commits, settles=False):
        what = "COMMIT" if commits else "ROLLBACK"
        maybe_die(f"before a handler's {what}", 4)
        end(self, commits=commits, settles=settles)
        maybe_die(f"after a handler's {what}", 4)

    def deadly_finish(self, index, outcome, always):
        if outcome is not None and outcome[0] == "settled":
            maybe_die("between a handler's commit and its message", 4)
        finish_job(self, index, outcome, always)

    _effects.Effects._begin = deadly_begin
    _effects.Effects._end = deadly_end
    child.Child.finish_job = deadly_finish
