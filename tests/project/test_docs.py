"""What README.md, CHANGELOG.md and docs/ say is true: their code runs, their commands exist, their tables are the code's.

Each document is run from top to bottom in a temporary folder of its own. A comment on the line before a fence says how:

    <!-- file: jobs.py -->          the fence is saved under this name, for the fences and commands that follow
    <!-- append: jobs.py -->        the fence is added to the end of that file, two empty lines below
    <!-- prints -->                 a text fence: its lines stand in what the command before it printed
    <!-- of: deploy/a.service -->   the fence's lines stand in this file of the checkout, in this order
    <!-- drop-in: a.service -->     settings of systemd for this unit of deploy/; test_deploy.py tries them
    <!-- not run: the reason -->    the fence is not run; Python is compiled all the same

Other Python fences are run as programs. SQL fences are run on `SQL_FILE`, by the sqlite3 shell where it is installed. Shell
fences are run command by command; how, and which kinds are only checked to exist, is in `COMMANDS`.
"""

import argparse
import ast
import dataclasses
import importlib
import importlib.util
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import pytest

import fireforget
from fireforget import (
    Inspector,
    Progress,
    Registry,
    SqliteQueue,
    State,
    Task,
    TaskInfo,
    Worker,
    _cli_tasks,
    app,
    cli,
    current_job,
    dashboard,
    engines,
    errors,
    inspector,
    logs,
    middleware,
    patterns,
    relay,
    task,
    testing,
    worker,
)
from fireforget import registry as registry_module
from fireforget._pool.config import DEFAULT_QUEUES, Settings
from fireforget.job import Job
from fireforget.metrics import METRICS
from fireforget.registry import Definition

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS_PAGE = ROOT / "docs" / "reference" / "commands.md"
DOCUMENTS.remove(COMMANDS_PAGE)  # it has many commands: faces/test_cli.py runs it
README = (ROOT / "README.md").read_text(encoding="utf-8")
JOBS = (ROOT / "docs" / "async-jobs.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
SQL = (ROOT / "docs" / "sql.md").read_text(encoding="utf-8")
EMBED = (ROOT / "docs" / "how-to" / "embed-a-worker.md").read_text(encoding="utf-8")
REFERENCE = COMMANDS_PAGE.read_text(encoding="utf-8")
ERRORS = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
EXIT_CODES = (ROOT / "docs" / "reference" / "exit-codes.md").read_text(encoding="utf-8")
PATIENCE = 60
"""Seconds that a command of the documentation may take."""

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)

# --- reading a document -------------------------------------------------------------------------------------------------


class Fence(NamedTuple):
    """A code block, and what the comment before it says of it."""

    line: int
    language: str
    mark: str
    text: str


