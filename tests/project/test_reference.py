"""docs/reference/ beside the code, both ways: settings, states, schema, metrics, log records; the glossary; the decisions.

What other pages say of the API and the commands is compared in `test_docs`, which also runs every page.
"""

import ast
import inspect
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import pytest

from fireforget import (
    Inspector,
    Registry,
    SqliteQueue,
    State,
    Task,
    TaskInfo,
    Worker,
    _claims,
    _db,
    _demo_app,
    _history,
    _schedules,
    dashboard,
    errors,
    logs,
    metrics,
    patterns,
    payload,
    testing,
)
from fireforget._claimed import Claimed
from fireforget._claims import Claims
from fireforget._pool import config, crew, groups, notice, recovery, supervisor
from fireforget._pool.config import DEFAULT_QUEUES, Settings
from fireforget._schema import STATE_OF_NUMBER, VERSION
from fireforget._settling import Settlement
from fireforget.metrics import METRICS
from fireforget.testing import ManualClock
from tests.project.messages import VALUE, Module, Source, clean
from tests.project.test_docs import ROOT, code, fences, table, worker_flags

REFERENCE = ROOT / "docs" / "reference"


def page(name: str) -> str:
    """Return the text of a page of the reference."""
    return (REFERENCE / name).read_text(encoding="utf-8")


# --- settings ---------------------------------------------------------------------------------------------------------------

SETTINGS = page("settings.md")


@pytest.mark.parametrize(
    ("first_header", "call"),
    [
        ("argument of a queue", SqliteQueue),
        ("argument of a worker", Worker),
        ("argument of a registry", Registry),
        ("argument of configure", patterns.configure),
        ("limit", Inspector.set_limits),
    ],
)
def test_the_page_of_the_settings_has_every_argument_and_no_others(first_header: str, call: Callable[..., Any]) -> None:
    """In the order of the signature."""
    documented = [code(row[0]) for row in table(SETTINGS, first_header) if "`" in row[0]]
    assert documented == [name for name in inspect.signature(call).parameters if name not in ("self", "name")]


def test_the_page_of_the_settings_has_every_flag_of_the_worker_beside_its_argument() -> None:
    """Whoever has one finds the other."""
    rows = table(SETTINGS, "argument of a worker")
    flags = {code(row[1]): row[0].strip("`") for row in rows if row[1].startswith("`")}
    assert flags.keys() == worker_flags().keys()
    for flag, argument in flags.items():
        assert argument == "no argument" or flag == "--db" or argument == worker_flags()[flag].dest


def test_the_page_of_the_settings_has_the_defaults_of_the_code() -> None:
    """Where a default is a number or a word, it is the one that is used."""
    of_worker = {row[0].strip("`"): row[3] for row in table(SETTINGS, "argument of a worker")}
    for name in ("threads", "strict_priority", "burst", "metrics_interval", "shutdown_timeout"):
        default = getattr(Settings(), name)
        assert of_worker[name] == (f"{default:g}" if isinstance(default, float) else str(default)), name
    assert of_worker["queues"] == ", ".join(f"`{queue}` {weight}" for queue, weight in DEFAULT_QUEUES.items())
    of_queue = {code(row[0]): row[2].strip("`") for row in table(SETTINGS, "argument of a queue")}
    for name, parameter in inspect.signature(SqliteQueue).parameters.items():
        if name in ("durability", "max_payload"):
            assert of_queue[name] == str(parameter.default)
    of_buffer = {code(row[0]): row[2] for row in table(SETTINGS, "argument of configure")}
    fresh = type(patterns._submissions.buffer)()
    assert of_buffer == {"max_submissions": str(fresh.max_submissions), "max_bytes": str(fresh.max_bytes)}


VARIABLES = {"dashboard.TOKEN_VARIABLE": dashboard.TOKEN_VARIABLE, "FOLDER_VARIABLE": _demo_app.FOLDER_VARIABLE}
"""Environment variables that are read under the name of a constant."""


