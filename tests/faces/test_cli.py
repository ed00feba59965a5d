"""The command line: what people type, what they read, and what a script gets back."""

import argparse
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fireforget import (
    Inspector,
    Progress,
    Registry,
    SqliteQueue,
    Task,
    Worker,
    _cli_output,
    _cli_parser,
    _cli_stats,
    cli,
    testing,
    worker,
)
from fireforget._claims import Claims
from fireforget._history import Ended
from fireforget._pool.board import Board
from fireforget._settling import Settlement

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
TRACEBACK = 'Traceback (most recent call last):\n  File "app.py", line 3, in send\n    raise ValueError("no")\nValueError: no'


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, path):
    for name in ("COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FIREFORGET_DB", path)


@pytest.fixture
def queue(open_queue):
    """Real time: commands print how long ago things were."""
    from time import time

    return open_queue(clock=time)


@pytest.fixture
def say(capsys):
    """Run a command in this process; returns exit code, output, and the line on standard error."""

    def say(*words):
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out, err

    return say


@pytest.fixture
def ok(say):
    """Run a command that has to succeed, silently on standard error; returns what it printed."""

    def ok(*words):
        code, out, err = say(*words)
        assert (code, err) == (0, ""), (words, out, err)
        return out

    return ok


@pytest.fixture
def refused(say):
    """Run a command that has to fail with this exit code and one line on standard error, which is returned."""

    def refused(expected, *words):
        code, out, err = say(*words)
        assert code == expected, (words, out, err)
        assert err.startswith("fireforget: ") and err.count("\n") == 1, err
        assert "Traceback" not in err
        return err

    return refused


@pytest.fixture
def terminal(monkeypatch):
    """Pretend that input and output are a terminal of so many columns, and answer its questions."""

    def terminal(columns=80, answer="n"):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        keyboard = io.StringIO(answer + "\n")
        keyboard.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", keyboard)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")

    return terminal


@pytest.fixture
def archived(queue):
    """A job that failed once and is archived, with its traceback."""
    from time import time

    claims = Claims(queue._database, lambda _: True, ["default"], time)
    claims.register("host:1:abc", "/tmp/w.lock", {"default": 3, "low": 1}, 2, 1)
    info = queue.enqueue(Task("email:send", {"to": "a@example.com"}), task_id="broken")
    with claims.transaction():
        ((n, number, *_),) = claims.claim("default", ["email:send"], 1)
    fence = (n, claims.worker, number)
    with claims.transaction():
        claims.settle(
            Settlement(
                attempts=[(time(), 0.25, "ValueError: no", TRACEBACK, *fence)],
                archived=[(time(), "ValueError: no", *fence)],
            )
        )
    yield info
    claims.close()


# --- as a program ---------------------------------------------------------------------------------------------------------


def program(*words, path, **environment):
    """Run `python -m fireforget` in a process of its own."""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "FIREFORGET_DB": path, **environment}
    command = [sys.executable, "-W", "error", "-m", "fireforget", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, env=surroundings, check=False)


def test_a_job_goes_from_enqueue_to_run_as_shells_do_it(path):
    """The id is the first word that `enqueue` prints; a pipe gets plain text."""
    made = program("enqueue", "email:send", "--payload", '{"to": "ü"}', "--create", path=path, PYTHONIOENCODING="ascii")
    assert (made.returncode, made.stderr) == (0, "")
    job_id = made.stdout.split()[0]
    assert program("task", "archive", job_id, path=path).stdout == f"{job_id}: archived\n"
    shown = program("task", "list", path=path, PYTHONIOENCODING="ascii")
    assert "archived" in shown.stdout and "\\xfc" not in shown.stderr and "\x1b" not in shown.stdout
    assert program("task", "run", job_id, path=path).returncode == 0
    gone = program("task", "show", "nope", path=path)
    assert (gone.returncode, gone.stdout, gone.stderr.count("\n")) == (1, "", 1)


def test_a_reader_that_has_seen_enough_is_no_error(path, open_queue):
    """`task list | head -1` ends quietly."""
    open_queue().enqueue_many([Task("t", "x" * 100)] * 5000)
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "FIREFORGET_DB": path}
    command = [sys.executable, "-W", "error", "-m", "fireforget", "task", "list", "--limit", "5000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is full")
