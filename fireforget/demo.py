"""`python -m fireforget demo [FOLDER]`: real files, a real queue, a real worker, and nothing to install.

Here is the program that has work to be done, and what it shows of it. The handlers, and the search index that they fill, are in
`_demo_app`; the worker is the one that every application runs, `python -m fireforget.worker`, in a process of its own.

    this process                        queue.db              the worker and its children
    find files                             |
    fire_and_forget(a file:seen each) ---->|----------------> seen.log
    enqueue_many(a file:index each) ------>|----------------> index.db, or the archive where a file is not text
    watch: Inspector <---------------------|                  metrics.prom, worker.log
    search <--------------------------------------------------index.db
    report: metrics.prom, Inspector, index.db

Every number it prints is read from one of those files or measured. They stay in a temporary folder to be looked at.
"""

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from keyword import iskeyword
from pathlib import Path
from sysconfig import get_path
from time import monotonic
from typing import NamedTuple, TextIO

from fireforget import Inspector, SqliteQueue, State, _demo_app, fire_and_forget, flush
from fireforget._cli_parser import prog
from fireforget._demo_app import EVENTS_NAME, FOLDER_VARIABLE, INDEX_NAME, Index, index_file, note_file
from fireforget.inspector import QueueStats

MAX_FILES = 4000
"""As many files as are taken, so that the demo ends in seconds on a small machine."""
MAX_TOTAL_BYTES = 64 * 1024 * 1024
"""As much text as is taken."""
MAX_FILE_BYTES = 512 * 1024
"""A larger file is left out."""

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit codes; the last is what shells use for a program that Ctrl-C has ended."""


def run(folder: str | None) -> int:
    """Run the demo on the text files of `folder` (None: the standard library's own sources) and return its exit code.

    0 when everything ran, files that failed for good included; 1 when the worker could not do its work; 2, with one line on
    standard error, for a folder that does not exist or has no readable text files; 130 after Ctrl-C, with one line.
    """
    root = Path(folder or get_path("stdlib")).absolute()
    screen = Screen(sys.stdout)
    try:
        found = find_files(root)
    except KeyboardInterrupt:
        screen.say("Stopped by Ctrl-C.")
        return INTERRUPTED
    if not found.files:
        return _refuse(root, found)
    noun = "text file" if len(found.files) == 1 else "text files"
    screen.say(f"{len(found.files):,} {noun}, {found.bytes / 1e6:,.2f} MB, in {root}{found.remarks}.")
    place = Place(Path(tempfile.mkdtemp(prefix="fireforget-demo-")))
    try:
        return _play(root, found, place, screen)
    except KeyboardInterrupt:
        screen.say(f"Stopped by Ctrl-C: what has not run is kept in {place.queue}")
        return INTERRUPTED


def _refuse(root: Path, found: "Found") -> int:
    problem = f"has no readable text files{found.remarks}"
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
    print(f"fireforget demo: {root} {problem}: give a folder with text files, or none for Python's own sources", file=sys.stderr)
    return MISUSED


def _play(root: Path, found: "Found", place: "Place", screen: "Screen") -> int:
    with closing(Index.create(place.index)) as index, SqliteQueue(place.queue) as queue:
        inspector = Inspector(queue)
        jobs = submit(queue, found.files, screen)
        with running_worker(place) as worker:
            outcome = watch(worker, inspector, jobs, screen)
        if outcome.exit_code != 0:
            screen.say(f"The worker has ended with exit code {outcome.exit_code}: {_last_line(place.log)}")
            screen.say(f"Its log is {place.log}")
            return FAILED
        report_search(index, root, screen)
        report_jobs(place, outcome, screen)
        report_failures(inspector, root, screen)
    report_place(place, screen)
    return DONE


@dataclass(frozen=True)
class Place:
    """The folder of one run of the demo, and the files in it."""

    folder: Path

    @property
    def queue(self) -> Path:
        """The queue's database."""
        return self.folder / "queue.db"

    @property
    def index(self) -> Path:
        """The search index: the application's own database."""
        return self.folder / INDEX_NAME

    @property
    def events(self) -> Path:
        """What became of the events."""
        return self.folder / EVENTS_NAME

    @property
    def metrics(self) -> Path:
        """The worker's metrics, as Prometheus reads them."""
        return self.folder / "metrics.prom"

    @property
    def log(self) -> Path:
        """The worker's log."""
        return self.folder / "worker.log"


# --- finding work -------------------------------------------------------------------------------------------------------


@dataclass
class Found:
    """The text files of a folder, and how many others were left out."""

    files: list[tuple[Path, int]] = field(default_factory=list)
    """Path and size in bytes."""
    bytes: int = 0
    """The sum of the sizes."""
    left_out: Counter[str] = field(default_factory=Counter)
    """How many files were left out, by reason."""
    limited: bool = False
    """Whether the folder has more than was looked at."""

    @property
    def enough(self) -> bool:
        """Whether a limit is reached."""
        return len(self.files) >= MAX_FILES or self.bytes >= MAX_TOTAL_BYTES

    @property
    def remarks(self) -> str:
        """What the numbers do not include, to be put at the end of a sentence; empty when there is nothing to say."""
        remarks = [f"{count:,} {reason} left out" for reason, count in self.left_out.items()]
        if self.limited:
            remarks.append("enough for a demo, so the rest of the folder was not looked at")
        return f" ({', '.join(remarks)})" if remarks else ""


def find_files(root: Path) -> Found:
    """Return the text files below a folder, up to the limits above; none when it is no folder.

    Text is what has no NUL byte near its start, as `git` and `grep` have it. Links are not followed; hidden folders, caches and
    installed packages are not entered.
    """
    found = Found()
    for path, size in _regular_files(root):
        if found.enough:
            found.limited = True
            break
        reason = _reason_to_leave_out(path, size)
        if reason is None:
            found.files.append((path, size))
            found.bytes += size
        else:
            found.left_out[reason] += 1
    return found


_FOLDERS_LEFT_OUT = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
_SNIFFED_BYTES = 8000


def _regular_files(root: Path) -> Iterator[tuple[Path, int]]:
    """Yield path and size of every file that has bytes at all."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _FOLDERS_LEFT_OUT and not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            with suppress(OSError):  # gone since it was listed
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_size > 0:
                    yield path, status.st_size


def _reason_to_leave_out(path: Path, size: int) -> str | None:
    if size > MAX_FILE_BYTES:
        return f"larger than {MAX_FILE_BYTES // 1024} KiB"
    if not str(path).isprintable():  # it could not be shown and, where it is not even Unicode, not be stored
        return "with unprintable names"
    try:
        with path.open("rb") as file:
            return "binary" if b"\0" in file.read(_SNIFFED_BYTES) else None
    except OSError:
        return "unreadable"


# --- handing it over ----------------------------------------------------------------------------------------------------


def submit(queue: SqliteQueue, files: list[tuple[Path, int]], screen: "Screen") -> int:
    """Enqueue an event and a job for each file and return how many of both are stored."""
    try:
        began = monotonic()
        for path, size in files:
            fire_and_forget(queue, note_file.task(path=str(path), size=size))
        fired = monotonic()
        jobs = queue.enqueue_many(index_file.task(number=n, path=str(path)) for n, (path, _) in enumerate(files))
        stored = monotonic()
    finally:  # after Ctrl-C too: the queue is about to be closed
        lost = flush()
    microseconds, milliseconds = (fired - began) / len(files) * 1e6, (stored - fired) * 1e3
    screen.say(f"Fired and forgot a {note_file.pattern} event for each, {microseconds:.0f} microseconds a call.")
    screen.say(f"Enqueued a {index_file.pattern} job for each in one transaction, {milliseconds:.0f} ms.")
    if lost:
        screen.say(f"{lost:,} of the events did not arrive.")
    return len(files) - lost + len(jobs)


# --- the worker ---------------------------------------------------------------------------------------------------------

_SHUTDOWN_SECONDS = 2
_REDRAW_SECONDS = 0.1


@contextmanager
def running_worker(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker that ends when nothing is left to run; leaving the block earlier stops it."""
    command = [sys.executable, "-m", "fireforget.worker", f"{_demo_app.__name__}:registry", "--burst"]
    command += ["--db", str(place.queue), "--metrics-file", str(place.metrics)]
    command += ["--log-level", "info", "--shutdown-timeout", str(_SHUTDOWN_SECONDS)]
    with place.log.open("wb") as log:
        # A process group of its own: Ctrl-C in a terminal reaches this process alone, which then stops the worker, once.
        worker = subprocess.Popen(
            command, cwd=place.folder, env=_environment(place), stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
        )
    try:
        yield worker
    finally:
        _stop(worker)


def _environment(place: Place) -> dict[str, str]:
    """Return an environment in which Python finds this very fireforget, installed or not, and the handlers find their folder."""
    search = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search)), FOLDER_VARIABLE: str(place.folder)}