def variables() -> set[str]:
    """Return the environment variables that the package reads."""
    reads = re.compile(r"os\.environ(?:\.get\(|\[)([\w.\"]+)")
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "fireforget").rglob("*.py"))
    return {VARIABLES.get(name, name.strip('"')) for text in texts for name in reads.findall(text)}


def test_the_page_of_the_settings_has_every_environment_variable_and_no_others() -> None:
    """Nothing in a unit file or a container is silently ignored, or silently heeded."""
    assert {code(row[0]) for row in table(SETTINGS, "variable")} == variables()


def test_the_page_of_the_settings_has_the_figures_that_are_fixed() -> None:
    """Each from where it is used."""
    mebibyte = 1024 * 1024
    assert {config.DECISION_SECONDS, _claims.HOOK_SECONDS, groups.AGGREGATE_SECONDS} == {5.0}
    assert [row[1] for row in table(SETTINGS, "what")] == [
        f"{_db.DEFAULT_PATIENCE:g} s",
        f"{config.KILL_GRACE:g} s",
        f"{config.TRANSACTION_GRACE:g} s",
        f"{config.DECISION_SECONDS:g} s",
        f"{recovery.CHECK_SECONDS:g} s",
        f"{_claims.MOST_DEATHS}",
        f"{crew.TAKE_BACK_AFTER:g} s",
        f"{crew.STUCK_AFTER:g} s, {crew.KILL_STUCK_AFTER:g} s",
        f"{supervisor.TROUBLE_PAUSE:g} s",
        f"{notice.POLL_SECONDS:g} s",
        f"{_db.WORKER_WAL_BYTES // mebibyte} MiB, {_db.WAL_LIMIT_BYTES // mebibyte} MiB",
        f"{payload.MAX_RESULT_BYTES}",
        ", ".join(str(kept) for kept in _history.KEPT.values()),
        f"{_history.MOST_TYPES}",
        f"{_schedules.MOST_EVENTS}",
    ]


# --- states -----------------------------------------------------------------------------------------------------------------

NEW, GONE = "new", "gone"


def headings(text: str, level: int) -> list[str]:
    """Return the headings of a level, without their marks."""
    return re.findall(rf"(?m)^{'#' * level} `?([^`\n]+)`?$", text)


def test_each_state_has_its_paragraph_in_order() -> None:
    """No state is left out, and none is there that no job can be in."""
    states = page("states.md")
    assert headings(states, 2)[: len(State)] == [state.value for state in State]
    drawing = next(fence.text for fence in fences(states) if fence.language == "text")
    assert set(re.findall(r"[a-z]+", drawing)) >= {state.value for state in State}


