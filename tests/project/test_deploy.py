"""What deploy/ says is true: dashboards and alerts show what a worker writes, units and images start what can be started.

Tools that are not on every machine look too where they are: promtool of Prometheus, systemd-analyze.
"""

import ast
import json
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from fireforget import Inspector, SqliteQueue, Task, cli, worker
from fireforget.metrics import METRICS
from fireforget.patterns import SubmissionCounts
from fireforget.task import State

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
HOW_TO = ROOT / "docs" / "how-to"
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = (DEPLOY / "prometheus-alerts.yml").read_text(encoding="utf-8")
UNITS = sorted(path.name for path in DEPLOY.glob("*.service"))
CONTAINERFILE = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
OF_PROMETHEUS = {"instance", "job"}
"""Labels that a scrape adds."""

APP = """
import os, signal, sqlite3
from fireforget import Registry, RetryLater

registry = Registry()

@registry.task("succeeds")
def succeeds():
    pass

@registry.task("fails")
def fails():
    raise ValueError("as it should")

@registry.task("later")
def later():
    raise RetryLater(3600)

@registry.task("loses:its:job")
def lose():
    with sqlite3.connect("jobs.db") as connection:
        connection.execute("DELETE FROM fireforget_job WHERE type = 'loses:its:job'")

@registry.task("dies")
def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""
PRODUCER = """
from fireforget import SqliteQueue, Task, fire_and_forget, flush, write_metrics
fire_and_forget(SqliteQueue("jobs.db"), Task("succeeds"))
flush()
write_metrics("producer.prom")
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The metrics files of a worker and of a producer to whom everything has happened that is counted."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "jobs.py").write_text(APP, encoding="utf-8")
    run(folder, "-c", PRODUCER)
    with SqliteQueue(folder / "jobs.db") as queue:
        inspector = Inspector(queue)
        inspector.set_limits("low", archived_max=0)
        for job in queue.enqueue_many([Task("to:be:trimmed", queue="low") for _ in range(2)]):
            inspector.archive(job.id)
        queue.enqueue(Task("dies"), priority=9, max_retry=0)
        queue.enqueue(Task("fails"), max_retry=0)
        queue.enqueue_many([Task(name) for name in ("succeeds", "fails", "later", "loses:its:job")])
    run(folder, "-m", "fireforget.worker", "jobs:registry", "--db", "jobs.db", "--burst", "--concurrency", "1",
        "--metrics-file", "worker.prom", "--log-level", "critical")  # fmt: skip
    return (folder / "worker.prom").read_text(encoding="utf-8") + (folder / "producer.prom").read_text(encoding="utf-8")