def _stop(worker: subprocess.Popen[bytes]) -> None:
    """Ask a worker that still runs to stop, and wait: its jobs end or are put back. A second Ctrl-C ends it at once."""
    if worker.poll() is None:
        worker.terminate()
    try:
        worker.wait()
    except KeyboardInterrupt:
        worker.kill()
        worker.wait()


class Outcome(NamedTuple):
    """How the worker fared."""

    exit_code: int
    seconds: float
    """From its start to its end."""
    children: int
    """Its processes for jobs; 0 when it was gone before anybody looked."""


def watch(worker: subprocess.Popen[bytes], inspector: Inspector, jobs: int, screen: "Screen") -> Outcome:
    """Show how far the jobs are until the worker ends: whoever can open the queue's file can look on."""
    began = monotonic()
    children = 0
    while not _ends(worker, _REDRAW_SECONDS):
        children = max([children, *(info.concurrency for info in inspector.workers())])
        screen.progress(count_progress(inspector, jobs, monotonic() - began))
    seconds = monotonic() - began
    screen.progress(count_progress(inspector, jobs, seconds), last=True)
    return Outcome(worker.returncode, seconds, children)


def _ends(worker: subprocess.Popen[bytes], within: float) -> bool:
    try:
        worker.wait(within)
    except subprocess.TimeoutExpired:
        return False
    return True