class Watched:
    """A queue whose file notes from which state to which its jobs go."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock()
        self.queue = SqliteQueue(path, clock=self.clock)
        self.inspector = Inspector(self.queue)
        self._sql = sqlite3.connect(path, isolation_level=None)
        self._sql.executescript(
            """
            CREATE TABLE seen (old INTEGER, new INTEGER, UNIQUE (old, new));
            CREATE TRIGGER seen_insert AFTER INSERT ON fireforget_job BEGIN
                INSERT OR IGNORE INTO seen VALUES (0, NEW.state); END;
            CREATE TRIGGER seen_update AFTER UPDATE OF state ON fireforget_job WHEN OLD.state <> NEW.state BEGIN
                INSERT OR IGNORE INTO seen VALUES (OLD.state, NEW.state); END;
            CREATE TRIGGER seen_delete AFTER DELETE ON fireforget_job BEGIN
                INSERT OR IGNORE INTO seen VALUES (OLD.state, 0); END;
            """
        )
        self.registry = Registry(retry_delay=60)
        self.claims = Claims(self.queue._database, self._handles, ["default"], self.clock)

    def _handles(self, type: str) -> bool:
        return self.registry.match(type) is not None

    def close(self) -> None:
        self.claims.close()
        self._sql.close()
        self.queue.close()

    def enqueue(self, type: str = "ok", **options: Any) -> str:
        return self.queue.enqueue(Task(type, **options)).id

    def drain(self) -> None:
        testing.drain(self.queue, self.registry)

    def claim(self) -> Claimed:
        """Claim the next job of type ok, as a worker of its own."""
        self.claims.register(f"w{self.claims.worker}", "/nowhere.lock", {"default": 1}, 1, 1)
        with self.claims.transaction():
            (row,) = self.claims.claim("default", ["ok"], 1)
        return Claimed(*row)

    def transitions(self) -> set[tuple[str, str]]:
        def name(number: int, other: str) -> str:
            return STATE_OF_NUMBER[number].value if number else other

        return {(name(old, NEW), name(new, GONE)) for old, new in self._sql.execute("SELECT old, new FROM seen WHERE old <> new")}


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path / "jobs.db")
    yield made
    made.close()


def by_hand(watched: Watched) -> None:
    """Do all that a person may do to a job to one of each state; what is refused is no transition."""
    inspector = watched.inspector

    def archived() -> str:
        job_id = watched.enqueue()
        inspector.archive(job_id)
        return job_id

    def cancelled() -> str:
        job_id = watched.enqueue()
        inspector.cancel(job_id)
        return job_id

    def completed() -> str:
        job_id = watched.enqueue(retention=60)
        watched.drain()
        return job_id

    def in_retry() -> str:
        job_id = watched.enqueue("fails")
        watched.drain()
        return job_id

    makers = {
        State.SCHEDULED: lambda: watched.enqueue(process_in=60),
        State.PENDING: watched.enqueue,
        State.RETRY: in_retry,
        State.COMPLETED: completed,
        State.ARCHIVED: archived,
        State.CANCELLED: cancelled,
        State.AGGREGATING: lambda: watched.enqueue(group="g"),
        State.BLOCKED: lambda: watched.enqueue(after=[watched.enqueue("nobody")]),
    }
    operations = [
        inspector.run,
        inspector.archive,
        inspector.cancel,
        inspector.delete,
        lambda job_id: inspector.update(job_id, process_in=60),
        lambda job_id: inspector.update(job_id, process_in=0),
    ]
    for make in makers.values():
        for operation in operations:
            job_id = make()
            try:
                operation(job_id)
            except errors.WrongState:
                inspector.delete(job_id)


def by_workers(watched: Watched) -> None:
    """Let runs end in each way there is, and workers stop and die."""
    clock, claims = watched.clock, watched.claims
    for type in ("skips", "later", "revoked", "cancels"):
        watched.enqueue(type)
    watched.enqueue(process_in=1)
    watched.enqueue("fails", max_retry=1)
    watched.enqueue(retention=1)
    watched.drain()
    clock.advance(120)
    watched.drain()  # what was due, failed again or has expired
    for ends in ("put_back", "take_over", "asked"):
        job_id = watched.enqueue()
        job = watched.claim()
        fence = (job.n, claims.worker, job.claim)
        if ends == "asked":
            watched.inspector.cancel(job_id)
        if ends == "take_over":
            claims.take_over(claims.worker, frozenset({job.n}), True)
        else:
            with claims.transaction():
                claims.settle(Settlement(put_back=[fence]))
            claims.unregister()
        watched.drain()


def by_others(watched: Watched) -> None:
    """Let jobs follow those that they wait for, and members of a group the job that aggregates them."""
    inspector, clock = watched.inspector, watched.clock
    for end in (inspector.archive, inspector.cancel):
        first = watched.enqueue()
        watched.enqueue(after=[first])
        end(first)
        watched.enqueue(after=[first])  # ends at once
        inspector.run(first)
        watched.enqueue(after=[first], process_in=600)
        watched.drain()

    answers: list[Any] = [Task("ok"), OSError("not yet"), errors.SkipRetry("never")]

    @watched.registry.aggregator("g", group_grace=1)
    def together(group: str, jobs: list[TaskInfo]) -> Task:
        answer = answers.pop(0)
        if isinstance(answer, Task):
            return answer
        raise answer

    for became in ("completed", "cancelled", "archived"):
        watched.enqueue(group="g")
        clock.advance(2)
        watched.drain()
        if became != "completed":
            (maker,) = (job.id for job in inspector.tasks(type="fireforget:aggregate:"))
            if became == "cancelled":
                inspector.cancel(maker)
                watched.drain()  # its members follow
            answers.insert(0, Task("ok"))
            inspector.run(maker)
            watched.drain()


def test_the_states_and_their_changes_are_those_of_the_code(watched: Watched) -> None:
    """Every change of the table happens, and no other does, whatever people, workers and other jobs do."""
    raised = {
        "ok": None,
        "fails": OSError("no"),
        "skips": errors.SkipRetry("no"),
        "later": errors.RetryLater(1),
        "revoked": errors.RevokeTask("no"),
        "cancels": errors.JobCancelled("no"),
    }

    def handler_that(ends: BaseException | None) -> Callable[[], None]:
        def handler() -> None:
            if ends is not None:
                raise ends

        return handler

    for type, ends in raised.items():
        watched.registry.task(type)(handler_that(ends))
    by_hand(watched)
    by_workers(watched)
    by_others(watched)
    documented = {(row[0].strip("`"), row[1].strip("`")) for row in table(page("states.md"), "from")}
    assert documented == watched.transitions()


# --- the schema -------------------------------------------------------------------------------------------------------------


def objects(connection: sqlite3.Connection, kind: str) -> dict[str, str]:
    """Return what the file has of a kind that was made by name, with the table that each belongs to."""
    statement = "SELECT name, tbl_name FROM sqlite_master WHERE type = ? AND name LIKE 'fireforget%'"
    return dict(connection.execute(statement, (kind,)))


def test_the_page_of_the_schema_is_that_of_a_new_file(tmp_path: Path) -> None:
    """Tables with their columns in order and their types, indexes, views and the trigger: all of them, and no others."""
    schema = page("schema.md")
    SqliteQueue(tmp_path / "new.db").close()
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        tables = objects(connection, "table")
        assert headings(schema, 3) == list(tables)
        for name in tables:
            columns = [(row[1], row[2]) for row in connection.execute(f"PRAGMA table_info({name})")]
            assert [(code(row[0]), row[1]) for row in table(schema, f"column of {name}")] == columns, name
        for kind in ("index", "trigger"):
            assert {code(row[0]): code(row[1]) for row in table(schema, kind)} == objects(connection, kind), kind
        assert {code(row[0]) for row in table(schema, "view")} == objects(connection, "view").keys()


def test_the_page_of_the_schema_has_the_numbers_of_the_states_and_its_version() -> None:
    """Who looks into the table itself reads the same states as we do."""
    schema = page("schema.md")
    (row,) = (row for row in table(schema, "column of fireforget_job") if code(row[0]) == "state")
    assert row[2] == ", ".join(f"{number} {state}" for number, state in STATE_OF_NUMBER.items())
    assert f"and it is {VERSION}." in schema


def test_the_page_of_the_schema_knows_what_each_name_of_a_job_is_elsewhere(tmp_path: Path) -> None:
    """Every field whose name differs has its line, and each name in it exists where it says."""
    shown = (ROOT / "fireforget" / "_cli_tasks.py").read_text(encoding="utf-8")
    SqliteQueue(tmp_path / "new.db").close()
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        of_table, of_view = (
            {row[1] for row in connection.execute(f"PRAGMA table_info({name})")} for name in ("fireforget_job", "fireforget_jobs")
        )
    known: set[str] = set()
    for row in table(page("schema.md"), "field of TaskInfo"):
        fields, columns, of_views, heads = (re.findall(r"`([^`]+)`", cell) for cell in row)
        known.update(fields)
        assert set(columns) <= of_table and set(of_views) <= of_view, row
        assert all(f'"{head}"' in shown for head in heads), row
    fields_of_a_job = set(get_type_hints(TaskInfo))
    assert known <= fields_of_a_job
    assert fields_of_a_job - of_table <= known, "it has another name in the table"


# --- metrics ----------------------------------------------------------------------------------------------------------------


def test_the_page_of_the_metrics_has_each_with_its_type_and_labels_and_no_others() -> None:
    """Both ways, and every label has its line."""
    text = page("metrics.md")
    documented = {}
    for row in table(text, "metric"):
        name, _, labels = code(row[0]).rstrip("}").partition("{")
        documented[name] = (row[1], tuple(labels.split(",")) if labels else ())
    assert documented == {name: (kind, labels) for name, (kind, labels, _) in METRICS.items()}
    labels = {code(row[0]): set(re.findall(r"`([a-z ]+)`", row[1])) for row in table(text, "label")}
    assert labels.keys() == {label for _, names, _ in METRICS.values() for label in names}
    assert labels["outcome"] == set(patterns.SubmissionCounts._fields)
    buckets = re.search(r"in seconds: ([\d., ]+), and above", text)
    assert buckets and buckets[1] == ", ".join(f"{bound:g}" for bound in metrics._BUCKETS)


# --- log records ------------------------------------------------------------------------------------------------------------

RECORDERS = {"event", "log", "_log", "_tell", "debug", "info", "warning", "error", "exception"}
"""What functions that make records are called; `self._log` of the supervisor, which adds two fields, among them."""
LEVELS = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "error": "ERROR", "exception": "ERROR"}
"""Of those that say it by their name."""
LOGGERS = {"logs", "_log", "_worker", "_logger", "self", "logging.getLogger('fireforget.worker')", ""}
"""Whose methods they are; '' for functions."""


SOURCE = Source(ROOT / "fireforget")


class Recorded(NamedTuple):
    """A record as the code makes it: its message with `…` for what varies, and the rest as far as it stands there."""

    message: str
    level: str | None
    fields: frozenset[str] | None


def recorded(module: Module) -> Iterator[Recorded]:
    """Return the records that a module makes."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        owner, _, name = ast.unparse(node.func).rpartition(".")
        if name not in RECORDERS or owner not in LOGGERS:
            continue
        words = [ast.unparse(argument) for argument in node.args]
        named = [word.removeprefix("logging.") for word in words if word.startswith("logging.")]
        level = named[0] if named else LEVELS.get(name)
        fields = None
        if name == "event" and all(keyword.arg for keyword in node.keywords):
            fields = frozenset(keyword.arg or "" for keyword in node.keywords)
        texts, stands_there = message_of(module, node)
        for text in texts:
            yield Recorded(text, level if stands_there else None, fields if stands_there else None)


