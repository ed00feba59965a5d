"""The house: who may import whom, and the few rules that a reader relies on everywhere."""

import ast
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fireforget"
LONGEST_LINE = 130

FLOORS = {
    # Words: pure. A producer's process pays for nothing else before it opens a file, and everything may depend on them.
    0: "errors clock retry cron payload task enqueuer _shield _context _handler_limits _claimed _signatures",
    # The store: the only floor that knows SQL, so that a new schema is a change of these files.
    1: "_schema _sql _sql_find _sql_change _sql_queues _sql_inspect _db _rows _inserting _group_commit queue_sqlite _workers "
    "_settling _claims _dependencies _graphs _groups _effects _history _keys _limited _limits _schedules _backup _doctor",
    # The application's side: handlers and what producers call. Patterns depend on the Enqueuer protocol, never on the store.
    2: "job registry periodic middleware metrics logs patterns idempotency _daemons _submission_lanes _submission_calls "
    "_submission_logs _submissions inspector _inspect_access _inspect_change _inspect_facts _inspect_find _inspect_history "
    "_inspect_ids _inspect_workers _board_layout app _cli_parser",
    # Processes: heavy, loaded by workers alone.
    3: "_pool _pool.* worker _worker_flags",
    # Faces: what people and shells meet; nothing depends on them.
    4: "__init__ __main__ cli _cli_changes _cli_common _cli_completion _cli_cron _cli_dashboard _cli_file _cli_groups "
    "_cli_output _cli_queues _cli_stats _cli_tasks _cli_top _cli_workers _top dashboard _dashboard _dashboard.* demo _demo_app "
    "testing _conformance _cli_relay relay engines engines.*",
}
WITHOUT_A_DATABASE = (
    *("patterns", "_submissions", "_submission_lanes", "_submission_calls", "_submission_logs", "_daemons"),
    *("registry", "periodic", "middleware", "job"),
)


def test_the_page_of_the_architecture_shows_the_floors():
    """Each module stands there on its floor, those of one family by their pattern."""
    page = architecture()
    shown = {int(row[0]): row[1].split() for row in re.findall(r"(?m)^\| (\d) \| [^|]* \| ([^|]*) \|$", page)}
    for name in MODULES:
        family = name.partition(".")[0]
        if not name.startswith("__"):
            found = [floor for floor, names in shown.items() for each in names if fnmatchcase(family, each.strip("`"))]
            assert floor_of(name) in found, name


def test_the_drawing_of_the_architecture_has_the_imports_of_the_modules_on_the_way():
    """Each module that the walks name is drawn, on its floor, with all that it imports of the others and nothing else."""
    walks, _, rest = architecture().partition("## One job")[2].partition("## Who imports whom")
    walked = {name.replace("/", ".") for name in re.findall(r"`([\w/]+)`", walks)} & MODULES.keys()
    drawing = rest.partition("```text\n")[2].partition("```")[0].replace("/", ".")
    drawn, module, floor = {}, None, None
    for number, head, targets in re.findall(r"(?m)^(\d| ) +(?:([\w.]+) ─+► )?([\w. ]+)$", drawing):
        floor = int(number) if number.strip() else floor
        module = head or module  # a line may go on with what stood on the one above
        assert floor_of(module) == floor
        drawn.setdefault(module, set()).update(targets.split())
    arrows = {name: set(own_imports(name)) & walked - {name} for name in walked}
    assert drawn == {name: targets for name, targets in arrows.items() if targets}


def architecture():
    return (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def floor_of(name):
    for floor, names in FLOORS.items():
        if any(fnmatchcase(name, pattern) for pattern in names.split()):
            return floor
    raise AssertionError(f"{name} stands on no floor: give it one, with its reason")


def name_of(path):
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__") if "." in name else name


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def imports_of(path):
    """Return all modules that a file imports, inside functions too: a late import is an arrow all the same."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = {name for name in names if name.removeprefix("fireforget.") in MODULES}
            found |= inside or {node.module}
    return found


def own_imports(name):
    for target in imports_of(MODULES[name]):
        if target.partition(".")[0] == "fireforget":
            yield target.partition(".")[2] or "__init__"


@pytest.mark.parametrize("name", MODULES)
def test_a_file_imports_from_its_floor_or_below(name):
    """Floors can be understood, tested and replaced from below."""
    above = {target for target in own_imports(name) if floor_of(target) > floor_of(name)}
    assert not above, f"{name} (floor {floor_of(name)}) imports {above} from above"


def test_no_two_files_of_a_floor_need_each_other():
    """Without cycles each file can be read, and imported, by itself."""
    arrows = {name: set(own_imports(name)) - {name} for name in MODULES}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", MODULES)
def test_nothing_outside_the_standard_library_is_imported(name):
    """Runtime dependencies: none."""
    roots = {target.partition(".")[0] for target in imports_of(MODULES[name])}
    if name.startswith("engines."):  # an optional extra, which nothing else imports
        roots -= {name.removeprefix("engines.")}
    assert roots <= sys.stdlib_module_names | {"fireforget", "annotationlib"}  # which is the standard library's from 3.14 on


@pytest.mark.parametrize("name", WITHOUT_A_DATABASE)
def test_patterns_and_handlers_know_no_database(name):
    """That one arrow makes tests and other engines free."""
    assert not {target for target in own_imports(name) if floor_of(target) == 1}


def test_only_the_store_knows_sqlite():
    """Its errors, its types and its statements end there."""
    users = {name for name in MODULES if "sqlite3" in imports_of(MODULES[name])}
    assert {name for name in users if floor_of(name) != 1} <= {"_demo_app"}  # which shows what an application does


LIGHT = {
    "from fireforget import Registry, SqliteQueue, Task, fire_and_forget": "asyncio multiprocessing http argparse socket "
    "subprocess tempfile hashlib ssl curses",
    "import fireforget": "sqlite3 json logging asyncio multiprocessing http argparse",
    "import fireforget.worker": "asyncio multiprocessing http ssl curses unittest",
}


@pytest.mark.parametrize("statement", LIGHT)
def test_an_import_loads_no_more_than_it_takes(statement):
    """A producer is a small program that should start at once, and what a worker has loaded each of its processes has."""
    ask = f"{statement}\nimport sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) & set(LIGHT[statement].split()) == set()


# --- every file ---------------------------------------------------------------------------------------------------------


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def python_files():
    folders = ("fireforget", "tests", "bench", "examples")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def short(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", python_files(), ids=short)
def test_a_module_says_what_lives_in_it(path):
    """Its docstring is the first thing that a reader meets."""
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", python_files(), ids=short)
def test_no_line_is_too_long_to_read_beside_another(path):
    """Two files fit beside each other on a screen."""
    assert [number for number, line in enumerate(path.read_text().splitlines(), 1) if len(line) > LONGEST_LINE] == []


@pytest.mark.parametrize("path", [path for path in python_files() if path.name.startswith(("test_", "conftest"))], ids=short)
def test_tests_wait_for_events_not_for_time(path):
    """A pause is too short on a slow machine and too long on every other. (A handler that sleeps is material, not a pause.)"""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert [call.lineno for call in calls if ast.unparse(call) in ("time.sleep", "sleep")] == []


def test_no_file_speaks_of_the_machine_it_was_written_on():
    """Paths of one machine mean nothing on another."""
    places = ["/" + "work/", "/" + "root/", "/" + "home/"]
    speaking = [
        short(path)
        for path in tracked()
        for text in [path.read_bytes().decode(errors="replace")]
        if any(place in text for place in places)
    ]
    assert speaking == []