_FENCE = re.compile(r"(?:^<!-- *(?P<mark>.*?) *-->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def fences(text: str) -> list[Fence]:
    """Return the code blocks of a document, in order."""
    return [
        Fence(text.count("\n", 0, found.start("language")) + 1, found["language"], found["mark"] or "", found["text"])
        for found in _FENCE.finditer(text)
    ]


def spans(text: str) -> list[str]:
    """Return the code inside the running text."""
    return [span for _, span in re.findall(r"(`+) ?([^\n]+?) ?\1(?!`)", _FENCE.sub("", text))]


def our_spans(document: Path) -> list[str]:
    """Return the code inside a document's running text; on a page for newcomers the first column is another project's."""
    text = document.read_text(encoding="utf-8")
    return spans(re.sub(r"(?m)^\|[^|]*\|", "|", text) if document.parent.name == "coming-from" else text)


def commands(text: str) -> list[str]:
    """Return the commands of a shell fence, without comments."""
    joined = text.replace("\\\n", " ")
    return [line for line in (line.strip() for line in joined.splitlines()) if line and not line.startswith("#")]


def table(text: str, first_header: str) -> list[list[str]]:
    """Return the rows of the table whose first column has this header."""
    rows: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells[0] == first_header:
            inside = True
        elif inside and not cells:
            break
        elif inside and not set(cells[0]) <= {"-", ":"}:
            rows.append(cells)
    assert rows, f"there is no table of {first_header!r}"
    return rows


def code(cell: str) -> str:
    """Return the first code in a cell."""
    found = re.search(r"`([^`]+)`", cell)
    assert found, f"{cell!r} has no code"
    return found[1]


# --- running a document -------------------------------------------------------------------------------------------------


def run(folder: Path, *arguments: str) -> str:
    """Run Python with these arguments in the folder and return what it printed; it has to end well."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("FIREFORGET_DB", None)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def run_worker(folder: Path, words: list[str]) -> str:
    """Run a worker until its queue is empty; as it is written it would go on."""
    return run(folder, *words[1:], *([] if "--burst" in words else ["--burst"]))


def ask_for_help(folder: Path, words: list[str]) -> str:
    """Start a program that would go on, or take long, only as far as its help; its own tests run it."""
    assert importlib.util.find_spec(".".join(words[2:4]) if words[2] == "fireforget" else words[2]), f"no module {words[2:4]}"
    return run(folder, *words[1:4], "--help")


def run_sql(folder: Path, words: list[str]) -> str:
    """Do what the sqlite3 shell would: it is not on every machine."""
    _, file, *statements = words
    return run_statements_in_python(folder / file, ";".join(statements) + ";")


SQL_FILE = "shop.db"


def run_statements(folder: Path, text: str) -> str:
    """Run the statements of a SQL fence, which all have to be right, and return the rows as the shell prints them."""
    path = folder / SQL_FILE
    assert path.exists(), f"make {SQL_FILE} first: the statements are about a queue"
    if shutil.which("sqlite3") is None:
        return run_statements_in_python(path, text)
    done = subprocess.run(
        ["sqlite3", "-bail", "-batch", "-list", path], input=text, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def run_statements_in_python(path: Path, text: str) -> str:
    """Do what the sqlite3 shell would: it is not on every machine."""
    printed = statement = ""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for part in re.split(r"(?<=;)", text):
            statement += part
            if sqlite3.complete_statement(statement):
                for row in connection.execute(statement):
                    printed += "|".join("" if value is None else str(value) for value in row) + "\n"
                statement = ""
    assert not statement.strip(), f"not a whole statement: {statement}"
    return printed


def check_make(folder: Path, words: list[str]) -> str:
    """A target of the Makefile exists."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in words[1:]:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"the Makefile has no target {target!r}"
    return ""


def run_promtool(folder: Path, words: list[str]) -> str:
    """Have Prometheus' own tool look at a file of this page, where it is installed; test_deploy.py does with those of deploy/."""
    (name,) = words[3:]
    if (ROOT / name).exists():
        return ""
    assert (folder / name).exists(), f"{name} is neither of this page nor of the checkout"
    if shutil.which("promtool") is None:
        return ""
    for rules in (ROOT / "deploy").glob("*.yml"):  # a configuration that names them finds them beside it
        shutil.copy(rules, folder)
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_plainly(folder: Path, words: list[str]) -> str:
    """Move files about, inside the folder."""
    assert not any(word.startswith(("/", "..")) for word in words)
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


def check_install(folder: Path, words: list[str]) -> str:
    """The checkout can be installed: it would need the network to be tried here."""
    assert words[-1] == "."
    assert (ROOT / "pyproject.toml").exists()
    return ""


COMMANDS: dict[str, Callable[[Path, list[str]], str]] = {
    "python -m fireforget.worker": run_worker,
    "python -m fireforget worker": run_worker,
    "python -m fireforget demo": ask_for_help,
    "python -m fireforget dashboard": ask_for_help,
    "python -m examples.": ask_for_help,
    "python": lambda folder, words: run(folder, *words[1:]),
    "sqlite3": run_sql,
    "make": check_make,
    "pip install": check_install,
    "promtool": run_promtool,
    **dict.fromkeys(("cp ", "mv ", "rm ", "mkdir "), run_plainly),
}
"""How commands are run, by how they begin; the first that fits is taken."""


def run_command(folder: Path, command: str) -> str:
    """Run one command of a document and return what it printed."""
    for beginning, how in COMMANDS.items():
        if command.startswith(beginning):
            return how(folder, shlex.split(command, comments=True))
    raise AssertionError(f"nothing is known of {command!r}: say in COMMANDS how it is run, or mark it <!-- not run: why -->")


def run_fence(folder: Path, fence: Fence, printed: str) -> str:
    """Run one fence, and return what it printed."""
    if fence.language == "python":
        compile(fence.text, "a fence", "exec")
    if fence.mark == "prints":
        missing = set(fence.text.splitlines()) - set(printed.splitlines())
        assert not missing, f"the command before printed no {missing}, but {printed!r}"
        return printed
    if fence.mark:
        kind, _, rest = fence.mark.partition(":")
        assert kind in MARKS, f"unknown mark {fence.mark!r}"
        MARKS[kind](folder, rest.strip(), fence.text)
        return ""
    how = LANGUAGES.get(fence.language)
    return how(folder, fence.text) if how else ""


def save(folder: Path, name: str, text: str) -> None:
    """Save a fence for what follows."""
    (folder / name).write_text(text, encoding="utf-8")


def append(folder: Path, name: str, text: str) -> None:
    """Add a fence to one that was saved."""
    with (folder / name).open("a", encoding="utf-8") as file:
        file.write("\n\n" + text)


def check_excerpt(folder: Path, name: str, part: str) -> None:
    """The lines of the fence stand in a file of the checkout, in this order."""
    lines = iter((ROOT / name).read_text(encoding="utf-8").splitlines())
    for line in part.splitlines():
        assert line in lines, f"{name} has no line {line!r}, or not here"


def check_drop_in(folder: Path, name: str, text: str) -> None:
    """There is such a unit."""
    assert (ROOT / "deploy" / name).exists()


def leave(folder: Path, reason: str, text: str) -> None:
    """Not all can be run in a test."""
    assert reason, "say why it is not run"


MARKS: dict[str, Callable[[Path, str, str], None]] = {
    "file": save,
    "append": append,
    "of": check_excerpt,
    "drop-in": check_drop_in,
    "not run": leave,
}
"""What a mark has done with its fence."""


def check_containerfile(folder: Path, text: str) -> str:
    """An application's image begins with ours, copies files there are, and starts a worker as it can be started."""
    steps = dict(re.findall(r"(?m)^([A-Z]+) (.*)$", text))
    assert steps.keys() == {"FROM", "COPY", "CMD"}
    assert steps["FROM"] == "fireforget"
    *files, target = steps["COPY"].split()
    assert all((folder / file).exists() for file in files)
    assert target == "/app/"
    worker.parser().parse_args(json.loads(steps["CMD"]))
    return ""


def refuse_unmarked(_: Path, text: str) -> str:
    """Settings are an excerpt of a file that is tested, or say why they cannot be."""
    raise AssertionError(f"say with a mark what this is, so that it can be tested: {text!r}")


LANGUAGES: dict[str, Callable[[Path, str], str]] = {
    "dockerfile": check_containerfile,
    **dict.fromkeys(("ini", "yaml", "yml", "toml"), refuse_unmarked),
    "python": lambda folder, text: run(folder, "-c", text),
    "sql": run_statements,
    **dict.fromkeys(
        ("sh", "bash", "console", "shell"),
        lambda folder, text: "".join(run_command(folder, command) for command in commands(text)),
    ),
}
"""How fences are run, by their language; others are only read."""


def follow(document: Path, folder: Path) -> None:
    """Do what a document says, from top to bottom."""
    printed = ""
    for fence in fences(document.read_text(encoding="utf-8")):
        try:
            printed = run_fence(folder, fence, printed)
        except Exception as error:
            error.add_note(f"in {document.name}, line {fence.line}:\n{textwrap.indent(fence.text, '    ')}")
            raise


@pytest.fixture(scope="module")
def followed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, Future[None]]]:
    """The documents whose tests are to run, followed side by side: programs start all the time, and each fills one processor."""
    own = (item for item in request.session.items if getattr(item, "originalname", "") == FOLLOWING)
    documents = [item.callspec.params["document"] for item in own]  # type: ignore[attr-defined]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {document: pool.submit(follow, document, tmp_path_factory.mktemp(document.stem)) for document in documents}
        pool.shutdown(cancel_futures=True)


