"""What becomes of submissions when the interpreter leaves, is killed, or forks: in real processes."""

import os
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest

ROOT = Path(__file__).resolve().parents[2]

PRELUDE = """
import atexit, logging, os, signal, sys, threading
from fireforget.patterns import *
from fireforget.task import Task
logging.basicConfig(format="%(levelname)s %(message)s")

class Prints:
    def enqueue(self, task, *, timeout=None, **options):
        os.write(1, f"{task.type} {os.getpid() == PARENT}\\n".encode())

class Slow(Prints):
    def enqueue(self, task, *, timeout=None, **options):
        threading.Event().wait(0.05)
        super().enqueue(task)

class Stuck:
    called = threading.Event()
    def enqueue(self, task, *, timeout=None, **options):
        self.called.set()
        threading.Event().wait()

PARENT = os.getpid()
"""


def run(code, *, timeout=20):
    """Run a program; return its lines, its standard error and how long it took."""
    before = monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", PRELUDE + code],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return sorted(done.stdout.split("\n")[:-1]), done.stderr, monotonic() - before, done.returncode


def test_leaving_the_interpreter_sends_what_waits():
    """A program may fire and end: nothing is lost when the enqueuer answers."""
    lines, errors, _, code = run("""
for n in range(40):
    fire_and_forget(Slow(), Task("t"))
""")
    assert lines == ["t True"] * 40
    assert (errors, code) == ("", 0)


def test_leaving_with_a_stuck_enqueuer_takes_no_longer_than_its_timeout_and_says_what_is_lost():
    """The exit waits for the timeout, not for ever, and one record names the number and the types."""
    lines, errors, seconds, code = run("""
for n in range(3):
    fire_and_forget(Stuck(), Task("email:send"), timeout=0.5)
fire_and_forget(Stuck(), Task("cleanup"), timeout=0.5)
fire_and_forget(Prints(), Task("fine"))
""")
    assert lines == ["fine True"]
    assert seconds < 3
    assert errors == "ERROR fire-and-forget lost 4 submissions at exit: no answer in time (email:send 3, cleanup 1)\n"
    assert code == 0


def test_leaving_with_a_stuck_enqueuer_takes_about_5_seconds_by_default():
    """Without a timeout of its own a submission holds up the exit for 5 s at most."""
    _, errors, seconds, _ = run("fire_and_forget(Stuck(), Task('t'))")
    assert 4.5 < seconds < 7
    assert "lost 1 submissions" in errors


def test_leaving_does_not_wait_for_what_was_given_up():
    """A thread that hangs in an enqueuer does not hold up the exit after its submission has failed."""
    _, errors, seconds, code = run("""
fire_and_forget(Stuck(), Task("t"), timeout=0.1)
assert flush() == 1
""")
    assert seconds < 3
    assert (errors, code) == ("ERROR fire-and-forget enqueue failed\n", 0)


def test_what_threads_and_exit_callbacks_submit_is_sent():
    """Non-daemon threads and `atexit` callbacks still run when the main thread is done; what they submit arrives."""
    lines, errors, _, _ = run("""
fire_and_forget(Prints(), Task("early"))
flush()
atexit.register(lambda: fire_and_forget(Prints(), Task("callback")))
def late():
    threading.main_thread().join()
    fire_and_forget(Prints(), Task("thread"))
threading.Thread(target=late).start()
""")
    assert lines == ["callback True", "early True", "thread True"]
    assert errors == ""


def test_a_submission_after_the_last_flush_is_said_and_does_not_raise():
    """What comes when nobody would send it any more is reported as failed."""
    lines, errors, _, code = run("""
import fireforget._submissions
atexit.unregister(fireforget._submissions.leave)
atexit.register(lambda: (fire_and_forget(Prints(), Task("t")), print(*submission_counts())))
atexit.register(fireforget._submissions.leave)
""")
    assert lines == ["1 0 1 0"]
    assert (errors, code) == ("ERROR fire-and-forget enqueue failed\n", 0)


def test_an_uncaught_exception_or_sys_exit_flushes_too():
    """A program that ends badly still sends what it has submitted."""
    lines, _, _, code = run("fire_and_forget(Slow(), Task('t')); sys.exit(3)")
    assert (lines, code) == (["t True"], 3)
    lines, _, _, code = run("fire_and_forget(Slow(), Task('t')); raise ValueError")
    assert (lines, code) == (["t True"], 1)