def message_of(module: Module, call: ast.Call) -> tuple[list[str], bool]:
    """Return what the first argument with words may read, before which there may be a level; and whether it stands there itself.

    A variable is followed by the name of its function, so its message may be another's of that name, with other fields.
    """
    for argument in call.args:
        texts = {clean(text) for text in SOURCE.texts(module, argument)}
        if any(re.search("[a-z]{2}", text) for text in texts):
            return sorted(texts - {VALUE}), not isinstance(argument, ast.Name | ast.Subscript)
    return [], False


def all_records() -> list[Recorded]:
    """Return every record that the package makes; commands print, and do not log."""
    left_out = {"testing.py", "demo.py", "_demo_app.py", "_conformance.py"}
    return [
        record
        for module in SOURCE.modules
        if module.path.name not in left_out and not module.path.name.startswith("_cli_")
        for record in recorded(module)
    ]


def as_pattern(template: str) -> str:
    return ".*".join(re.escape(part) for part in template.split(VALUE))


def records_of_the_page() -> list[list[str]]:
    text = page("log-fields.md")
    return [row for part in re.split(r"(?m)^## ", text) if "| record |" in part for row in table(part, "record")]


def test_the_page_of_the_log_has_every_record_and_no_others() -> None:
    """Whoever looks up a line of the log finds it, with its level and its fields."""
    made, rows = all_records(), records_of_the_page()
    documented = {code(row[0]): row for row in rows}
    assert len(documented) == len(rows) > 40
    exact = {record.message for record in made}
    families = [as_pattern(text) for text in exact if text in (f"task {VALUE}", f"{VALUE} failed")]
    too_many = {message for message in documented.keys() - exact if not any(re.fullmatch(family, message) for family in families)}
    assert not too_many, f"log-fields.md has too many: {sorted(too_many)}"
    missing = {text for text in exact if not any(re.fullmatch(as_pattern(text), message) for message in documented)}
    assert not missing, f"log-fields.md lacks: {sorted(missing)}"
    for record in made:
        row = documented.get(record.message)
        if row is not None and record.level is not None:
            assert row[1] == record.level, record
        if row is not None and record.fields is not None:
            assert set(re.findall(r"`(\w+)`", row[2])) == record.fields, record
    verbs = get_args(get_type_hints(logs.task_not_counted)["reason"])
    assert verbs and {f"task {verb}" for verb in verbs} <= documented.keys()