def test_output_that_cannot_be_written_is_one_line(queue):
    """`task list --json` on a full disk."""
    command = [sys.executable, "-m", "fireforget", "task", "list", "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "fireforget: the output cannot be written: No space left on device\n")


def test_jobs_of_foreign_programs_are_listed_with_the_others(queue, sql, ok, say):
    """A payload that is not even UTF-8, headers that are not text, an id that is not UTF-8."""
    sql("INSERT INTO fireforget_enqueue (type, payload, task_id) VALUES ('a', x'ff00', 'pb')")
    sql("INSERT INTO fireforget_enqueue (type, headers, task_id) VALUES ('a', '{\"a\": null}', CAST(x'ff41' AS TEXT))")
    assert "xff" in ok("task", "list")
    assert "xff" in ok("task", "show", "pb")
    assert len(json.loads(ok("task", "list", "--json"))["tasks"]) == 2
    code, _, error = say("task", "show", "\udcffA")
    assert (code, "not UTF-8" in error) == (2, True)


# --- flags, files, mistakes -------------------------------------------------------------------------------------------------


def test_common_flags_stand_before_or_after_a_command(ok, queue, tmp_path, monkeypatch):
    """At every level; `--db` wins over the environment."""
    monkeypatch.setenv("FIREFORGET_DB", str(tmp_path / "other.db"))
    queue.enqueue(Task("t"))
    for words in (
        ("--db", queue.path, "--json", "task", "list"),
        ("task", "--db", queue.path, "--json", "list"),
        ("task", "list", f"--db={queue.path}", "--json"),
    ):
        assert len(json.loads(ok(*words))["tasks"]) == 1


@pytest.mark.parametrize(
    "words",
    [
        "stats",
        "queue list",
        "queue pause low",
        "task list",
        "task delete x",
        "task run --state archived",
        "worker list",
        "enqueue t",
    ],
)
def test_a_file_that_does_not_exist_is_not_created(refused, path, words):
    """Looking, or a mistyped path, leaves no empty queue behind."""
    assert "there is no such file" in refused(2, *words.split())
    assert not os.path.exists(path)


def test_only_enqueue_has_a_flag_to_create_a_file(refused):
    """So only it speaks of it."""
    assert "--create" in refused(2, "enqueue", "t")
    assert "--create" not in refused(2, "stats")


LOOKING = ["stats", "queue list", "queue show low", "task list", "task show x", "worker list"]
LOOKING += ["queue history low", "task show --state retry"]
CHANGING = ["queue pause low", "queue resume low", "queue delete low", "enqueue t", "task update x --priority 1"]
CHANGING += [f"task {name} x" for name in ("run", "archive", "cancel", "delete")]


@pytest.mark.parametrize("words", LOOKING + CHANGING)
@pytest.mark.parametrize("kind", ["delete", "wal", "empty"])
def test_a_database_of_another_program_is_left_byte_for_byte(refused, path, sql, words, kind):
    """Neither its journal mode nor its tables change, and no file appears beside it; an empty file stays empty."""
    if kind == "empty":
        Path(path).touch()
    else:
        sql(f"PRAGMA journal_mode = {kind}")
        sql("CREATE TABLE customer (name TEXT)")
    before = Path(path).read_bytes()
    assert "this is no fireforget database" in refused(2, *words.split())
    assert Path(path).read_bytes() == before
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


def test_a_database_of_another_program_gets_a_queue_when_that_is_asked_for(ok, path, sql):
    """By `enqueue --create`; from then on every command takes it."""
    sql("CREATE TABLE customer (name TEXT)")
    ok("enqueue", "t", "--create")
    ok("enqueue", "t")
    assert len(json.loads(ok("task", "list", "--json"))["tasks"]) == 2
    assert sql("SELECT count(*) FROM customer") == [(0,)]


def test_a_queue_whose_tables_are_in_the_wal_alone_is_recognized(ok, queue):
    """As while the first program that has opened it goes on."""
    queue.enqueue(Task("t"))
    assert os.path.getsize(queue.path + "-wal") > 0
    assert "1" in ok("stats")


def test_a_file_that_is_no_queue_is_refused(refused, path):
    """In one line, with what it is."""
    Path(path).write_text("no database, but text that is long enough to be looked at" * 50)
    assert "not an SQLite database" in refused(2, "stats")


@pytest.mark.parametrize(
    ("words", "expected", "said"),
    [
        ("tsak list", 2, "no command 'tsak': did you mean 'task'"),
        ("task lst", 2, "no command 'lst': did you mean 'list'"),
        ("task list --state pendign", 2, "no state 'pendign': did you mean 'pending'"),
        ("task list --state failed", 2, "did you mean 'archived'"),
        ("queue histroy", 2, "no command 'histroy': did you mean 'history'"),
        ("queue history default --day 1x", 2, "not a whole number above 0"),
        ("task update broken --in-queue high", 2, "either ids, or --state"),
        ("task list --newer-than soon", 2, "'soon' is no duration"),
        ("completion fish", 2, "no value 'fish': choose among bash, zsh"),
        ("queue show defualt", 1, "no queue 'defualt': did you mean 'default'"),
        ("task list --queue hihg", 1, "did you mean 'high'"),
        ("task cancel --state pending --queue hihg --yes", 1, "did you mean 'high'"),
        (
            "task show brokn",
            1,
            "completed and was not kept (give it a retention), was deleted, or never existed; did you mean broken?",
        ),
        ("task run brokn", 1, "did you mean broken"),
        ("task list --after brokn", 1, "did you mean broken"),
        ("task show nothing-alike", 1, "no job 'nothing-alike' is stored"),
        ("task run", 2, "either ids, or --state"),
        ("task run broken --state archived", 2, "either ids, or --state"),
        ("task delete --queue high", 2, "give --state too"),
        ("task update broken", 2, "give what is to change"),
        ("task cancel --state archived --yes", 2, "cannot be cancelled; choose among"),
        ("task list --limit 0", 2, "above 0"),
        ("task list --payload user_id", 2, "KEY=VALUE"),
        ("task list --older-than soon", 2, "'soon' is no duration"),
        ("enqueue t --payload {a:1}", 2, "is not JSON"),
        ("enqueue t --process-at 2030-01-01", 2, "such as 2030-01-01T00:00:00+00:00"),
        ("enqueue t --process-at tomorrow", 2, "no instant"),
        ("enqueue t --header x", 2, "KEY=VALUE"),
        ("stats --db=", 2, "the path is empty"),
        ("enqueue t --priority high", 2, "'high' is not a whole number"),
        ("enqueue t --unique-key k", 2, "--unique-key k: say for how long with --unique-for"),
        ("task show", 2, "which jobs are to be shown? (see python -m fireforget task show --help)"),
        ("enqueue t --timeout 0", 2, "above 0"),
        ("enqueue t --task-id broken", 1, "taken"),
        ("task run waiting", 1, "is pending"),
        ("queue delete high", 1, "has 1 job: give --force to delete"),
        ("", 2, "COMMAND"),
        (
            "task list --stat pending --lmit 3",
            2,
            "no option '--lmit': did you mean '--limit'? (see python -m fireforget task list --help)",
        ),
        ("task show --jsn", 2, "no option '--jsn': did you mean '--json'? (see python -m fireforget task show --help)"),
        ("task --jsn list", 2, "no option '--jsn': did you mean '--json'? (see python -m fireforget task --help)"),
        ("--db x.db --jsn stats", 2, "no option '--jsn': did you mean '--json'? (see python -m fireforget --help)"),
        ("stats -x", 2, "no option '-x'"),
        ("stats low", 2, "'low' is one word too many (see python -m fireforget stats --help)"),
        ("stats --watch 0", 2, "'0' is too short or too long: give from 0.1 seconds to a day"),
        ("stats --watch 0.09", 2, "from 0.1 seconds"),
        ("stats --watch -1", 2, "from 0.1 seconds"),
        ("stats --watch 2d", 2, "from 0.1 seconds"),
        ("stats --watch nan", 2, "'nan' is no duration"),
    ],
)
def test_a_mistake_gets_one_line_with_what_to_do(refused, queue, archived, words, expected, said):
    """The nearest right word, or what is missing; exit code 1 where the answer is no, 2 where the question makes no sense."""
    queue.enqueue(Task("t"), task_id="waiting", queue="high")
    assert said in refused(expected, *words.split())


def test_an_id_with_a_mistyped_end_is_found_by_its_number(refused, queue):
    """What people cut off when they copy."""
    info = queue.enqueue(Task("t"))
    assert f"did you mean {info.id}?" in refused(1, "task", "show", info.id[:-3])


# --- enqueue ----------------------------------------------------------------------------------------------------------------


def test_every_option_of_a_task_can_be_given(ok, queue):
    """As for `queue.enqueue`."""
    words = """enqueue email:send --payload {"a":1} --queue low --priority 4 --max-retry 2 --timeout 1m --process-in 1h30m
        --task-id own --unique-for 2h --unique-key k --retention 1d --header a=b --header c=d
        --deadline 2100-01-01T00:00:00Z --json"""
    printed = json.loads(ok(*words.split()))
    info = queue.get("own")
    assert (printed["id"], printed["state"], printed["payload"]) == ("own", "scheduled", {"a": 1})
    assert (info.queue, info.priority, info.max_retry, info.timeout, dict(info.headers)) == (
        "low",
        4,
        2,
        60,
        {"a": "b", "c": "d"},
    )
    assert info.deadline == datetime(2100, 1, 1, tzinfo=UTC)
    assert timedelta(minutes=89) < info.next_process_at - datetime.now(UTC) <= timedelta(minutes=90)


def test_a_payload_is_read_from_standard_input(ok, queue, monkeypatch):
    """For what is too long for a command line."""
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"long": true}'))
    job_id = ok("enqueue", "t", "--payload", "-").split()[0]
    assert queue.get(job_id).payload == {"long": True}