@every_document
def test_all_code_and_commands_of_a_document_run(document: Path, followed: dict[Path, Future[None]]) -> None:
    """Whoever follows a page from top to bottom gets what it says."""
    followed[document].result()


FOLLOWING = test_all_code_and_commands_of_a_document_run.__name__


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="it has been run so already")
def test_the_statements_of_the_sql_page_run_in_python_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has no sqlite3 shell gets the same."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    follow(ROOT / "docs" / "sql.md", tmp_path)


# --- names --------------------------------------------------------------------------------------------------------------


def resolve(dotted: str) -> Any:
    """Return what a dotted name leads to; raises `AttributeError` where it leads nowhere."""
    target: Any = fireforget
    path = "fireforget"
    for part in dotted.split(".")[1:]:
        path += "." + part
        try:
            target = getattr(target, part)
        except AttributeError:
            try:
                target = importlib.import_module(path)
            except ImportError as error:
                if error.name == part:  # an extra that is not installed: that there is such a module is all to be seen
                    return None
                raise AttributeError(f"{dotted} does not exist") from None
    return target


@every_document
def test_every_dotted_name_in_a_document_exists(document: Path) -> None:
    """`fireforget.X` can be imported, wherever a page names it."""
    for dotted in set(re.findall(r"\bfireforget(?:\.[A-Za-z_]\w*)+", document.read_text(encoding="utf-8"))):
        if dotted not in ("fireforget.db", "fireforget.store"):  # the default file, and a logger
            resolve(dotted)


OWNERS: dict[str, Any] = {
    "queue": SqliteQueue,
    "registry": Registry,
    "worker": Worker,
    "inspector": Inspector,
    "info": TaskInfo,
    "current_job()": Job,
    **{name: getattr(fireforget, name) for name in fireforget.__all__ if name[0].isupper()},
}
"""What a name in running text stands for."""


@every_document
def test_every_attribute_in_a_document_exists(document: Path) -> None:
    """`queue.wait(...)` or `Worker.run` in the text is a method or field there is."""
    for span in our_spans(document):
        found = re.match(r"@?([\w()]+)\.([a-z_]\w*)", span)
        if found and found[1] in OWNERS:
            owner = OWNERS[found[1]]
            known = hasattr(owner, found[2]) or found[2] in getattr(owner, "__annotations__", ())
            assert known, f"`{span}` does not exist"