class Progress(NamedTuple):
    """How far the jobs are."""

    jobs: int
    settled: int
    """Those that succeeded or failed for good."""
    failed: int
    """Those that failed for good."""
    seconds: float
    """Since the worker was started."""


def count_progress(inspector: Inspector, jobs: int, seconds: float) -> Progress:
    """Count what has become of the jobs; one that succeeds is not kept, unless its task asks for it with `retention`."""
    queues = inspector.queues()
    stored, archived = sum(queue.size for queue in queues), _count(State.ARCHIVED, queues)
    return Progress(jobs, jobs - stored + archived, archived, seconds)


def _count(state: State, queues: list[QueueStats]) -> int:
    return sum(queue.counts[state] for queue in queues)


# --- what happened ------------------------------------------------------------------------------------------------------

_EXAMPLES = 3
_FAVOURITE = "sqlite"
_SAMPLED_TEXTS = 50
_LONGER_WORD = re.compile(r"[^\W\d_]{5,}")


def report_search(index: Index, root: Path, screen: "Screen") -> None:
    """Search the index for a word and show what was found."""
    word = choose_word(index)
    if word is None:
        screen.title("The index has no word to search for.")
        return
    began = monotonic()
    matches, hits = index.count(word), index.search(word, _EXAMPLES)
    milliseconds = (monotonic() - began) * 1e3
    screen.title(f'Searched for "{word}"')
    screen.say(f"It is in {matches:,} of {index.count():,} files ({milliseconds:.1f} ms, {index.method}), such as")
    for hit in hits:
        screen.example(os.path.relpath(hit.path, root), hit.excerpt)


def choose_word(index: Index) -> str | None:
    """Return a word that the index has: "sqlite", else the most frequent longer one of some files, Python's keywords apart."""
    if index.count(_FAVOURITE):
        return _FAVOURITE
    words = Counter(word for text in index.texts(_SAMPLED_TEXTS) for word in _LONGER_WORD.findall(text) if not iskeyword(word))
    return words.most_common(1)[0][0] if words else None


def report_jobs(place: Place, outcome: Outcome, screen: "Screen") -> None:
    """Show the jobs by type, as the worker has counted them in its metrics file."""
    samples = read_metrics(place.metrics)
    runs = total(samples, "job_processed_total")
    workforce = f" in {outcome.children} {'process' if outcome.children == 1 else 'processes'}" if outcome.children else ""
    screen.title(f"Ran {runs:,.0f} {'job' if runs == 1 else 'jobs'}{workforce}")
    for pattern in (index_file.pattern, note_file.pattern):
        done = total(samples, "job_processed_total", task_type=pattern, status="success")
        failed = total(samples, "job_processed_total", task_type=pattern, status="failed")
        spent = total(samples, "job_duration_seconds_sum", task_type=pattern)
        screen.say(f"{pattern:<10}  {done:,.0f} done, {failed:,.0f} failed, {spent / max(1, done + failed) * 1e3:.2f} ms each")
    screen.say(f"{outcome.seconds:.1f} s from the worker's start to its end, {runs / outcome.seconds:,.0f} jobs a second")


class Sample(NamedTuple):
    """One line of a metrics file."""

    name: str
    labels: dict[str, str]
    value: float