def test_a_second_one_of_a_unique_task_is_refused(ok, refused, queue):
    """With the id of the first."""
    job_id = ok("enqueue", "t", "--unique-for", "60").split()[0]
    assert job_id in refused(1, "enqueue", "t", "--unique-for", "60")


@pytest.mark.parametrize("payload", [{"a": 1}, None, [1, 2], "text", 7])
def test_a_payload_is_any_json(ok, queue, payload):
    """The help says what becomes of each kind."""
    job_id = ok("enqueue", "t", "--payload", json.dumps(payload)).split()[0]
    assert queue.get(job_id).payload == payload
    said = " ".join(ok("enqueue", "--help").split())
    assert "any JSON: an object has the handler's arguments by name, null has none, anything else is its only one" in said


# --- looking ----------------------------------------------------------------------------------------------------------------


def test_stats_print_queues_states_and_workers(ok, queue, archived, sql):
    """As a table, and as JSON with every state."""
    queue.enqueue_many([Task("t")] * 3, queue="low")
    ok("queue", "pause", "low")
    table = ok("stats")
    assert re.search(r"^queue +pending +archived +latency$", table, re.MULTILINE)
    assert re.search(r"^low \(paused\) +3 +0 +[\d.]+s$", table, re.MULTILINE)
    assert "1 worker:\n  host:1:abc  2 children, 0 active jobs, since" in table
    sql("UPDATE fireforget_worker SET concurrency = 1")
    assert "host:1:abc  1 child, 0 active jobs, since" in ok("stats")
    assert "host:1:abc  weight 1, 1 child\n" in ok("queue", "show", "low")
    members = json.loads(ok("stats", "--json"))
    assert [(q["queue"], q["size"], q["paused"]) for q in members["queues"]] == [("default", 1, False), ("low", 3, True)]
    assert members["queues"][1]["states"]["pending"] == 3
    assert members["workers"][0]["queues"] == {"default": 3, "low": 1}


def test_stats_are_watched_until_the_user_has_seen_enough(ok, queue, monkeypatch, terminal):
    """In place on a terminal; one JSON line each time for programs."""
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) % 3 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(_cli_stats.time, "sleep", pause)
    assert len(ok("stats", "--json", "--watch", "0.5").splitlines()) == 4
    assert ok("stats", "--watch").count("no jobs are stored") == 3
    terminal()
    monkeypatch.setenv("LINES", "10")
    queue.enqueue_many([Task("t")] * 9, queue="low")
    for name in range(20):
        queue.enqueue(Task("t"), queue=f"lane-{name}")
    shown = ok("stats", "--watch", "1m")
    first, *_, last = frames = shown.split("\x1b[H")[1:]
    assert len(frames) == 3 and first.endswith("\x1b[J") and last.endswith("\x1b[J\x1b[?25h\n")
    assert [frame.count("\x1b[K\n") for frame in frames] == [9, 9, 9]  # as many lines as the terminal has, but one
    assert "Ctrl-C ends\x1b[K\n" in first and shown.startswith("\x1b[?25l") and "\x1b[1mqueue" in first
    assert sorted(set(pauses)) == [0.5, 2.0, 60.0]


@pytest.fixture
def processed(queue):
    """Runs that ended yesterday and today in two queues, as a worker writes them; returns the names of the days."""
    from time import time

    now = time()
    for days, rows in ((1, [("default", 1000, 250)]), (0, [("default", 4, 1), ("low", 2, 0)])):
        claims = Claims(queue._database, lambda _: True, ["default"], lambda days=days: now - days * 86400)
        with claims.transaction():
            claims.add_to_history([Ended(queue, "t", *counts, 0, 0, 1, 0.25) for queue, *counts in rows])
        claims.close()
    return [f"{datetime.fromtimestamp(now - days * 86400, UTC):%Y-%m-%d}" for days in range(3)]


def test_what_was_processed_is_printed_by_day(ok, refused, processed):
    """Of one queue or several, with the share that failed; also where no job is stored any more."""
    out = ok("queue", "history", "default", "--days", "3")
    assert re.search(rf"^{processed[0]} +4 +1 +25.0% +250 ms +-$", out, re.MULTILINE)
    assert re.search(rf"^{processed[1]} +1,000 +250 +25.0% +250 ms +-$", out, re.MULTILINE)
    assert re.search(rf"^{processed[2]} +0 +0 +- +- +-$", out, re.MULTILINE) and re.search(
        "^in all +1,004 +251 +25.0% +250 ms +-$", out, re.MULTILINE
    )
    assert ok("queue", "history", "default", "low").count("in all") == 2
    (members,) = json.loads(ok("queue", "history", "low", "--json", "--days", "1"))
    counts = {"processed": 2, "failed": 0, "retried": 0, "archived": 0, "mean_run": 0.25, "mean_wait": None}
    assert members == {"queue": "low", "points": [{"at": f"{processed[0]}T00:00:00+00:00", "seconds": 86400, **counts}]}
    assert ok("queue", "history", "low", "--minutes", "60", "--type", "t").count("\n") == 62
    assert "not allowed with" in refused(2, "queue", "history", "low", "--minutes", "60", "--days", "1")
    assert re.search(r"^default +0 +0 +0 +0s +4 +1$", ok("stats"), re.MULTILINE)
    assert "in all   1,004 runs ended, 251 failed" in ok("queue", "show", "default")
    assert "did you mean 'default'" in refused(1, "queue", "history", "defualt")
    assert "from 1 to 90" in refused(2, "queue", "history", "default", "--days", "91")