def test_os_exit_loses_the_buffer():
    """As documented: `os._exit` runs nothing, so what waits is lost unless it was flushed."""
    lines, *_ = run("fire_and_forget(Slow(), Task('t')); os._exit(0)")
    assert lines == []
    lines, *_ = run("fire_and_forget(Slow(), Task('t')); flush(); os._exit(0)")
    assert lines == ["t True"]


FORK = """
def in_child(work, end=lambda: os._exit(0)):
    pid = os.fork()
    if pid == 0:
        try:
            work()
            end()
        except SystemExit:
            raise
        except BaseException as error:
            print("child:", repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    signal.alarm(10)
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_a_forked_child_starts_empty_and_submits_normally():
    """The parent's submissions are sent once, by the parent; the child's own by the child."""
    lines, errors, *_ = run(
        FORK
        + """
queue = Slow()
for n in range(20):
    fire_and_forget(queue, Task("parent"))
def work():
    assert not has_pending() and submission_counts() == (0, 0, 0, 0), submission_counts()
    for n in range(5):
        fire_and_forget(queue, Task("child"))
    assert flush() == 0
    assert submission_counts() == (5, 5, 0, 0)
in_child(work)
"""
    )
    assert errors == ""
    assert lines == ["child False"] * 5 + ["parent True"] * 20


def test_a_forked_child_that_ends_normally_flushes():
    """`sys.exit` in the child sends what the child has submitted."""
    lines, errors, *_ = run(
        FORK
        + """
fire_and_forget(Slow(), Task("parent"))
in_child(lambda: fire_and_forget(Slow(), Task("child")), sys.exit)
"""
    )
    assert errors == ""
    assert lines == ["child False", "parent True"]


def test_a_fork_while_other_threads_submit_is_safe():
    """Locks that are held in the moment of the fork do not stop the child, and it keeps the settings."""
    lines, errors, *_ = run(
        FORK
        + """
class Nothing:
    def enqueue(self, task, *, timeout=None, **options): pass
    def enqueue_many(self, tasks, *, timeout=None, **options): return [None] * len(tasks)
queue, stop = Nothing(), threading.Event()
configure(max_submissions=7)
def storm():
    while not stop.is_set():
        fire_and_forget(queue, Task("t"), logger=quiet)
quiet = logging.getLogger("quiet"); quiet.setLevel(60)
threads = [threading.Thread(target=storm) for _ in range(4)]
for thread in threads: thread.start()
def work():
    hold = Stuck()
    for n in range(10):
        fire_and_forget(hold, Task("t"), logger=quiet)
    assert submission_counts().dropped == 3, submission_counts()
    fire_and_forget(queue, Task("t"), logger=quiet)
for n in range(30):
    in_child(work)
stop.set()
for thread in threads: thread.join()
print("done")
"""
    )
    assert errors == ""
    assert lines == ["done"]


def test_a_grandchild_is_as_good_as_a_child():
    """Each process has its own buffer, however deep."""
    lines, errors, *_ = run(
        FORK
        + """
def grandchild():
    fire_and_forget(Prints(), Task("grandchild"))
    assert flush() == 0
def child():
    fire_and_forget(Slow(), Task("child"))
    in_child(grandchild)
    assert flush() == 0
fire_and_forget(Slow(), Task("parent"))
in_child(child)
"""
    )
    assert errors == ""
    assert lines == ["child False", "grandchild False", "parent True"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_of_multiprocessing_flushes_when_it_ends(tmp_path, method):
    """Such a child ends by `os._exit`, and yet what it has submitted is sent."""
    program = tmp_path / "program.py"
    body = """
def work():
    for n in range(3):
        fire_and_forget(Slow(), Task("child"))

if __name__ == "__main__":
    import multiprocessing
    child = multiprocessing.get_context(sys.argv[1]).Process(target=work)
    child.start()
    child.join()
"""
    program.write_text(PRELUDE.replace("PARENT = os.getpid()", "PARENT = 0") + body)
    command = [sys.executable, str(program), method]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20, env=environment)
    assert (done.stdout, done.stderr) == ("child False\n" * 3, "")
