"""The live view: what stands on its screen, what keys do, and that it keeps up with a terminal of any size."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from fireforget import Inspector, State, Task, _cli_top, _top, cli
from fireforget._claims import Claims
from fireforget._history import Ended
from fireforget._pool.board import Board

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture
def queue(open_queue):
    """Real time: ages are shown."""
    return open_queue(clock=time.time)


@pytest.fixture
def inspector(queue):
    return Inspector(queue)


@pytest.fixture
def claims(queue):
    claims = Claims(queue._database, lambda _: True, ["default"], time.time)
    claims.register("here:1:x", f"{queue.path}-worker-1", {"default": 3}, 2, 1)
    yield claims
    claims.close()


def run(claims, most):
    """Have so many jobs active."""
    with claims.transaction():
        claims.begin_claiming()
        return claims.claim("default", ["t"], most)


def text_of(lines):
    return "\n".join("".join(text for text, _ in line) for line in lines)


@pytest.fixture
def look(inspector):
    """Press keys, read as `top` would, and return the screen's text."""
    view, seen = _top.View(), None

    def look(*keys, width=100, height=24, trouble=""):
        nonlocal seen
        seen = seen or view.read(inspector)
        for key in keys:
            seen = view.read(inspector) if view.press(key, seen) == "read" else seen
        seen = view.read(inspector)
        lines = _top.screen(view, seen, trouble, width, height, "jobs.db")
        assert len(lines) == height and all(len(text_of([line])) <= width for line in lines)
        return text_of(lines)

    look.view = view
    return look


def test_queues_jobs_and_workers_are_a_key_apart(look, queue, claims):
    """Depth, age and what runs; the jobs of a queue and a state; a worker and what it has in its hands."""
    queue.enqueue_many([Task("t", {"n": n}) for n in range(5)])
    queue.enqueue(Task("later"), queue="low", process_in=60)
    n = run(claims, 1)[0][0]
    with claims.transaction():
        claims.connection.execute("UPDATE fireforget_job SET progress = 0.5, progress_note = 'half' WHERE n = ?", (n,))
        claims.add_to_history([Ended("default", "t", 40, 10, 10, 0, 40, 8.0)])
    shown = look()
    assert re.search(r"^default +4 +1 +0s +0/s +0 +40 +10$", shown, re.MULTILINE)
    assert re.search(r"^\S+ +t +default +0s +█████░░░░░  50%  half$", shown, re.MULTILINE)
    assert "█ 40 runs, 25.0% failed, run 200 ms, 1 worker" in shown
    shown = look("down", "enter")
    assert "low: " in shown and "scheduled 1" in shown and re.search(r"later +low +0/25 +in \d+s", shown)
    assert "no archived jobs" in look("right", "right") and look.view.state is State.ARCHIVED
    shown = look("3")
    assert re.search(r"^here:1:x +alive +2 +1 ", shown, re.MULTILINE) and "50%  half" in shown
    assert "last hour of low" in look("tab")


def test_the_children_of_the_chosen_worker_stand_below_it(look, queue, claims):
    """What each runs and for how long, and that one died; however small the terminal."""
    queue.enqueue(Task("t"))
    board = Board.create(queue.path, slots=2, threads=1)
    try:
        with claims.transaction():
            claims.connection.execute("UPDATE fireforget_worker SET lock_file = ?", (os.path.basename(board.path),))
        for number in range(2):
            board.slot(number).clear()
            board.slot(number).occupy(2**22 + number)
        cell = board.slot(0).cells[0]
        board.words[cell.index_at], board.words[cell.number_at] = 1, run(claims, 1)[0][0]
        board.doubles[cell.began_at] = time.monotonic() - 42
        board.note_death(77, 3)
        shown = look("3")
        assert re.search(r"^4194304 +0s +\S+ +t +42s$", shown, re.MULTILINE)
        assert re.search(r"^4194305 +0s +idle$", shown, re.MULTILINE)
        assert re.search(r"^1 child has died, the last \S+ ago: 77, exit code 3$", shown, re.MULTILINE)
        for height in range(6, 20):
            look(height=height, width=30)
    finally:
        board.remove()


def test_pages_of_jobs_are_turned_at_their_ends(look, queue):
    """However many there are, as many are read as fit on the screen."""
    ids = [info.id for info in queue.enqueue_many([Task("t", {"n": n}) for n in range(30)])]
    look("enter", height=15)
    assert look.view.room == 10 and look.view.state is State.PENDING
    assert ids[9] in look(*["down"] * 9, height=15) and ids[10] not in look(height=15)
    assert ids[10] in look("down", height=15) and ids[9] not in look(height=15)
    assert ids[20] in look("n", height=15) and ids[10] in look("p", height=15)
    assert ids[0] in look("up", height=15)
    assert ids[29] in look("n", "n", "n", "n", height=15)


def test_a_job_is_shown_whole(look, queue, inspector):
    """Its payload cannot steer the terminal; one that ends meanwhile is said to be gone."""
    info = queue.enqueue(Task("t", {"text": "\x1b[2J<b>"}), headers={"a": "b"})
    shown = look("enter", "enter")
    assert info.id in shown and '{"text": "\\u001b[2J<b>"}' in shown and "\x1b" not in shown
    inspector.delete(info.id)
    assert "is not stored any more" in look("r")
    assert "no pending jobs" in look("esc")


