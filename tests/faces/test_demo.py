"""The demo as a newcomer runs it: real files, a real worker, and an end in every case."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from fireforget import demo
from fireforget._demo_app import Index

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60
"""More than any run of the demo takes; a hang ends here."""
TEXTS = {
    "recipes/bread.txt": "Flour, water, salt. Let the sourdough rest overnight.\n",
    "recipes/pizza.md": "# Pizza\n\nThe sourdough again, with tomatoes.\n",
    "notes.txt": "The sourdough starter wants feeding.\n",
}


@pytest.fixture
def folder(tmp_path):
    """Return a folder with three text files, one that is Latin-1, one binary file and an empty one."""
    root = tmp_path / "kitchen"
    for name, text in TEXTS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "recipes/cafe.txt").write_bytes(b"caf\xe9 au lait\n")
    (root / "photo.bin").write_bytes(b"\x89\0\0\0")
    (root / "empty.txt").touch()
    return root


@pytest.fixture
def start(tmp_path):
    """Return a function that starts the demo, away from the checkout, with its temporary folder inside of the test's."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    started = []

    def start(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "fireforget", "demo", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def kept_folder(output):
    """Return the folder that the demo says it has left."""
    return Path(re.search(r"All of it is in (\S+)", output)[1])


def test_the_demo_indexes_a_folder_and_says_what_became_of_it(folder, start):
    """One command, no installation: jobs run, one fails for good with its reason, the search finds, exit code 0."""
    process = start(folder)
    output, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, "")
    assert "4 text files" in output
    assert "1 binary left out" in output
    assert re.search(r'Searched for "sourdough"\nIt is in 3 of 3 files', output)
    assert "recipes/bread.txt" in output
    assert re.search(r"file:index +3 done, 1 failed", output)
    assert re.search(r"file:seen +4 done, 0 failed", output)
    assert "8 of 8 jobs" in output
    assert re.search(r"recipes/cafe\.txt\n +SkipRetry: not UTF-8: byte 0xe9 at offset 3", output)


def test_everything_that_the_demo_names_is_there_to_be_looked_at(folder, start):
    """Queue, index, events, metrics and log stay, and the command that it suggests works."""
    output, _ = start(folder).communicate(timeout=SECONDS)
    kept = kept_folder(output)
    for name in ("queue.db", "index.db", "seen.log", "metrics.prom", "worker.log"):
        assert re.search(rf"^{re.escape(name)} ", output, re.MULTILINE)
        assert (kept / name).stat().st_size > 0
    assert {line.split("\t")[1] for line in (kept / "seen.log").read_text().splitlines()} == {
        str(path) for path in folder.rglob("*.*") if path.suffix in (".txt", ".md") and path.stat().st_size
    }
    assert re.search(rf"^Remove it, 0\.\d MB, with\nrm -r {re.escape(str(kept))}$", output, re.MULTILINE)
    suggested = output.splitlines()[-1]
    assert suggested.startswith(f"{sys.executable} -m fireforget stats ")
    done = subprocess.run(suggested, shell=True, capture_output=True, text=True, timeout=SECONDS, cwd=ROOT, check=True)
    assert "archived" in done.stdout


def test_the_command_that_the_demo_suggests_is_as_short_as_it_can_be(tmp_path, monkeypatch, capsys):
    """`fireforget` where it was started as that; in one line, whatever the terminal's width."""
    monkeypatch.setattr(sys, "argv", ["/opt/bin/fireforget", "demo"])
    demo.report_place(demo.Place(tmp_path), demo.Screen(sys.stdout))
    assert capsys.readouterr().out.splitlines()[-1] == f"fireforget stats --db {tmp_path / 'queue.db'}"


@pytest.mark.parametrize("what", ["missing", "a file", "empty", "binary"])
def test_a_folder_without_work_is_refused_in_one_line(tmp_path, start, what):
    """Exit code 2, the path and the remedy on standard error, and no temporary folder left behind."""
    root = tmp_path / "root"
    if what == "a file":
        root.write_text("text")
    elif what != "missing":
        root.mkdir()
    if what == "binary":
        (root / "photo.bin").write_bytes(b"\0\1")
    process = start(root)
    output, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, output, errors.count("\n")) == (2, "", 1)
    assert str(root) in errors
    assert list((tmp_path / "temporary").iterdir()) == []


def test_ctrl_c_stops_the_worker_and_keeps_what_has_not_run(start):
    """One line, no traceback, no process left, and the queue is named."""
    process = start()  # the standard library's sources are work for seconds
    line = ""
    while not re.match(r"[\d,]+ of [\d,]+ jobs", line):  # the worker runs
        line = process.stdout.readline()
        assert line, process.stderr.read()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (130, "")
    last = output.splitlines()[-1]
    kept = Path(re.fullmatch(r"Stopped by Ctrl-C: what has not run is kept in (\S+)", last)[1])
    assert kept.is_file()
    assert list(kept.parent.glob("queue.db-worker-*")) == []  # a worker's own file, removed as the last thing it does
    shutil.rmtree(kept.parent)


def test_an_sqlite_without_full_text_search_is_searched_all_the_same(tmp_path):
    """A plain table and LIKE find the same files, and a job that runs twice leaves one row."""
    with closing(Index.create(tmp_path / "index.db", full_text=False)) as index:
        for number, (path, text) in enumerate([*TEXTS.items(), *TEXTS.items()]):
            index.put(number % len(TEXTS), path, text)
        assert not index.full_text
        assert (index.count(), index.count("Sourdough")) == (3, 3)
        (hit,) = index.search("tomatoes", limit=5)
        assert hit.path == "recipes/pizza.md"
        assert "tomatoes" in hit.excerpt


def test_a_terminal_sees_one_line_that_grows(monkeypatch):
    """On a terminal progress is redrawn in place, within its width, without colour where that is not wanted."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    screen = demo.Screen(terminal)
    for settled in (1000, 2000):
        screen.progress(demo.Progress(jobs=4000, settled=settled, failed=3, seconds=1.0))
    screen.title("Stopped")
    written = terminal.getvalue()
    assert "\033" not in written
    assert written.count("\r") == 2
    assert max(map(len, re.split(r"[\r\n]", written))) < 40
    assert written.endswith("\n\nStopped\n")