@cache
def parameters() -> frozenset[str]:
    """Return every name that some public call takes, and every option."""
    names = {*task._CHECKS, *OF_A_HANDLER_ALONE, "run_timeout"}
    public = [(fireforget, name) for name in fireforget.__all__] + [(testing, name) for name in testing.__all__]
    public += [(patterns, "configure"), (registry_module, "Definition"), (dashboard, "application")]
    public += [(engines, name) for name in engines.__all__] + [(relay, "Relay")]
    for home, name in public:
        thing = getattr(home, name)
        callables = [thing, *(member for _, member in inspect.getmembers(thing, inspect.isfunction))] if callable(thing) else []
        for call in callables:
            try:
                names |= set(inspect.signature(call).parameters)
            except (TypeError, ValueError):
                continue
    return frozenset(names)


CLASSES_OF_EXTRAS = {
    node.name
    for path in (ROOT / "fireforget" / "engines").glob("*.py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.ClassDef)
}
"""Classes in modules that need an extra, which is not installed everywhere."""

ALERTS = set(re.findall(r"(?m)^ *- alert: (\w+)$", (ROOT / "deploy" / "prometheus-alerts.yml").read_text(encoding="utf-8")))
"""Names that read like classes and are those of alert rules."""


@every_document
def test_every_argument_and_class_in_a_document_exists(document: Path) -> None:
    """A page promises no argument and no class that is still to be written."""
    known = parameters()
    builtin = set(dir(__import__("builtins")))
    for span in our_spans(document):
        call = re.match(r"[@\w.]+\((.*)\)$", span)
        for name in re.findall(r"(?:^|[(, ])([a-z_]\w*)=(?!=)", call[1] if call else ""):
            assert name in known, f"`{span}`: nothing takes {name}="
        if re.fullmatch(r"(?:[A-Z][a-z]+){2,}", span):
            homes = (fireforget, testing, registry_module, middleware, app, errors, inspector, logs, relay, engines, futures)
            there = span in builtin | CLASSES_OF_EXTRAS | ALERTS or any(hasattr(home, span) for home in homes)
            assert there, f"`{span}` does not exist"


def parsers(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the commands below a parser, by what is typed, each with its parser."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for group in groups:
        for word, below in group.choices.items():
            yield from parsers(below, f"{name} {word}".strip())
    if not groups:
        yield name, parser


def every_flag() -> set[str]:
    """Return the flags of the worker and of all commands."""
    return {option for _, parser in [("", worker.parser()), *parsers(cli.parser())] for option in parser._option_string_actions}


FLAGS_OF_OTHERS = {"--format", "--init", "--kill-who", "--restart", "--stop-timeout", "--jobs", "--shuffle"}
"""Flags of podman and systemctl that the pages on deployment name, and those that our tests add to pytest's."""


@every_document
def test_every_command_in_the_text_of_a_document_exists(document: Path) -> None:
    """`make x` and `python -m fireforget x` name targets and commands there are."""
    subcommands = {
        name for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction) for name in action.choices
    }
    for span in our_spans(document):
        words = span.split()
        if words[0] == "make":
            check_make(ROOT, words)
        elif words[:3] == ["python", "-m", "fireforget"]:
            assert len(words) < 4 or words[3] in subcommands, f"`{span}`: there is no such command"
        elif words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]), f"`{span}`: there is no such module"
        for flag in re.findall(r"(?<!\w)--[a-z][a-z-]+", span):
            known = flag in every_flag() | FLAGS_OF_OTHERS or words[0] == "python"
            assert known, f"`{span}`: there is no flag {flag}"


@pytest.fixture(scope="module")
def names_in_the_database(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The tables and views of a new file."""
    path = tmp_path_factory.mktemp("names") / "new.db"
    SqliteQueue(path).close()
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}


@every_document
def test_every_metric_and_view_in_a_document_exists(document: Path, names_in_the_database: set[str]) -> None:
    """A dashboard built from a page shows something."""
    known = set(names_in_the_database)
    for name, (kind, _, _) in METRICS.items():
        known |= {name} | ({f"{name}_{end}" for end in ("bucket", "sum", "count")} if kind == "histogram" else set())
    for name in re.findall(
        r"\b(?:fireforget|job)_\w+_(?:total|seconds\w*|size|paused|children|bytes)\b|\bfireforget_\w+",
        document.read_text(encoding="utf-8"),
    ):
        assert name in known, f"{name} is neither a metric nor a view"


def anchors(document: Path) -> set[str]:
    """Return what a link may name behind `#`: the headings, as they are made into anchors."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", document.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*DOCUMENTS, COMMANDS_PAGE], ids=lambda path: path.name)
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    """No link is dead inside the checkout, and a heading that it names is there."""
    for target in re.findall(r"\]\(([^)]+)\)", _FENCE.sub("", document.read_text(encoding="utf-8"))):
        if "://" not in target:
            name, _, heading = target.partition("#")
            file = document.parent / name if name else document
            assert file.exists(), f"{target} is not there"
            assert not heading or heading in anchors(file), f"{target}: there is no such heading"