def test_every_size_of_a_window_is_filled_and_never_more(look, queue, claims):
    """Also one line, also one column, also wide characters."""
    queue.enqueue_many([Task("t", "漢字" * 50)] * 40)
    run(claims, 20)
    for keys in ((), ("2",), ("enter",), ("esc", "3"), ("?",)):
        look(*keys)
        for width, height in ((1, 1), (3, 2), (10, 4), (20, 5), (40, 7), (80, 24), (200, 60)):
            lines = look(width=width, height=height).split("\n")
            assert len(lines) == height and max(map(_top.columns_of, lines)) <= width


def test_without_jobs_it_says_so(look):
    """Nothing to see is not an empty screen."""
    assert "no jobs are stored" in look() and "no run ended" in look()
    assert "no active jobs" in look("2") and "no worker has signed in" in look("3")
    assert "cannot read, trying again: locked; shown is what was 0s ago" in look(trouble="locked")


def test_held_it_reads_nothing_until_it_goes_on(look):
    """For whoever wants to copy something."""
    view = look.view
    assert view.press("space", None) == "draw" and view.held
    assert view.press("space", None) == "read" and not view.held
    assert view.press("x", None) == "" and view.press("q", None) == "quit"


def test_a_rate_is_what_ended_over_the_last_seconds():
    """By the totals that workers write; unknown at the first look."""
    rates = _top.Rates()
    stats = [type("Stats", (), {"name": "q", "processed_total": total}) for total in (100, 150, 400)]
    rates.add(0.0, stats[:1])
    assert rates.of("q") is None
    rates.add(1.0, stats[1:2])
    assert rates.of("q") == 50.0
    rates.add(2 + _top.RATE_SECONDS, stats[2:])
    assert rates.of("q") == 250 / (1 + _top.RATE_SECONDS)


def test_without_a_terminal_it_prints_plain_text(capsys, queue, path):
    """As often as was asked for; one line of JSON each time for programs."""
    queue.enqueue(Task("t"))
    words = ["top", "--db", path, "--interval", "0.1", "--count", "2"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert out.count("queue    pending") == 2 and "\x1b" not in out
    assert cli.main([*words, "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["queues"][0]["states"]["pending"] == 1 and first["trouble"] is None and second["queues"][0]["rate"] == 0
    assert cli.main(["top", "--db", f"{path}-no"]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_a_file_that_goes_and_comes_again_is_told_and_read_again(queue, path):
    """What was seen before stays on the screen."""
    queue.enqueue(Task("t"))
    reader, view = _cli_top.Reader(cli.parser().parse_args(["top", "--db", path])), _top.View()
    reader.look(view)
    assert reader.seen is not None and not reader.trouble
    os.rename(path, f"{path}-away")
    for _ in range(2):
        reader.look(view)
        assert reader.trouble and reader.seen is not None
    os.rename(f"{path}-away", path)
    reader.look(view)
    assert not reader.trouble
    reader.close()


# --- in a pseudo-terminal -------------------------------------------------------------------------------------------------


class Terminal:
    """`top` in a pseudo-terminal, and what it has written there."""

    def __init__(self, path, *words, rows=24, columns=90):
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        environment = {**os.environ, "PYTHONPATH": ROOT, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        for name in ("LINES", "COLUMNS", "NO_COLOR"):
            environment.pop(name, None)
        command = [sys.executable, "-m", "fireforget", "top", "--db", path, *words]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True)
        os.close(slave)
        self.text = ""

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys):
        os.write(self.master, keys.encode())

    def see(self, wanted, seconds=20):
        """Wait until a text was written; forget what came before it."""
        limit = time.monotonic() + seconds
        while wanted not in self.text:
            ready, _, _ = select.select([self.master], [], [], max(0, limit - time.monotonic()))
            assert ready, f"{wanted!r} was not shown, but {self.text!r}"
            try:
                self.text += os.read(self.master, 65536).decode("utf-8", "replace")
            except OSError:  # it has ended
                assert wanted in self.text, self.text
        self.text = self.text.partition(wanted)[2]

    def end(self):
        limit = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < limit:
            if select.select([self.master], [], [], 0.05)[0]:
                try:
                    self.text += os.read(self.master, 65536).decode("utf-8", "replace")
                except OSError:
                    break
        return self.process.wait(20)


@pytest.fixture
def terminal(path):
    pytest.importorskip("curses")
    made = []

    def terminal(*words, **size):
        made.append(Terminal(path, *words, **size))
        return made[-1]

    yield terminal
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        os.close(one.master)


def test_on_a_terminal_keys_move_about_and_q_ends(terminal, queue):
    """It is redrawn after the window changed its size, also to a tiny one, and the terminal is left as it was."""
    info = queue.enqueue(Task("email:send", {"to": "ada"}), queue="mail")
    top = terminal("--interval", "0.5")
    top.see("\x1b[?1049h")  # the other screen of the terminal
    top.see("mail")
    top.press("\r")
    top.see(info.id)
    top.press("?")
    top.see("page up and down")
    top.press("?\t")
    top.see("no worker has signed in")
    for rows, columns in ((3, 12), (1, 2), (30, 120)):
        top.resize(rows, columns)
        top.process.send_signal(signal.SIGWINCH)
    top.see("no worker has signed in")
    top.press("1")
    top.see("pending")
    queue.enqueue(Task("later"), queue="another")
    top.see("another")
    top.press("q")
    assert top.end() == 0
    assert "\x1b[?1049l" in top.text


def test_ctrl_c_and_term_leave_the_terminal_as_it_was(terminal, queue):
    """And end it without a word."""
    queue.enqueue(Task("t"))
    for number in (signal.SIGINT, signal.SIGTERM):
        top = terminal()
        top.see("default")
        top.process.send_signal(number)
        assert top.end() == 0
        assert "\x1b[?1049l" in top.text and "Traceback" not in top.text
