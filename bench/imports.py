"""How much longer an interpreter takes with `import fireforget` than without, and with the names that a producer uses.

Bytecode is kept in a folder of its own, as an installed package's is, whatever the environment says: what is measured is loading,
not compiling.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path

import _common as common

MOST_MS = 40
STATEMENTS = {
    "bare": "pass",
    "import fireforget": "import fireforget",
    "a producer's names": "from fireforget import SqliteQueue, Task, fire_and_forget",
    "a worker's module": "import fireforget.worker",
}


def run(statement: str, bytecode: Path) -> tuple[float, float]:
    """Return the milliseconds of an interpreter that runs one statement: elapsed, and of CPU."""
    environment = common.environment(PYTHONPYCACHEPREFIX=str(bytecode))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before, began = _cpu_of_children(), time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], env=environment, check=True)
    elapsed = time.perf_counter() - began
    return elapsed * 1000, (_cpu_of_children() - before) * 1000


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    given = common.arguments(__doc__, rounds=(40, 10))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in STATEMENTS}
    with common.folder() as bytecode:
        for statement in STATEMENTS.values():
            run(statement, bytecode)
        for _ in range(given.rounds):
            for name, statement in STATEMENTS.items():
                times[name].append(run(statement, bytecode))
    figures = [figure for name in STATEMENTS if name != "bare" for figure in _figures(name, times)]
    common.report("imports", figures, rounds=given.rounds, bare_ms=round(common.median(ms for ms, _ in times["bare"]), 1))


def _figures(name: str, times: dict[str, list[tuple[float, float]]]) -> list[dict[str, object]]:
    more, cpu = [
        common.median(mine[at] - bare[at] for mine, bare in zip(times[name], times["bare"], strict=True)) for at in (0, 1)
    ]
    judged = name != "a worker's module"
    reach, reached = ("at most 40", more <= MOST_MS) if judged else (None, None)
    return [
        common.figure(f"{name}: more than a bare interpreter", more, unit="ms", reach=reach, reached=reached),
        common.figure(f"{name}: CPU more than a bare interpreter", cpu, unit="ms"),
    ]


if __name__ == "__main__":
    main()