def linked_from(document: Path) -> set[Path]:
    """Return the files of the checkout that a page links to."""
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8"))
    return {(document.parent / target).resolve() for target in targets if "://" not in target}


def test_the_index_leads_to_every_page() -> None:
    """Whoever starts at the README finds the index, and there all that is written."""
    index = ROOT / "docs" / "README.md"
    assert index in linked_from(ROOT / "README.md")
    assert {*(ROOT / "docs").rglob("*.md")} - {index} <= linked_from(index)


# --- tables -------------------------------------------------------------------------------------------------------------


@cache
def worker_flags() -> dict[str, argparse.Action]:
    """Return the worker's flags."""
    return {
        action.option_strings[0]: action
        for action in worker.parser()._actions
        if action.option_strings[0:] and action.dest != "help"
    }


def test_the_readme_has_every_flag_of_the_worker_and_no_others() -> None:
    """The table is the parser's, both ways, with what each flag takes."""
    documented = {code(row[0]).split()[0]: code(row[0]).split()[1:] for row in table(README, "flag")}
    flags = worker_flags()
    assert documented.keys() == flags.keys()
    for name, action in flags.items():
        takes_a_value = action.nargs != 0
        assert bool(documented[name]) == takes_a_value, f"{name}: {documented[name]}"
        if action.metavar:
            assert documented[name] == [action.metavar]
        if action.choices:
            row = next(row for row in table(README, "flag") if name in row[0])
            assert all(f"`{choice}`" in row[1] for choice in action.choices), f"{name} takes {action.choices}"


def test_the_readme_has_the_defaults_of_the_worker() -> None:
    """What happens without a flag is what the table says."""
    documented = {code(row[0]).split()[0]: row[2].strip("`") for row in table(README, "flag")}
    settings = {field.name: field.default for field in dataclasses.fields(Settings)}
    for name, action in worker_flags().items():
        default = action.default if action.default is not None else settings.get(action.dest)
        if name == "--db":
            assert documented[name] == worker.DEFAULT_DB
        elif name == "--queues":
            assert documented[name] == ",".join(f"{queue}={weight}" for queue, weight in DEFAULT_QUEUES.items())
        elif name == "--concurrency":
            assert documented[name] == "the number of CPUs"
        elif default is None:
            assert documented[name] in ("none", "never"), name
        elif default is False:
            assert documented[name] == "off", name
        else:
            assert documented[name] == (f"{default:g}" if isinstance(default, int | float) else str(default)), name


OF_A_HANDLER_ALONE = {
    name for name, parameter in inspect.signature(Registry.task).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY
}
"""Options of `Registry.task` that a task does not have."""


def test_the_readme_has_every_option_and_no_others() -> None:
    """The table is the code's, both ways, and says which options a handler may have."""
    rows = table(README, "option")
    assert {code(row[0]) for row in rows} == {*task._CHECKS, *OF_A_HANDLER_ALONE}
    assert {code(row[0]) for row in rows if row[3] == "yes"} == {*task.HANDLER_OPTIONS, *OF_A_HANDLER_ALONE}
    assert {row[3] for row in rows} == {"yes", "no"}


def test_the_readme_has_the_defaults_of_the_options(tmp_path: Path) -> None:
    """A job without options is what the table says."""
    documented = {code(row[0]): row[2] for row in table(README, "option")}
    with SqliteQueue(tmp_path / "jobs.db") as queue:
        info = queue.enqueue(Task("any"))
    assert documented["queue"] == f"`{info.queue}`; `{patterns.DEFAULT_QUEUE}` in `fire_and_forget`"
    assert documented["priority"] == str(info.priority)
    assert documented["max_retry"] == str(info.max_retry)
    assert documented["timeout"].split()[0] == f"{info.timeout:g}"
    assert (documented["deadline"], info.deadline) == ("none", None)
    assert (documented["headers"], dict(info.headers)) == ("none", {})


@pytest.mark.parametrize("view", ["fireforget_enqueue", "fireforget_jobs", "fireforget_attempts"])
def test_the_sql_page_has_every_column_and_no_others(tmp_path: Path, view: str) -> None:
    """In the order of the view; and the states are those there are."""
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        SqliteQueue(tmp_path / "new.db").close()
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({view})")]
    rows = table(SQL, f"column of {view}")
    assert [code(row[0]) for row in rows] == columns
    for row in rows:
        if row[0] == "`state`":
            assert re.findall(r"`(\w+)`", row[2]) == [state.value for state in State]