def test_on_a_terminal_what_was_processed_has_bars(ok, processed, terminal):
    """As long as the runs are many, their ends for those that failed; none where there is no room."""
    terminal(100)
    bars = [set(line.split()[-1]) for line in ok("queue", "history", "default", "--days", "3").splitlines()[1:4]]
    assert bars in ([{"░"}, {"█", "░"}, {"-"}], [{"x"}, {"#", "x"}, {"-"}])
    terminal(60)
    assert ok("queue", "history", "default", "--days", "2").splitlines()[1].endswith("-")


def test_jobs_are_listed_in_pages(ok, queue):
    """What to give for the next page is said below."""
    ids = [info.id for info in queue.enqueue_many([Task("t", {"n": n}) for n in range(5)])]
    first = ok("task", "list", "--limit", "2")
    assert f"--after {ids[1]}" in first and ids[0] in first and ids[2] not in first
    assert ids[2] in ok("task", "list", "--limit", "3", "--after", ids[1])
    assert ok("task", "list", "--state", "archived") == "no archived jobs\n"
    page = json.loads(ok("task", "list", "--json", "--limit", "2"))
    assert ([task["id"] for task in page["tasks"]], page["after"]) == (ids[:2], ids[1])


def test_jobs_are_listed_by_every_filter(ok, queue, archived):
    """All of them together."""
    queue.enqueue(Task("email:other", {"user_id": 7, "name": "seven"}), queue="low")
    found = ok("task", "list", "--type", "email:", "--payload", "user_id=7", "--payload", "name=seven", "--queue", "low")
    assert "email:other" in found and "broken" not in found
    assert "broken" in ok("task", "list", "--state", "archived", "--error", "ValueError", "--type", "email:send")
    assert ok("task", "list", "--older-than", "1h") == "no jobs\n"
    assert "broken" in ok("task", "list", "--newer-than", "1h")
    queue.enqueue(Task("deep", {"user": {"id": 7}}))
    assert "deep" in ok("task", "list", "--payload", "user.id=7")


def test_a_job_says_which_limit_it_waits_for(ok, queue):
    """And how far it is used up, in words and as JSON."""
    registry = Registry()

    @registry.task("report", rate="1/h", concurrency=2, concurrency_key="user:{user}", retention=60)
    def report(user): ...

    first, second = queue.enqueue_many([report.task(user=7)] * 2)
    with Worker(registry, queue, concurrency=1):
        queue.wait(first.id, 10)
        shown = ok("task", "show", second.id)
        limit = json.loads(ok("task", "show", second.id, "--json"))["limit"]
    assert "limited by user:7, 0 of 2 running, 1 of 1/h started, the next 2" in shown
    assert (limit["handler"], limit["key"], limit["started"]) == ("report", "user:7", 1)
    assert json.loads(ok("task", "show", second.id, "--json"))["limit"] is None  # no worker, no numbers


def test_jobs_that_match_are_shown(ok, refused, queue, archived):
    """As many as are wanted; without ids and flags it is not clear which."""
    queue.enqueue_many([Task("t", {"n": n}) for n in range(3)])
    assert ok("task", "show", "--type", "t", "--limit", "2").count("state       pending") == 2
    assert [job["id"] for job in json.loads(ok("task", "show", "--state", "archived", "--json"))] == ["broken"]
    assert ok("task", "show", "--type", "none") == "no job matches\n"
    assert "give either ids, or" in refused(2, "task", "show")


def test_a_table_fits_the_terminal_and_keeps_ids_whole(ok, queue, terminal):
    """What is cut says so; wide characters take two columns."""
    terminal(80)
    info = queue.enqueue(Task("a:very:long:type:that:does:not:fit:into:its:column", {"text": "日本語 " * 30}))
    lines = ok("task", "list").splitlines()
    assert info.id in lines[1] and lines[1].endswith("…")
    assert all(_cli_output.columns_of(re.sub(r"\x1b\[\d*m", "", line)) <= 80 for line in lines)


def test_what_a_job_contains_cannot_steer_the_terminal(ok, queue):
    """Control characters are shown, not sent."""
    queue.enqueue(Task("t\x1b[2J\n", {"a": "\x1b[31m\u009b"}), task_id="x\ty", queue="q\rq")
    for words in (("task", "list"), ("task", "show", "x\ty"), ("stats",), ("queue", "show", "q\rq"), ("task", "cancel", "x\ty")):
        out = ok(*words)
        assert not set("\x1b\r\t\u009b") & set(out), words
    assert "t\\x1b[2J\\n" in ok("task", "list")


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours_are_for_terminals_that_want_them(ok, queue, archived, terminal, monkeypatch, no_color):
    """Never with NO_COLOR, never in a pipe."""
    assert "\x1b" not in ok("task", "list") + ok("task", "show", "broken")
    terminal()
    monkeypatch.setenv("NO_COLOR", no_color)
    assert ("\x1b[31marchived" in ok("task", "list")) == (not no_color)


def test_a_job_is_shown_with_all_that_is_known_of_it(ok, queue, archived, sql):
    """Payload, result, progress, and each attempt with its traceback, as people read it."""
    sql("UPDATE fireforget_job SET result = '{\"sum\":3}', progress = 0.5, progress_note = 'half'")
    out = ok("task", "show", "broken")
    for line in ("job         broken", "state       archived", "progress    50%, half", "last error  ValueError: no"):
        assert line in out
    assert 'payload\n  {\n    "to": "a@example.com"\n  }' in out
    assert 'result\n  {\n    "sum": 3\n  }' in out
    assert re.search(r"^attempt 1, .* UTC \(.* ago\), after 0.25 s, worker host:1:abc\n  Traceback", out, re.MULTILINE)
    assert '  Traceback (most recent call last):\n    File "app.py"' in out
    assert out.count("ValueError: no") == 2
    members = json.loads(ok("task", "show", "broken", "--json"))
    assert members["progress"] == {"fraction": 0.5, "note": "half"}
    assert members["attempts"][0]["traceback"] == TRACEBACK


def test_several_jobs_are_shown_and_unknown_ones_told(say, queue, archived):
    """Those that there are, and exit code 1."""
    code, out, err = say("task", "show", "broken", "other", "broken")
    assert (code, out.count("job         broken"), err.count("\n")) == (1, 2, 1)
    assert len(json.loads(say("task", "show", "broken", "broken", "--json")[1])) == 2


