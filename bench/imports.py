"""How much longer an interpreter takes with `import fireforget` than without, and with the names that a producer uses."""

import subprocess
import sys
import time

import _common as common

MOST_MS = 40
STATEMENTS = {
    "bare": "pass",
    "import fireforget": "import fireforget",
    "a producer's names": "from fireforget import SqliteQueue, Task, fire_and_forget",
    "a worker's module": "import fireforget.worker",
}


def run(statement: str) -> float:
    """Return the milliseconds of an interpreter that runs one statement."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], env=common.environment(), check=True)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    given = common.arguments(__doc__, rounds=(40, 10))
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for name in STATEMENTS:
        run(STATEMENTS[name])  # writes the bytecode
    for _ in range(given.rounds):
        for name, statement in STATEMENTS.items():
            times[name].append(run(statement))
    figures = [_figure(name, times) for name in STATEMENTS if name != "bare"]
    common.report("imports", figures, rounds=given.rounds, bare_ms=round(common.median(times["bare"]), 1))


def _figure(name: str, times: dict[str, list[float]]) -> dict[str, object]:
    more = common.median(with_it - bare for with_it, bare in zip(times[name], times["bare"], strict=True))
    judged = name != "a worker's module"
    return common.figure(
        f"{name}: more than a bare interpreter", more, unit="ms", reach="at most 40" if judged else None,
        reached=more <= MOST_MS if judged else None,
    )  # fmt: skip


if __name__ == "__main__":
    main()