def test_the_sql_page_has_the_defaults_of_the_code(tmp_path: Path) -> None:
    """What an INSERT leaves out is what the table says."""
    with SqliteQueue(tmp_path / "new.db") as queue, closing(sqlite3.connect(queue.path)) as connection:
        with connection:
            connection.execute("INSERT INTO fireforget_enqueue (type, task_id) VALUES ('any', 'own')")
        info = queue.get("own")
    documented = {code(row[0]): row[3] for row in table(SQL, "column of fireforget_enqueue")}
    assert documented["queue"] == f"`{info.queue}`"
    assert documented["timeout"].split()[0] == f"{info.timeout:g}"
    assert (documented["priority"], documented["max_retry"]) == (str(info.priority), str(info.max_retry))


def queries() -> Iterator[str]:
    """Return the queries of all documents."""
    for document in DOCUMENTS:
        for fence in fences(document.read_text(encoding="utf-8")):
            if fence.language == "promql":
                yield fence.text


def test_queries_use_labels_and_values_that_metrics_have() -> None:
    """A query never waits for a label, status, state or outcome that nothing writes."""
    values = {
        "status": {"success", "failed"},
        "state": {state.value for state in State},
        "outcome": set(patterns.SubmissionCounts._fields),
    }
    found = [query for query in queries() if not query.startswith("node_")]  # node_exporter's own are not ours to know
    assert found
    for query in found:
        names = [name for name in METRICS if name in query]
        labels = {label for name in names for label in METRICS[name][1]} | {"le"}
        assert names, query
        for group in re.findall(r"\bby \(([^)]*)\)", query):
            assert {label.strip() for label in group.split(",")} <= labels, query
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', query):
            assert label in labels, query
            assert set(value.split("|")) <= values.get(label, set(value.split("|"))), query


def test_the_weights_in_the_docs_are_those_of_the_worker() -> None:
    """The queues out of the box share as the table says."""
    assert {code(row[0]): int(row[1]) for row in table(JOBS, "queue")} == dict(DEFAULT_QUEUES)


def test_the_changelog_has_an_entry_for_this_version() -> None:
    """A version without a word for its users is not released."""
    assert f"## {fireforget.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# --- the API reference --------------------------------------------------------------------------------------------------


def public_members(kind: type) -> set[str]:
    """Return the names of a class that are not ours, inherited ones too."""
    return {name for name in dir(kind) if not name.startswith("_") and not hasattr(object, name)}


def named(first_header: str, page: str = API) -> set[str]:
    """Return what the rows of a table of the reference are about: the name that each begins with."""
    return {re.match(r"\w+", code(row[0]))[0] for row in table(page, first_header)}  # type: ignore[index]


def error_classes() -> dict[str, type[BaseException]]:
    """Return every exception that fireforget may raise, wherever it is written down."""
    importlib.import_module("fireforget.testing")  # which loads whatever there is
    found: dict[str, type[BaseException]] = {}
    left: list[type[BaseException]] = [fireforget.FireforgetError, errors.Interruption]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if kind.__module__.startswith("fireforget.") and not kind.__module__.startswith(("fireforget._", "fireforget.demo")):
            found[kind.__name__] = kind
    return found


def test_the_reference_has_every_public_name_and_no_others() -> None:
    """What can be imported from `fireforget` is in the table of names, or in that of errors."""
    public = set(fireforget.__all__)
    assert named("name") == public - error_classes().keys()
    assert public & error_classes().keys() <= named("error", ERRORS)