_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def read_metrics(path: Path) -> list[Sample]:
    """Return the samples of a metrics file; enough of its format for labels that have no quotes in them."""
    matches = (_SAMPLE.fullmatch(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [Sample(match[1], dict(_LABEL.findall(match[2] or "")), float(match[3])) for match in matches if match]


def total(samples: list[Sample], name: str, **labels: str) -> float:
    """Return the sum of the samples with this name and at least these labels."""
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


def report_failures(inspector: Inspector, root: Path, screen: "Screen") -> None:
    """Show some of the jobs that failed for good; nothing when none did."""
    queues = inspector.queues()
    failed, waiting = _count(State.ARCHIVED, queues), _count(State.RETRY, queues)
    if failed:
        screen.title(f"{failed:,} failed for good")
        screen.say("Kept in the archive, each with its reason, such as")
    for job in inspector.tasks(State.ARCHIVED, limit=_EXAMPLES):
        screen.example(os.path.relpath(job.payload["path"], root), job.last_error or "")
    if waiting:
        screen.say(f"{waiting:,} failed for now and will be tried again by the next worker.")


def report_place(place: Place, screen: "Screen") -> None:
    """Say where everything is that the demo made, how to be rid of it, and how to look further."""
    screen.title(f"All of it is in {place.folder}")
    contents = (
        (place.queue, "the queue, one SQLite file"),
        (place.index, "the search index"),
        (place.events, "what the events left"),
        (place.metrics, "metrics for Prometheus"),
        (place.log, "the worker's log"),
    )
    for path, content in contents:
        screen.say(f"{path.name:<12}  {content}")
    size = sum(path.stat().st_size for path, _ in contents if path.exists())
    screen.title(f"Remove it, {size / 1e6:,.1f} MB, with")
    screen.command(f"rm -r {shlex.quote(str(place.folder))}")
    screen.title("Look into the queue with")
    program = prog() if prog() == "fireforget" else f"{shlex.quote(sys.executable)} -m fireforget"
    screen.command(f"{program} stats --db {shlex.quote(str(place.queue))}")


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "it has logged nothing")


# --- the screen ---------------------------------------------------------------------------------------------------------

_PLAIN_COLUMNS = 100
_LONGEST_BAR = 30
_SHORTEST_BAR = 4
_SECONDS_BETWEEN_LINES = 1.0


class Screen:
    """Prints for people: wrapped and redrawn on a terminal, line by line anywhere else; bold unless NO_COLOR is set."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._bold = self._live and not os.environ.get("NO_COLOR")
        self._line_is_open = False
        self._next_line_at = 0.0

    def say(self, text: str) -> None:
        """Print a sentence."""
        lines = [text]
        if self._live:  # paths stay whole, to be copied
            lines = textwrap.wrap(text, self._columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for line in lines:
            self._print(line)

    def command(self, text: str) -> None:
        """Print a command in one line, to be copied."""
        self._print(text)

    def title(self, text: str) -> None:
        """Print an empty line and a heading."""
        self._print("")
        self._print(f"\033[1m{text}\033[0m" if self._bold else text)

    def example(self, path: str, text: str) -> None:
        """Print a path and, in the line below, as much of a text as fits."""
        self._print(f"  {path}")
        room = self._columns - 4
        words = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
        self._print("    " + (words if len(words) <= room else words[: room - 3] + "..."))

    def progress(self, now: Progress, *, last: bool = False) -> None:
        """Redraw the line of progress; where there is no terminal, print one now and then. The `last` one is always printed."""
        rate = now.settled / max(now.seconds, 1e-3)
        text = f"{now.settled:,} of {now.jobs:,} jobs, {rate:,.0f}/s, {now.failed:,} failed"
        if self._live:
            self._redraw(self._bar(now.settled / now.jobs, self._columns - len(text)) + text, last)
        elif last or monotonic() >= self._next_line_at:
            self._print(text)
            self._next_line_at = monotonic() + _SECONDS_BETWEEN_LINES

    @property
    def _columns(self) -> int:
        return shutil.get_terminal_size().columns - 1 if self._live else _PLAIN_COLUMNS

    def _bar(self, fraction: float, room: int) -> str:
        length = min(_LONGEST_BAR, room - len("[] "))
        return f"[{'#' * int(fraction * length):.<{length}}] " if length >= _SHORTEST_BAR else ""

    def _redraw(self, line: str, last: bool) -> None:
        self._write("\r" + line[: self._columns].ljust(self._columns) + ("\n" if last else ""))
        self._line_is_open = not last

    def _print(self, line: str) -> None:
        self._write(("\n" if self._line_is_open else "") + line + "\n")
        self._line_is_open = False

    def _write(self, text: str) -> None:
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))  # names of files need not fit the terminal's
        self._stream.flush()