def run(folder, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def series(written):
    """What was written: the labels of each name, with the values that were seen."""
    found = {}
    for name, labels in re.findall(r"(?m)^([a-z_]+)(?:\{(.*)\})? \S+$", written):
        seen = found.setdefault(name, {})
        for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
            seen.setdefault(label, set()).add(value)
    return found


# --- queries ------------------------------------------------------------------------------------------------------------


def rules():
    """The alert rules by name: each with its expression and what stands below it."""
    found = {}
    for block in re.split(r"(?m)^      - alert: ", RULES)[1:]:
        name, _, text = block.partition("\n")
        expression = re.search(r"(?ms)^        expr: (?:\|\n)?(.*?)^        \w", text)[1]
        found[name] = (expression.strip(), text)
    return found


def queries():
    """Every query of the dashboard and of the rules, by where it stands."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for name, (expression, _) in rules().items():
        yield pytest.param(expression, id=name)
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield pytest.param(variable["definition"], id=variable["name"])


VALUES = {"state": {state.value for state in State}, "status": {"success", "failed"}, "outcome": set(SubmissionCounts._fields)}
"""What labels with a fixed set of values can say."""


@pytest.mark.parametrize("query", list(queries()))
def test_a_query_names_metrics_labels_and_values_that_are_written(query, series):
    """No panel is empty, and no alert silent, since a name is misspelt or was changed in the code."""
    selectors = re.findall(r"\b((?:job|fireforget)_\w+)(?:\{([^}]*)\})?", query)
    assert selectors
    known = {*OF_PROMETHEUS}
    for name, matchers in selectors:
        assert name in series, f"nothing writes {name}"
        labels = series[name].keys() | OF_PROMETHEUS
        known |= labels
        for label, values in re.findall(r'(\w+)(?:=|!=|=~|!~)"([^"]*)"', matchers):
            assert label in labels, f"{name} has no label {label}"
            if not values.startswith("$"):
                assert set(values.split("|")) <= VALUES[label]
    for group in re.findall(r"\bby \(([^)]*)\)", query):
        assert {label.strip() for label in group.split(",")} <= known


def test_a_worker_and_a_producer_write_every_metric_with_its_labels(series):
    """The run that the queries are compared with is complete."""
    bases = {re.sub(r"_(bucket|sum|count)$", "", name): labels.keys() - {"le"} for name, labels in series.items()}
    assert bases == {name: set(labels) for name, (_, labels, _) in METRICS.items()}


def test_the_dashboard_shows_every_metric():
    """Whatever a worker counts can be seen."""
    text = json.dumps(PANELS)
    assert [name for name in METRICS if name not in text] == []


# --- the dashboard of Grafana -------------------------------------------------------------------------------------------


def test_the_dashboard_can_be_imported_anywhere():
    """It names no data source and no identity of one installation: the importer chooses."""
    assert DASHBOARD["id"] is None
    source, *others = DASHBOARD["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    places = [*others, *PANELS, *(target for panel in PANELS for target in panel["targets"])]
    assert all(place["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for place in places)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"])))
    assert used <= variables | {"__rate_interval"}


def test_the_panels_of_the_dashboard_lie_beside_each_other():
    """None covers another, none is twice there, and each says what it shows."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    cells = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        mine = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not mine & cells, panel["title"]
        assert all(x < 24 for x, _ in mine)
        cells |= mine
    assert all(panel["title"] and panel["description"] for panel in PANELS)


def test_the_legends_of_the_dashboard_have_the_labels_of_their_queries():
    """A curve says what it is of."""
    for panel in PANELS:
        for target in panel["targets"]:
            groups = re.findall(r"\bby \(([^)]*)\)", target["expr"])
            kept = {label.strip() for group in groups for label in group.split(",")} if groups else {"instance"}
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert named == kept - {"le"} or (not named and not groups) or kept == {"le"}, panel["title"]


# --- alerts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(rules()))
def test_an_alert_says_what_it_is_and_what_to_do(name, series):
    """Whoever is woken by it finds a command that exists, with labels that the alert has."""
    expression, text = rules()[name]
    assert re.search(r"severity: (page|ticket)$", text, re.MULTILINE)
    summary = re.search(r"summary: (.+)", text)[1]
    description = " ".join(re.search(r"description: >-\n(.*)", text, re.DOTALL)[1].split())
    assert summary and len(description) > 100
    groups = re.findall(r"\bby \(([^)]*)\)", expression)
    names = re.findall(r"\b(?:job|fireforget)_\w+", expression)
    kept = {label for group in groups for label in group.split(", ")}
    kept = kept or {label for each in names for label in series[each]} | {"instance"}
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= kept
    for command in re.findall(r"`python -m fireforget ([^`]+)`", description):
        cli.parser().parse_args(shlex.split(re.sub(r"\{\{.*?\}\}", "x", command)))
    for flag in re.findall(r"--[a-z-]+", re.sub(r"`[^`]*`", "", description)):
        assert flag in worker.parser().format_help()


def test_every_alert_is_tried_and_documented():
    """The tests of the rules see each one silent and firing, and the guide says when it fires."""
    tried = (DEPLOY / "prometheus-alerts.test.yml").read_text(encoding="utf-8")
    page = (HOW_TO / "metrics-and-alerts.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"(?m)^\| `(Fireforget\w+)` \| .* \| (\w+) \|$", page)) == {
        name: re.search(r"severity: (\w+)", text)[1] for name, (_, text) in rules().items()
    }
    for name in rules():
        assert len(re.findall(rf"\b{name}\b", tried)) >= 2, name


needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool of Debian's package prometheus is missing")


def promtool(*arguments, **options):
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=30, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_takes_the_metrics(written):
    """Its own linter has nothing to say about what a worker writes."""
    promtool("check", "metrics", input=written)


@needs_promtool
def test_prometheus_takes_the_rules_and_the_queries(tmp_path):
    """The rules do what their tests say, and the dashboard's queries are PromQL."""
    promtool("test", "rules", str(DEPLOY / "prometheus-alerts.test.yml"))
    asked = [target["expr"].replace("$__rate_interval", "5m") for panel in PANELS for target in panel["targets"]]
    records = "".join(f"  - record: query{n}\n    expr: {json.dumps(query)}\n" for n, query in enumerate(asked))
    (tmp_path / "queries.yml").write_text(f"groups:\n- name: queries\n  rules:\n{records}", encoding="utf-8")
    promtool("check", "rules", str(DEPLOY / "prometheus-alerts.yml"), str(tmp_path / "queries.yml"))


# --- systemd ------------------------------------------------------------------------------------------------------------


def settings(unit):
    """The settings of a unit: a list of values for each name."""
    text = (DEPLOY / unit).read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    for name, value in re.findall(r"(?m)^(\w+)=(.*)$", text):
        found.setdefault(name, []).append(value)
    return found


def the(unit, name):
    (value,) = settings(unit)[name]
    return value


def started(unit):
    """The arguments of what a unit starts, as our parsers read them."""
    program, dash_m, module, *arguments = shlex.split(the(unit, "ExecStart"))
    assert (Path(program).name, dash_m) == ("python", "-m")
    return {"fireforget.worker": worker.parser, "fireforget": cli.parser}[module]().parse_args(arguments)


def test_the_unit_of_the_worker_starts_what_can_be_started():
    """Its flags are a worker's, and its files are in folders that it may write."""
    unit = "fireforget-worker.service"
    arguments = started(unit)
    assert Path(arguments.metrics_file).parent == Path("/run") / the(unit, "RuntimeDirectory")
    database = re.search(r"FIREFORGET_DB=(\S+)", the(unit, "Environment"))[1]
    assert Path(database).parent == Path("/var/lib") / the(unit, "StateDirectory")


def test_the_unit_of_the_worker_gives_it_the_time_it_asks_for():
    """Killed before it has put its jobs back, it would count as dead under them."""
    unit = "fireforget-worker.service"
    assert float(the(unit, "TimeoutStopSec")) >= started(unit).shutdown_timeout + 15
    assert (the(unit, "KillMode"), the(unit, "KillSignal")) == ("mixed", "SIGTERM")


def test_the_unit_of_the_worker_knows_its_exit_codes():
    """Begin anew after 1, a kill and 2, which may be a full disk: for ever, but without haste; not after 0."""
    unit = "fireforget-worker.service"
    assert (the(unit, "Restart"), the(unit, "StartLimitIntervalSec")) == ("on-failure", "0")
    assert "RestartPreventExitStatus" not in settings(unit)
    assert float(the(unit, "RestartSec")) >= 10
    assert "RuntimeDirectoryPreserve" not in settings(unit), "stale metrics would hide that it does not start"
    assert the(unit, "OOMPolicy") == "continue", "a child that the kernel kills is not the end of its worker"


def test_the_units_are_of_one_application():
    """The dashboard finds the database and the metrics file, as the same user, under the same restrictions."""
    ours, theirs = (settings(unit) for unit in ("fireforget-worker.service", "fireforget-dashboard.service"))
    own = {"Description", "After", "ExecStart", "EnvironmentFile", "RestartSec", "StartLimitIntervalSec", "OOMPolicy"}
    own |= {name for name in ours if name.startswith(("Kill", "Timeout", "RuntimeDirectory"))}
    assert {name: value for name, value in ours.items() if name not in own} == {
        name: value for name, value in theirs.items() if name not in own
    }
    assert started("fireforget-dashboard.service").metrics_file == started("fireforget-worker.service").metrics_file


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_takes_the_units_and_the_drop_in_of_the_guide(tmp_path):
    """It knows each setting and value."""
    guide = (HOW_TO / "deploy-with-systemd.md").read_text(encoding="utf-8")
    drop_ins = re.findall(r"<!-- drop-in: (\S+) -->\n```ini\n(.*?)```", guide, re.DOTALL)
    for name, text in [(unit, (DEPLOY / unit).read_text(encoding="utf-8")) for unit in UNITS]:
        (tmp_path / name).write_text(text.replace("/opt/shop/venv/bin/python", sys.executable), encoding="utf-8")
    for name, text in drop_ins:
        (tmp_path / f"{name}.d").mkdir()
        (tmp_path / f"{name}.d" / "override.conf").write_text(
            text.replace("/opt/shop/venv/bin/python", sys.executable), encoding="utf-8"
        )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit) for unit in UNITS)],
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    mine = [line for line in done.stderr.splitlines() if any(name in line for name in (*UNITS, "override.conf"))]
    assert drop_ins and mine == []