def test_workers_are_listed_with_what_they_have_in_their_hands(ok, queue, archived, sql):
    """Their load and their queues; a dead one is told as such, and where its jobs go."""
    line = r"^host:1:abc +{} +\d+ +2 +1 +{} +[\d.]+s +default=3,low=1$"
    assert re.search(line.format("alive", 0), ok("worker", "list"), re.MULTILINE)
    for name in ("one", "two", "three"):
        queue.enqueue(Task("email:send"), task_id=name)
    sql("UPDATE fireforget_job SET state = 3, worker = 1, started_at = enqueued_at WHERE state = 2")
    sql("UPDATE fireforget_worker SET boot_id = 'before'")
    out = ok("worker", "list", "--limit", "2")
    assert re.search(line.format("dead", 3), out, re.MULTILINE) and "pending again as soon as another one looks" in out
    assert "host:1:abc has 3 jobs in its hands" in out and "and 1 more" in out
    assert re.search(r"^one +email:send +default +[\d.]+s ago$", out, re.MULTILINE) and "three" not in out
    assert "dead, since" in ok("stats")
    (members,) = json.loads(ok("worker", "list", "--json"))
    assert (members["concurrency"], members["alive"], len(members["jobs"])) == (2, False, 3)


def test_the_children_of_a_worker_are_listed_a_line_each(ok, queue, archived, sql):
    """What each runs, and how many have died; the same in JSON."""
    queue.enqueue(Task("email:send"), task_id="one")
    board = Board.create(queue.path, slots=2, threads=2)
    try:
        sql("UPDATE fireforget_worker SET lock_file = ?", (os.path.basename(board.path),))
        sql("UPDATE fireforget_job SET state = 3, worker = 1, started_at = enqueued_at WHERE state = 2")
        board.slot(0).clear()
        board.slot(0).occupy(2**22 + 1)
        ((n,),) = sql("SELECT n FROM fireforget_job WHERE task_id = 'one'")
        for cell in board.slot(0).cells:
            board.words[cell.index_at], board.words[cell.number_at] = 1, n
        board.note_death(77, -11)
        out = ok("worker", "list")
        assert re.search(r"^host:1:abc: 1 child has died, the last \S+ \S+: 77, SIGSEGV$", out, re.MULTILINE), out
        assert re.search(r"^4194305 +\S+ +one +email:send +\S+\n +one +email:send +\S+$", out, re.MULTILINE), out
        (members,) = json.loads(ok("worker", "list", "--json"))
    finally:
        board.remove()
    assert members["child_deaths"] == 1 and members["last_child_death"].keys() == {"at", "pid", "reason"}
    (child,) = members["children"]
    assert child.keys() == {"pid", "started_at", "memory", "jobs"} and child["pid"] == 2**22 + 1
    assert child["jobs"][0].keys() == {"id", "type", "queue", "since"} and child["jobs"][0]["id"] == "one"