@pytest.mark.parametrize(
    ("first_header", "kind", "more"),
    [
        ("member", Task, set()),
        ("member of a queue", SqliteQueue, set()),
        ("member of a registry", Registry, set()),
        (
            "member of a definition",
            Definition,
            {"definition", "pattern", "function", "options", "retry_delay", "transaction_timeout", "is_async", "limits"},
        ),
        ("member of a job", Job, set()),
        ("member of a worker", Worker, set()),
        ("member of an inspector", Inspector, set()),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_reference_has_every_member_and_no_others(first_header: str, kind: type, more: set[str]) -> None:
    """Methods, properties and attributes, both ways; `more` are those that an instance has alone."""
    assert named(first_header) == public_members(kind) | more


@pytest.mark.parametrize(("first_header", "kind"), [("field", TaskInfo), ("field of a progress", Progress)])
def test_the_reference_has_every_field_and_no_others(first_header: str, kind: Any) -> None:
    """In the order of the class."""
    assert [code(row[0]) for row in table(API, first_header)] == [field.name for field in dataclasses.fields(kind)]


@pytest.mark.parametrize(
    ("first_header", "home"),
    [("member of a queue", SqliteQueue), ("member of an inspector", Inspector), ("member of a worker", Worker),
     ("member of a job", Job), ("member of a registry", Registry), ("function", patterns)],
)  # fmt: skip
def test_the_reference_has_the_arguments_of_every_method(first_header: str, home: Any) -> None:
    """Each call in the first column names what the code takes, in its order, with its defaults where they are given."""
    for row in table(API, first_header):
        name, bracket, arguments = code(row[0]).partition("(")
        if not bracket:
            continue
        call = inspect.signature(getattr(home, name, None) or getattr(fireforget, name))
        actual = [parameter for parameter in call.parameters.values() if parameter.name != "self"]
        written = [argument for argument in arguments.rstrip(")").split(", ") if argument not in ("", "*")]
        assert [argument.lstrip("*").partition("=")[0] for argument in written] == [parameter.name for parameter in actual], name
        for argument, parameter in zip(written, actual, strict=True):
            _, equals, default = argument.partition("=")
            assert not equals or default == repr(parameter.default), f"{name}: {argument}"


def test_the_reference_has_every_option_with_its_default_and_no_others() -> None:
    """The same options as in the README, with the same defaults, and where each may be given."""
    rows = table(API, "task option")
    assert {code(row[0]) for row in rows} == task._CHECKS.keys()
    assert {code(row[0]) for row in rows if row[4] == "yes"} | {"run_timeout"} == task.CALL_OPTIONS
    assert {code(row[0]) for row in rows if row[5] == "yes"} == task.HANDLER_OPTIONS
    defaults = {code(row[0]): row[3] for row in rows}
    for row in table(README, "option"):
        option, default = code(row[0]), row[2]
        if option in defaults and option not in ("timeout", "task_id"):
            assert defaults[option] == default, option
    assert defaults["timeout"].startswith(f"{task.DEFAULT_TIMEOUT:g};")


def test_the_reference_has_every_error_with_its_bases_and_no_others() -> None:
    """Both ways, with what they carry; and those that cannot be imported from `fireforget` are said to be elsewhere."""
    rows = {code(row[0]): row for row in table(ERRORS, "error")}
    classes = error_classes()
    assert rows.keys() == classes.keys()
    for name, kind in classes.items():
        assert re.findall(r"`(\w+)`", rows[name][1]) == [base.__name__ for base in kind.__bases__], name
        if "__init__" in vars(kind):
            carried = set(re.findall(r"self\.(\w+) = ", inspect.getsource(kind.__init__)))
            assert carried <= set(re.findall(r"`(\w+)`", rows[name][2])), name
    for name in classes.keys() - set(fireforget.__all__):
        assert re.search(
            rf"`{name}`[^.]*? (is|are) in\s+`{classes[name].__module__}`|`{name}` in\s+`{classes[name].__module__}`", ERRORS
        ), name


def test_the_reference_has_the_fields_of_the_inspectors_records() -> None:
    """Both ways."""
    for row in table(API, "record"):
        kind = getattr(inspector, code(row[0]))
        computed = {name for name in public_members(kind) if isinstance(getattr(kind, name, None), (property, FunctionType))}
        fields = {field.name for field in dataclasses.fields(kind)} | computed
        assert set(re.findall(r"`(\w+)`", row[1])) == fields, row


# --- the embedded worker ------------------------------------------------------------------------------------------------


def test_the_service_of_the_guide_runs_jobs_and_ends_in_good_order(tmp_path: Path) -> None:
    """Its requests leave jobs, its worker runs them, and SIGTERM ends both."""
    for fence in fences(EMBED):
        if fence.mark in ("file: jobs.py", "file: service.py"):
            (tmp_path / fence.mark.removeprefix("file: ")).write_text(fence.text, encoding="utf-8")
    service = subprocess.Popen(
        [sys.executable, "service.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert service.stdout is not None
        port = int(service.stdout.readline().split()[-1])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/cat.png", timeout=PATIENCE) as answer:
            job_id = answer.read().decode()
        with SqliteQueue(tmp_path / "jobs.db") as queue:
            assert queue.wait(job_id, PATIENCE).result == "/cat.png.small"
        service.send_signal(signal.SIGTERM)
        service.communicate(timeout=PATIENCE)
        assert service.returncode == 0
        with SqliteQueue(tmp_path / "jobs.db") as queue:
            assert Inspector(queue).workers() == []
    finally:
        service.kill()
        service.communicate()


# --- the commands -------------------------------------------------------------------------------------------------------


def test_the_reference_of_the_commands_has_every_unit_of_a_duration() -> None:
    """Both ways."""
    documented = {unit for row in table(REFERENCE, "unit") for unit in re.findall(r"`(\w+)`", row[0])}
    assert documented == sys.modules[_cli_tasks.a_duration.__module__]._UNITS.keys()


def test_the_reference_of_the_commands_has_the_shape_of_their_json(  # noqa: PLR0915 - a line or two a command
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever reads it with a program finds the members that the tables name, and no others."""
    members = {row[0]: set(re.findall(r"`(\w+)`", row[1])) for row in table(REFERENCE, "value")}
    path = tmp_path / "jobs.db"

    def answer(*words: str) -> Any:
        assert cli.main([*words, "--db", str(path), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    registry = Registry()

    @registry.task("fails")
    def fails() -> None:
        current_job().step("first", int)
        raise errors.SkipRetry("no")

    with SqliteQueue(path) as queue:
        failed = queue.enqueue(fails.task())
        testing.drain(queue, registry)
        with Worker(Registry(), queue, concurrency=1):
            stats = answer("stats")
            assert stats.keys() == {"queues", "workers"}
            assert stats["queues"][0].keys() == members["queue"] and stats["workers"][0].keys() == members["worker"]
            assert [listed.keys() for listed in answer("worker", "list")] == [members["worker"] | {"jobs"}]
            (history,) = answer("queue", "history", "default")
            assert history.keys() == {"queue", "points"} and history["points"][0].keys() == members["point"]
            assert answer("queue", "list") == stats["queues"]
            assert answer("queue", "show", "default").keys() == members["queue"] | {"workers"}
    assert stats["queues"][0]["states"].keys() == {state.value for state in State}
    registry.periodic("@daily", missed="catch_up")(fails)
    clock = testing.ManualClock()
    with SqliteQueue(path, clock=clock) as queue:
        testing.tick(queue, registry)
        clock.advance(86400)
        testing.tick(queue, registry)
    (schedule,) = answer("cron", "list")
    assert schedule.keys() == members["schedule"] and len(schedule["next_times"]) == 3
    (event,) = answer("cron", "history", "fails")
    assert event.keys() == members["event"]
    assert answer("cron", "pause", "fails") == [{"schedule": "fails", "changed": True}]
    assert answer("cron", "delete", "fails", "--yes") == [{"schedule": "fails", "changed": True}]
    assert answer("task", "delete", event["job_id"])
    assert answer("enqueue", "any", "--task-id", "mine").keys() == members["job"]
    assert answer("enqueue", "any", "--group", "mail", "--queue", "grouped")["state"] == "aggregating"
    assert [group.keys() for group in answer("group", "list")] == [members["group"]]
    assert answer("task", "delete", "--state", "aggregating", "--yes") == {"matched": 1, "changed": 1}
    assert answer("queue", "pause", "default") == [{"queue": "default", "changed": True}]
    listed = answer("task", "list")
    assert listed.keys() == {"tasks", "after"} and listed["after"] is None
    assert all(job.keys() == members["job"] for job in listed["tasks"])
    shown = answer("task", "show", failed.id)
    assert shown.keys() == members["job"] | {"attempts", "steps", "needs", "dependants", "limit"}
    assert {field.name for field in dataclasses.fields(inspector.LimitInfo)} == members["limit"]
    assert [attempt.keys() for attempt in shown["attempts"]] == [members["attempt"]]
    assert [step.keys() for step in shown["steps"]] == [members["step"]]
    assert len(answer("task", "show", failed.id, "mine")) == 2
    examined = answer("doctor")
    assert examined.keys() == {"healthy", "findings"}
    assert all(finding.keys() == members["finding"] for finding in examined["findings"])
    checks = {code(row[0]) for row in table(REFERENCE, "check")}
    assert {finding["check"] for finding in examined["findings"]} | {"file"} == checks
    assert answer("backup", str(tmp_path / "copy.db")).keys() == members["backup"]
    assert answer("task", "archive", "mine") == [{"id": "mine", "state": "archived"}]
    assert answer("task", "delete", "mine") == [{"id": "mine", "state": None}]
    assert answer("task", "run", "--state", "archived") == {"matched": 1, "changed": 1}
    assert answer("queue", "delete", "default", "--force", "--yes") == [{"queue": "default", "deleted_jobs": 1}]


def test_the_exit_codes_in_the_docs_are_those_of_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts go by them: 0 done, 1 said no, 2 misused or no database, 130 after Ctrl-C; every command has its row."""
    path = str(tmp_path / "jobs.db")
    SqliteQueue(path).close()
    found = {cli.main(["stats", "--db", path]), cli.main(["task", "show", "nobody", "--db", path])}
    found |= {cli.main(["stats", "--db", path + ".not"]), cli.main(["task", "run", "--db", path])}
    with monkeypatch.context() as patched:
        patched.setattr(Inspector, "queues", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli.main(["stats", "--db", path]) == 130
    command = [sys.executable, "-m", "fireforget.worker", "no_such_module:registry", "--db", path]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 2  # it sets logging up: not here
    capsys.readouterr()
    assert found == {0, 1, 2}
    of_a_worker, of_a_command = EXIT_CODES.split("## The commands")
    assert [row[0] for row in table(of_a_worker, "exit code")] == ["0", "1", "2"]
    assert [row[0] for row in table(of_a_command, "exit code")] == ["0", "1", "2", "130"]
    listed = [name for row in table(of_a_command, "command") for name in re.findall(r"`([a-z ]+)`", row[0])]
    assert sorted(listed) == sorted(name for name, _ in parsers(cli.parser()) if name != "relay")