def test_the_page_of_the_log_has_every_field_and_no_others() -> None:
    """In the order in which they are printed; and each is in some record, and each record's fields are printed."""
    assert [code(row[0]) for row in table(page("log-fields.md"), "log field")] == list(logs.FIELDS)
    used = {field for row in records_of_the_page() for field in re.findall(r"`(\w+)`", row[2])}
    assert used == set(logs.FIELDS)


# --- decisions and words ----------------------------------------------------------------------------------------------------

DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


def test_the_decisions_are_numbered_without_a_gap_and_the_index_has_their_titles() -> None:
    """A number means the same record for ever."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for number, path in enumerate(DECISIONS, 1):
        title = path.read_text(encoding="utf-8").splitlines()[0]
        assert path.name.startswith(f"{number:02}-") and title.startswith(f"# {number}. "), path.name
        assert f"{number}. [{title.removeprefix(f'# {number}. ')}](decisions/{path.name})" in index, path.name


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_says_what_was_rejected_and_why(path: Path) -> None:
    """Whoever wants to change it knows what was tried; and it is short enough to be read."""
    text = path.read_text(encoding="utf-8")
    assert headings(text, 2) == ["Context", "Decision", "Rejected", "Consequence"]
    rejected = text.split("## Rejected")[1].split("## ")[0]
    assert all(": " in point for point in re.split(r"(?m)^\* ", rejected)[1:])
    assert 15 <= len(text.splitlines()) <= 30


GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
VOCABULARY = {"task", "job", "queue", "enqueuer", "handler", "registry", "worker", "child"}
"""The words that everything else is said with."""


def test_the_glossary_has_the_vocabulary_once_and_every_state() -> None:
    """One word, one meaning."""
    terms = [row[0] for row in table(GLOSSARY, "term")]
    assert set(terms) >= VOCABULARY and len(set(terms)) == len(terms)
    assert [code(row[0]) for row in table(GLOSSARY, "state")] == [state.value for state in State]


SYNONYMS = {
    r"dead[- ]letter queue": "archived",
    r"worker process(es)?\b": "child",
    r"pool process(es)?\b": "child",
    r"child process(es)? of a worker": "child",
    r"\bsubprocess(es)? of a worker": "child",
    r"\bcron ?jobs?\b": "schedule",
    r"\bperiodic (task|job)s?\b": "schedule",
    r"\bre-?queued?\b": "put back",
    r"\bdequeue[sd]?\b": "claim",
    r"\benqueued tasks\b": "jobs",
    r"\bcallbacks?\b": "hook",
}
"""Words of other systems for what has a word here."""


def test_our_pages_keep_to_the_words_of_the_glossary() -> None:
    """A reader who meets another word looks for another thing; pages about other systems have theirs."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        if path.name in ("glossary.md", "comparison.md", "benchmarks.md", "inspector.md") or path.parent.name in (
            "coming-from",
            "decisions",
        ):
            continue
        text = path.read_text(encoding="utf-8")
        for synonym, word in SYNONYMS.items():
            found = re.search(synonym, text, re.IGNORECASE)
            assert not found, f"{path.name}: {found[0]!r} is called {word!r} here"  # type: ignore[index]