def test_a_worker_is_given_its_own_flags(say, path):
    """`worker list` is the only word that is not for it; a `--db` before it is passed on."""
    assert cli._flags_of_worker(["--db", path, "worker", "a:b", "--burst"]) == ["--db", path, "a:b", "--burst"]
    assert cli._flags_of_worker(["worker", "--db", "list", "a:b"]) == ["--db", "list", "a:b"]
    assert cli._flags_of_worker(["--json", "worker", "--db", path, "list"]) is None
    assert cli._flags_of_worker(["task", "list"]) is None
    code, out, _ = say("worker", "--help")
    assert code == 0 and "--concurrency" in out
    assert "usage: python -m fireforget worker [" in out and "\n  python -m fireforget worker shop.jobs:registry" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("a:b --concurency 2", "there is no option '--concurency': did you mean '--concurrency'?"),
        ("--burts", "there is no option '--burts': did you mean '--burst'?"),
        ("a:b --concurrency two", "--concurrency: 'two' is not a whole number above 0"),
        ("a:b --shutdown-timeout soon", "--shutdown-timeout: 'soon' is no duration: give seconds, or such as 10m"),
        ("a:b --log-level loud", "--log-level: there is no value 'loud': choose among debug, info"),
        ("a:b --log-format jsn", "did you mean 'json'?"),
        ("a:b --queues low,critical:3", "write critical=3 for a weight, or critical:3=1 for a queue that is called 'critical:3'"),
        ("", "required: APP"),
    ],
)
def test_a_mistake_in_the_flags_of_a_worker_gets_one_line(say, words, said):
    """As with every other command, and its help page by the name that it was called."""
    code, out, err = say("worker", *words.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("fireforget worker: ") and said in err
    assert err.endswith("(see python -m fireforget worker --help)\n")


def test_flags_of_a_worker_are_read_as_those_of_other_commands():
    """Durations with units, levels in either case, queues whose names have a colon."""
    words = "a:b --shutdown-timeout 30s --metrics-interval 1m --log-level INFO --queues mail:3=2,a:b"
    given = worker.parser().parse_args(words.split())
    assert (given.shutdown_timeout, given.metrics_interval, given.log_level) == (30.0, 60.0, "info")
    assert given.queues == {"mail:3": 2, "a:b": 1}


@pytest.mark.parametrize("words", ["fireforget worker lst", "fireforget.worker list"])
def test_who_wants_to_list_workers_is_told_how(words):
    """A mistyped `list` is taken for an application; `list` itself is too, where only workers are started."""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-m", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=surroundings, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.endswith("; to list workers: python -m fireforget worker list\n")


# --- changing ---------------------------------------------------------------------------------------------------------------


def test_one_job_or_several_are_changed(ok, say, queue):
    """What cannot be changed is told, the others are; then the exit code is 1."""
    ids = [queue.enqueue(Task("t"), task_id=name).id for name in ("a", "b", "c")]
    assert ok("task", "archive", "a", "b") == "a: archived\nb: archived\n"
    code, out, err = say("task", "run", *ids, "zz")
    assert (code, out) == (1, "a: made pending\nb: made pending\n")
    assert "job c is pending" in err and "no job 'zz'" in err
    assert json.loads(ok("task", "cancel", "a", "--json")) == [{"id": "a", "state": "cancelled"}]
    assert ok("task", "delete", "a") == "a: deleted\n"
    assert [info.id for info in Inspector(queue).tasks()] == ["b", "c"]


def test_a_job_is_updated(ok, refused, queue):
    """What is given and nothing else."""
    queue.enqueue(Task("t", {"a": 1}), task_id="a", deadline=datetime(2100, 1, 1, tzinfo=UTC))
    ok("task", "update", "a", "--queue", "low", "--priority", "3", "--process-in", "1h")
    ok("task", "update", "a", "--payload", "null", "--deadline", "none")
    info = queue.get("a")
    assert (info.queue, info.priority, info.state, info.payload, info.deadline) == ("low", 3, "scheduled", None, None)
    assert "--priority 1" in refused(2, "task", "update", "a", "--priority", str(2**70))


def test_many_jobs_are_changed_after_a_yes(ok, refused, queue, terminal):
    """Asked on a terminal; elsewhere `--yes` is needed, and nothing is changed without it."""
    queue.enqueue_many([Task("t", {"n": n % 2}) for n in range(6)])
    assert "Cancel 6 pending jobs? Give --yes" in refused(1, "task", "cancel", "--state", "pending")
    terminal(answer="n")
    assert "nothing was changed" in refused(1, "task", "cancel", "--state", "pending")
    terminal(answer="y")
    assert "3 jobs cancelled" in ok("task", "cancel", "--state", "pending", "--payload", "n=1")
    assert Inspector(queue).counts()["pending"] == 3


def test_many_jobs_are_changed_with_yes(ok, queue):
    """The counts are printed; that none matches is no failure, so that a nightly clean-up may find nothing."""
    queue.enqueue_many([Task("t")] * 4)
    assert ok("task", "archive", "--state", "pending", "--yes") == "4 jobs archived\n"
    assert ok("task", "archive", "--state", "pending") == "no pending job matches\n"
    assert ok("task", "run", "--state", "archived") == "4 jobs made pending\n"
    assert json.loads(ok("task", "delete", "--state", "pending", "--yes", "--json")) == {"matched": 4, "changed": 4}


def test_many_jobs_are_updated(ok, refused, queue):
    """What changes and which jobs are different flags; a question is asked."""
    queue.enqueue_many([Task("t", {"n": n % 2}) for n in range(6)], queue="low")
    words = ("task", "update", "--state", "pending", "--in-queue", "low", "--with-payload", "n=1", "--queue", "default")
    assert "Update 3 pending jobs? Give --yes" in refused(1, *words)
    assert ok(*words, "--yes") == "3 jobs updated\n"
    assert Inspector(queue).count("pending", queue="default") == 3
    assert "did you mean 'low'" in refused(1, "task", "update", "--state", "pending", "--in-queue", "lwo", "--priority", "1")
    assert "cannot be updated" in refused(2, "task", "update", "--state", "completed", "--priority", "1")


def test_nothing_is_changed_in_a_dry_run(ok, say, queue, archived):
    """It says how many would be, and which are the first; of ids, which could not be."""
    ids = [info.id for info in queue.enqueue_many([Task("t")] * 7)]
    out = ok("task", "delete", "--state", "pending", "--dry-run")
    assert out.startswith("7 pending jobs would be deleted, the first of them:\n") and out.count("\n") == 6 and ids[0] in out
    assert ok("task", "cancel", "--state", "retry", "--dry-run") == "0 retry jobs would be cancelled\n"
    assert json.loads(ok("task", "run", "--state", "archived", "--dry-run", "--json")) == {"matched": 1, "changed": 0}
    code, out, err = say("task", "archive", ids[0], "broken", "--dry-run")
    assert (code, out) == (1, f"{ids[0]}: would be archived\n") and "job broken is archived: it would not be archived" in err
    assert Inspector(queue).count("pending") == 7


def test_jobs_that_cannot_be_run_again_are_counted(ok, queue):
    """Another job holds their unique key."""
    for _ in range(2):
        queue.enqueue(Task("t"), unique_for=60, unique_key="k")
        ok("task", "archive", "--state", "pending", "--yes")
    assert ok("task", "run", "--state", "archived") == "1 job made pending, of 2 that matched\n"


def test_running_jobs_are_asked_to_end(ok, queue, archived, sql):
    """One or all of them: their worker ends them."""
    queue.enqueue(Task("t"), task_id="busy")
    sql("UPDATE fireforget_job SET state = 3, worker = 1 WHERE task_id = 'busy'")
    assert ok("task", "cancel", "busy") == "busy: asked to end\n"
    assert ok("task", "cancel", "--state", "active", "--yes") == "1 job asked to end\n"


def test_queues_are_paused_resumed_and_deleted(ok, refused, queue, terminal):
    """A queue of the worker's defaults may be paused before its first job."""
    assert ok("queue", "pause", "critical") == "critical: paused\n"
    assert ok("queue", "pause", "critical") == "critical: was paused already\n"
    assert re.search(r"paused +since .* UTC", ok("queue", "show", "critical"))
    assert json.loads(ok("queue", "resume", "critical", "--json")) == [{"queue": "critical", "changed": True}]
    assert ok("queue", "delete", "critical") == "critical: deleted\n"
    queue.enqueue_many([Task("t")] * 3, queue="low")
    assert "pending" in ok("queue", "show", "low") and json.loads(ok("queue", "show", "low", "--json"))["size"] == 3
    assert "Delete low with 3 jobs" in refused(1, "queue", "delete", "low", "--force")
    terminal(answer="yes")
    assert "low: deleted with 3 jobs" in ok("queue", "delete", "low", "--force")
    assert ok("queue", "list") == "no jobs are stored\n"


def test_groups_are_listed_with_when_they_complete(ok, refused, queue, tmp_path, monkeypatch):
    """The application's aggregators know when; a name that nothing aggregates is shown all the same."""
    assert ok("group", "list") == "no job waits in a group\n"
    assert ok("enqueue", "line", "--group", "mail:anna").endswith("aggregating in default\n")
    queue.enqueue_many([Task("line")] * 2, group="other", queue="low")
    header, *rows = ok("group", "list").splitlines()
    assert header.split() == ["queue", "group", "jobs", "oldest", "newest", "completes"]
    assert [row.split()[:3] + row.split()[-1:] for row in rows[-2:]] == [
        ["default", "mail:anna", "1", "unknown"],
        ["low", "other", "2", "unknown"],
    ]
    (tmp_path / "collecting.py").write_text(
        "from fireforget import Registry\nregistry = Registry()\nregistry.aggregator('mail:', group_grace=3600)(print)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = ok("group", "list", "--queue", "default", "--app", "collecting:registry").splitlines()[-1]
    assert re.search(r"in (59m|1h)$", known)
    assert "--app" in refused(2, "group", "list", "--app", "nothing")
    assert "did you mean" in refused(1, "group", "list", "--queue", "lw")


def test_all_jobs_of_a_group_are_changed_together(ok, queue):
    """`--group` chooses like any other filter."""
    queue.enqueue_many([Task("line")] * 2, group="a")
    queue.enqueue_many([Task("line")] * 3, group="b")
    assert ok("task", "archive", "--state", "aggregating", "--group", "a", "--yes") == "2 jobs archived\n"
    assert ok("task", "run", "--state", "aggregating", "--group", "b") == "3 jobs made pending\n"
    assert len(json.loads(ok("task", "list", "--group", "a", "--json"))["tasks"]) == 2
    assert json.loads(ok("task", "delete", "--state", "archived", "--group", "a", "--yes", "--json")) == {
        "matched": 2,
        "changed": 2,
    }


def test_the_limits_of_a_queue_are_set_and_shown(ok, refused, queue):
    """What is not given stays; `none` removes a limit; a bare call only prints."""
    members = json.loads(ok("queue", "limits", "low", "--archived-max", "10000", "--archived-age", "90d", "--json"))
    assert (members["archived_max"], members["archived_age"], members["completed_max"]) == (10000, 90 * 86400, None)
    assert re.search(r"^archived +10,000 +90 d$", ok("queue", "limits", "low"), re.MULTILINE)
    assert re.search(r"^archived +10,000 +for ever$", ok("queue", "limits", "low", "--archived-age", "none"), re.MULTILINE)
    assert "neither a whole number of 0 or more" in refused(2, "queue", "limits", "low", "--cancelled-max", "-1")
    assert "there is no queue 'new'" in refused(1, "queue", "limits", "new")
    ok("queue", "limits", "new", "--archived-max", "3")
    assert json.loads(ok("queue", "resume", "low", "low", "--json")) == [{"queue": "low", "changed": False}]


# --- the file -----------------------------------------------------------------------------------------------------------------


def test_a_backup_is_made_and_told(ok, refused, queue, archived, tmp_path):
    """What is in it, and that it was checked; a file that is there is replaced only with --force."""
    target = tmp_path / "copy.db"
    assert re.fullmatch(rf"{re.escape(str(target))}: 1 job, [\d.]+ MiB, checked\n", ok("backup", target))
    assert "force" in refused(1, "backup", target)
    members = json.loads(ok("backup", target, "--force", "--json"))
    assert members == {"path": str(target), "size": target.stat().st_size, "jobs": 1, "returned": 0}
    assert "broken" in ok("task", "list", "--db", target)
    assert "the database itself" in refused(2, "backup", queue.path, "--force")


def test_the_doctor_says_what_is_wrong_and_what_to_do(say, ok, queue, sql):
    """Exit code 0 for a queue that is well, 1 with an error; the remedy stands below what is wrong."""
    out = ok("doctor")
    assert re.search(r"^ok +integrity", out, re.MULTILINE) and out.splitlines()[-1].startswith("0 errors, ")
    queue.enqueue(Task("t"))
    sql("UPDATE fireforget_job SET due = due - 3600")
    code, out, err = say("doctor")
    assert (code, err) == (1, "")
    assert re.search(r"^error +queues +no living worker serves queue 'default'.*\n +-> start a worker", out, re.MULTILINE)
    assert out.splitlines()[-1].startswith("1 error, ")
    code, out, err = say("doctor", "--full", "--json")
    members = json.loads(out)
    assert (code, err, members["healthy"]) == (1, "", False)
    assert {finding["check"]: finding["status"] for finding in members["findings"]}["queues"] == "error"


def test_the_doctor_examines_what_cannot_be_opened(say, path):
    """It tells why, instead of failing as the other commands do."""
    code, out, err = say("doctor", "--json")
    assert (code, err) == (1, "") and json.loads(out)["findings"][-1]["message"] == "there is no such file"
    with open(path, "w") as file:
        file.write("no database " * 1000)
    code, out, err = say("doctor")
    assert (code, err) == (1, "") and re.search(r"^error +file +this file is not an SQLite database", out, re.MULTILINE)


def test_the_doctor_warns_in_colour(say, queue, terminal):
    """On a terminal alone."""
    queue.enqueue(Task("t"), process_in=1)
    os.chmod(queue.path, 0o644)
    terminal()
    assert "\x1b[33mwarning" in say("doctor")[1]


# --- words and numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [
        (0, "0 s", "0s"),
        (0.25, "0.25 s", "0.2s"),
        (42, "42 s", "42s"),
        (310, "5 min 10 s", "5m"),
        (7200, "2 h", "2h"),
        (100_000, "1 d 3 h", "1d"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds, long, short):
    """In two units, or in tables in one."""
    assert (_cli_output.duration(seconds), _cli_output.age(seconds)) == (long, short)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5h", 5400), ("1h30m", 5400), ("500ms", 0.5), ("2d", 172_800), ("3min", 180)]
)
def test_durations_are_read_as_people_write_them(text, seconds):
    """A number is seconds."""
    assert _cli_parser.a_duration(text) == seconds


def test_progress_of_nothing_is_shown_as_nothing():
    """JSON has what there is."""
    assert _cli_output._plain(Progress(0.5)) == {"fraction": 0.5, "note": None}


# --- schedules ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scheduled(queue):
    """Two schedules, one of which has ticked."""
    registry = Registry()
    registry.periodic("0 9 * * *", timezone="Europe/Berlin", name="mornings")(registry.task("mail:digest")(lambda: None))
    registry.periodic("@every 1s", name="often", missed="catch_up")(registry.match("mail:digest"))
    clock = testing.ManualClock(datetime.now(UTC) - timedelta(seconds=90))
    turned = SqliteQueue(queue.path, clock=clock)
    testing.tick(turned, registry)
    clock.advance(3)
    testing.tick(turned, registry)
    turned.close()


def test_schedules_are_listed_with_their_times(ok, queue, scheduled):
    """What ticks, when next and when last, and that no worker keeps it now."""
    lines = ok("cron", "list").splitlines()
    assert lines[0].split() == ["name", "schedule", "zone", "next", "last", "type"]
    assert re.fullmatch(r"mornings +0 9 \* \* \* +Europe/Berlin +no worker +mail:digest", lines[1])
    assert re.fullmatch(r"often +@every 1s +UTC +no worker +1m ago +mail:digest", lines[2])
    times = ok("cron", "list", "--times", 2).splitlines()
    assert [line.split()[0] for line in times] == ["name", "mornings", "mornings", "often", "often"]
    assert " 09:00:00 +0" in times[1]
    assert len(json.loads(ok("cron", "list", "--json", "--times", 4))[0]["next_times"]) == 4


def test_a_history_is_printed_newest_first(ok, refused, queue, scheduled):
    """With how late each was, and which job it became."""
    lines = ok("cron", "history", "often").splitlines()
    assert len(lines) == 4 and lines[1] > lines[2]
    assert {line.split()[-2] for line in lines[1:]} == {"enqueued"}
    assert len(ok("cron", "history", "often", "--limit", 1).splitlines()) == 2
    assert ok("cron", "history", "mornings") == "nothing has been enqueued yet\n"
    assert "did you mean 'often'?" in refused(1, "cron", "history", "oftn")


def test_schedules_are_paused_resumed_and_deleted(ok, refused, queue, scheduled):
    """What was so already is said; deleting asks."""
    assert ok("cron", "pause", "often", "mornings") == "often: paused\nmornings: paused\n"
    assert ok("cron", "pause", "often") == "often: was paused already\n"
    assert "paused" in ok("cron", "list").splitlines()[1]
    assert json.loads(ok("cron", "resume", "often", "--json")) == [{"schedule": "often", "changed": True}]
    assert ok("cron", "resume", "often") == "often: was not paused\n"
    assert "Give --yes" in refused(1, "cron", "delete", "often")
    assert ok("cron", "delete", "often", "--yes") == "often: deleted\n"
    assert json.loads(ok("cron", "delete", "mornings", "--yes", "--json")) == [{"schedule": "mornings", "changed": True}]
    assert ok("cron", "list") == "no schedules are known\n"
    assert "a worker whose registry has it" in refused(1, "cron", "pause", "often")


# --- completion -----------------------------------------------------------------------------------------------------------

COMPLETED = {
    "fireforget ta": {"task"},
    "fireforget --db {db} ta": {"task"},
    "fireforget task ": {"list", "show", "run", "archive", "delete", "cancel", "update"},
    "fireforget task list --ol": {"--older-than"},
    "fireforget task list --state pe": {"pending"},
    "fireforget task list --state=pe": {"pending"},
    "fireforget queue pause ": {"critical", "default", "low", "mail:x"},
    "fireforget queue pause low c": {"critical"},
    "fireforget task list --queue cr": {"critical"},
    "fireforget task show wel": {"welcome-1", "welcome:x"},
    "fireforget task show welcome:": {"welcome:x"},
    "fireforget task update --in": {"--in-queue"},
    "fireforget worker --conc": {"--concurrency"},
    "fireforget worker --log-format ": {"text", "json"},
    "fireforget --db {db} queue show lo": {"low"},
    "fireforget enqueue t --task-id wel": set(),
    "fireforget completion ": {"bash", "zsh"},
    "fireforget cron history mor": {"mornings"},
    "fireforget queue history lo": {"low"},
    "fireforget task list --group lo": set(),
}
FRONTS = {
    "bash": """
source {script}
while IFS= read -r COMP_LINE; do COMP_POINT=${{#COMP_LINE}}; _fireforget; printf '%s|' "${{COMPREPLY[@]}}"; echo; done
""",
    "zsh": """
compdef() {{ }}; compset() {{ }}; compadd() {{ shown=("${{(@P)2}}") }}; _describe() {{ shown=("${{(@)${{(@P)2}}%%:*}}") }}
source {script}
while IFS= read -r line; do
    words=("${{(@s: :)line}}") CURRENT=${{#words}} shown=()
    _fireforget
    current="${{words[CURRENT]#--state=}}"
    printf '%s|' "${{(@M)shown:#$current*}}"; echo
done
""",
}


@pytest.mark.parametrize("shell", FRONTS)
def test_a_shell_completes_commands_flags_queues_and_ids(ok, queue, scheduled, tmp_path, shell):
    """With the script that is printed for it, as it is; the installed command is asked for queues and ids."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    for name, job_id in (("critical", "other"), ("low", "welcome-1"), ("mail:x", "welcome:x")):
        queue.enqueue(Task("t"), queue=name, task_id=job_id)
    installed = tmp_path / "bin" / "fireforget"
    installed.parent.mkdir()
    installed.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fireforget "$@"\n')
    installed.chmod(0o755)
    script = tmp_path / "script"
    script.write_text(ok("completion", shell))
    lines = [line.format(db=queue.path) for line in COMPLETED]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{installed.parent}:{os.environ['PATH']}"}
    norc = ["--norc", "--noprofile"] if shell == "bash" else ["-f"]
    done = subprocess.run(
        [shell, *norc, "-c", FRONTS[shell].format(script=script)],
        input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=60, env=environment, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    found = [{word.replace("\\", "") for word in line.split("|") if word} for line in done.stdout.splitlines()]
    if shell == "bash":  # which is given what stands behind a colon alone
        found[lines.index("fireforget task show welcome:")] = {"welcome:x"} if "x" in found[10] else found[10]
    assert dict(zip(lines, found, strict=True)) == dict(zip(lines, COMPLETED.values(), strict=True))


def test_completion_keeps_silent_where_there_is_no_queue(say):
    """Nobody wants to read of it in the middle of a line."""
    assert say("completion", "queues", "de") == (1, "", "")


# --- the reference ----------------------------------------------------------------------------------------------------------


def leaves(parser, words=()):
    """Yield every command with its parser."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield words, parser
    for group in groups:
        for name, below in group.choices.items():
            yield from leaves(below, (*words, name))


@pytest.mark.parametrize("words", [" ".join(words) for words, _ in leaves(cli.parser())])
def test_every_command_has_help_with_an_example_and_is_in_the_reference(ok_help, words):
    """And the tables of its section have its flags, all of them and no others."""
    assert re.search(r"^examples?:$", ok_help(*words.split()), re.MULTILINE)
    assert f"fireforget {words}" in REFERENCE
    parser = dict(leaves(cli.parser()))[tuple(words.split())]
    flags = {action.option_strings[-1] for action in parser._actions if action.option_strings}
    assert documented_flags(words) == flags - {"--db", "--json", "--help"}


def documented_flags(words):
    """Return the flags in the tables of a command's section: those named `flag`, for all its commands, or `flag of` this one."""
    (section,) = re.findall(rf"^## {words.split()[0]}\n(.*?)(?=^## )", REFERENCE, re.MULTILINE | re.DOTALL)
    tables = re.findall(r"^\| (flag(?: of [^|]+)?) \|.*\n((?:\|.*\n)+)", section, re.MULTILINE)
    rows = [body for head, body in tables if head == "flag" or f"`{words}`" in head]
    return {
        flag
        for body in rows
        for cell in re.findall(r"^\|([^|]+)\|", body, re.MULTILINE)
        for flag in re.findall(r"--[a-z-]*[a-z]", cell)
    }


@pytest.fixture
def ok_help(say):
    def ok_help(*words):
        code, out, err = say(*words, "--help")
        assert (code, err) == (0, "")
        return out

    return ok_help


def test_every_command_of_the_reference_runs_in_its_order(ok, tmp_path, monkeypatch):
    """Whoever follows the page gets what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FIREFORGET_DB")
    monkeypatch.setattr(sys, "argv", ["fireforget"])
    run = 0
    for mark, fence in re.findall(r"(<!-- not run.*\n)?^```console\n(.*?)^```$", REFERENCE, re.MULTILINE | re.DOTALL):
        for command in [] if mark else fence.splitlines():
            words = shlex.split(command)
            assert words[:3] == ["python", "-m", "fireforget"]
            if words[-1] != "--help":
                ok(*words[3:])
            run += 1
    assert run > 20
