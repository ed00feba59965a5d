"""What a worker says when it cannot start: exit code 2, one clear line, no traceback of ours."""

import os
import sqlite3
import subprocess

import pytest

from fireforget import SqliteQueue

APP = """
@registry.task("ok")
def ok():
    return "ok"

not_a_registry = 5
"""


@pytest.fixture(scope="module")
def site(make_site):
    site = make_site()
    site.app(APP)
    (site.folder / "broken.py").write_text("import fireforget\n\ndef shop():\n    return 1 / 0\n\nshop()\n")
    (site.folder / "misspelt.py").write_text("import fire_forget\n")
    (site.folder / "leaves.py").write_text("import sys\nsys.exit('I leave')\n")
    (site.folder / "syntax.py").write_text("def (:\n")
    return site


def refusal(site, *flags, lines=1, **how):
    """Run a worker that refuses to start; what it says."""
    done = site.run("--concurrency", 1, *flags, **how)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert 'fireforget/worker.py"' not in done.stderr and "_pool" not in done.stderr
    if lines is not None:
        assert len(done.stderr.splitlines()) == lines, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--concurrency", "0"), "concurrency"),
        (("--concurrency", "-1"), "concurrency"),
        (("--threads", "0"), "threads"),
        (("--shutdown-timeout", "-1"), "shutdown_timeout"),
        (("--shutdown-timeout", "nan"), "shutdown_timeout"),
        (("--metrics-file", "x.prom", "--metrics-interval", "0"), "metrics_interval"),
        (("--metrics-file", "no/such/folder/x.prom"), "metrics_file"),
        (("--max-tasks-per-child", "0"), "max_tasks_per_child"),
        (("--max-rss-mb", "0"), "max_rss_mb"),
        (("--queues", "default=0"), "queues"),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_one_is_refused(site, flags, word):
    """The line names the flag, as it is typed, and the value."""
    said = refusal(site, *flags)
    assert f"--{word.replace('_', '-')}" in said and flags[-1].split("=")[-1] in said


@pytest.mark.parametrize(
    "flags",
    [
        ("--concurrency", "two"), ("--queues", "a=b"), ("--queues", ""), ("--queues", "a=1,a=2"), ("--queues", "=3"),
        ("--no-such-flag",),
        ("--log-level", "loud"), ("--log-format", "xml"), ("extra",), ("--metrics-interval", "often"),
    ],
    ids=str,
)  # fmt: skip
def test_flags_that_do_not_parse_are_refused(site, flags):
    """One line says which flag or word, and where the help is."""
    said = refusal(site, *flags)
    assert said.startswith("fireforget worker: ") and flags[0] in said
    assert "(see python -m fireforget.worker --help)" in said


def test_without_an_app_the_usage_is_shown(site):
    """APP is the one thing that must be given."""
    command = [part for part in site.command() if part != "app:registry"]
    done = subprocess.run(command, cwd=site.folder, env=site.env, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert "APP" in done.stderr


@pytest.mark.parametrize("app", ["app", "app:", ":registry", ""])
def test_an_app_that_is_not_module_and_registry_is_explained(site, app):
    """The line shows the form."""
    assert "module:registry" in refusal(site, app=app)


def test_a_module_that_does_not_exist_is_explained(site):
    """What module:registry means, and where was searched."""
    said = refusal(site, app="no_such_module:registry", lines=None)
    assert "no_such_module" in said and "No module named" in said
    assert str(site.folder) in said
    assert "'registry'" in said


@pytest.mark.parametrize(
    ("app", "own"),
    [
        ("broken:registry", "ZeroDivisionError"),
        ("misspelt:registry", "fire_forget"),
        ("syntax:registry", "SyntaxError"),
        ("leaves:registry", "I leave"),
    ],
)
def test_a_module_that_fails_to_import_shows_its_own_traceback(site, app, own):
    """The application's frames, not ours nor importlib's."""
    said = refusal(site, app=app, lines=None)
    assert own in said
    assert "module" in said and app.split(":")[0] + ".py" in said
    assert "importlib" not in said and "fireforget/app.py" not in said


def test_a_module_without_the_registry_gets_a_suggestion(site):
    """A wrong name after the colon is most often a misspelt one."""
    assert "did you mean app:registry?" in refusal(site, app="app:regsitry")
    assert "did you mean app:registry?" in refusal(site, app="app:not_a_registry")


def test_a_database_that_cannot_be_used_is_explained(site, tmp_path):
    """A missing folder, a folder, a file that is no database: each in one line that names the path."""
    (tmp_path / "text.db").write_text("this is not a database, and it is long enough to be looked at" * 10)
    for path in (tmp_path / "missing" / "jobs.db", tmp_path, tmp_path / "text.db"):
        said = refusal(site, "--db", path)
        assert str(path) in said
    assert (tmp_path / "text.db").read_text().startswith("this is not")
    assert sorted(os.listdir(tmp_path)) == ["text.db"]


def test_a_newer_schema_is_refused(site, tmp_path):
    """A file that a newer fireforget has migrated is left alone."""
    path = tmp_path / "newer.db"
    SqliteQueue(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE fireforget_meta SET value = '999' WHERE key = 'schema_version'")
    connection.commit()
    connection.close()
    assert "999" in refusal(site, "--db", path)


def test_a_refused_worker_leaves_no_file_behind(site):
    """No lock file stays beside the database."""
    refusal(site, "--concurrency", "0")
    assert not [name for name in os.listdir(site.folder) if "-worker-" in name]


def test_the_database_may_come_from_the_environment(site, tmp_path):
    """FIREFORGET_DB is the default of --db."""
    path = tmp_path / "from_environment.db"
    command = site.command("--burst", "--concurrency", "1", db=False)
    done = subprocess.run(
        command,
        cwd=site.folder,
        env={**site.env, "FIREFORGET_DB": str(path)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, path.exists()) == (0, True)


def test_help_names_every_flag(site):
    """Each flag of the contract is there."""
    done = site.run("--help")
    flags = "db concurrency threads queues strict-priority burst metrics-file metrics-interval shutdown-timeout"
    for flag in [*flags.split(), "max-tasks-per-child", "max-rss-mb", "log-level", "log-format"]:
        assert f"--{flag} " in done.stdout
    assert done.returncode == 0