# --- the container ------------------------------------------------------------------------------------------------------


def instructions():
    """The instructions of the container file, in order."""
    text = re.sub(r"(?m)^#.*\n", "", CONTAINERFILE).replace("\\\n", " ")
    return [tuple(line.split(" ", 1)) for line in text.splitlines() if line]


def instruction(name):
    (value,) = [value for each, value in instructions() if each == name]
    return value


def test_the_image_is_python_and_this_package():
    """Nothing else is installed, and what is copied is what a build of the package needs."""
    assert re.fullmatch(r"docker\.io/library/python:3\.\d+-slim", instruction("FROM"))
    installed = [value for name, value in instructions() if name == "RUN" and "install " in value and "pip" in value]
    assert installed == ["python -m pip install --no-cache-dir /src && rm -r /src"]
    assert "apt" not in CONTAINERFILE
    copied = {file for name, value in instructions() if name == "COPY" for file in value.split()[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert copied == {"pyproject.toml", project["readme"], project["license"]["file"], "fireforget"}
    assert project["dependencies"] == []


def test_the_image_starts_a_worker_that_is_not_root():
    """Its command is one that our parser takes, in the list form, so that signals reach it; and it may write its volume."""
    entry, command = json.loads(instruction("ENTRYPOINT")), json.loads(instruction("CMD"))
    assert entry == ["python", "-m", "fireforget.worker"]
    assert worker.parser().parse_args(command).concurrency
    user = instruction("USER")
    assert user.isdecimal() and int(user) > 0 and f"--uid {user} " in CONTAINERFILE
    assert instruction("STOPSIGNAL") == "SIGTERM"
    assert re.search(r"FIREFORGET_DB=(\S+)/", instruction("ENV"))[1] == instruction("VOLUME")


def test_the_health_check_of_the_image_is_a_command(tmp_path, monkeypatch, capsys):
    """It is well where the database can be read, and not where it cannot."""
    options, check = instruction("HEALTHCHECK").split(" CMD ")
    assert options
    program, dash_m, package, *words = ast.literal_eval(check)
    assert (program, dash_m, package) == ("python", "-m", "fireforget")
    monkeypatch.setenv("FIREFORGET_DB", str(tmp_path / "jobs.db"))
    assert cli.main(words) == 2
    SqliteQueue(tmp_path / "jobs.db").close()
    assert cli.main(words) == 0
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection, connection:
        connection.execute("DROP TABLE fireforget_meta")
    assert cli.main(words) != 0
    capsys.readouterr()
