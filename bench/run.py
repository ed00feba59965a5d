"""Measure every figure, beside the peers, and write docs/benchmarks.md.

Makes an environment of its own in .venv-bench, installs the peers there by name, runs the programs of this folder one after the
other, and writes what they print as a dated table, with the machine and the commands. A peer that cannot be installed is said and
left out. With --only or --quick the table is printed and the document is left alone. With --times 3 what has a figure to reach is
measured in three passes, one after the other; a figure is reached when it is in each of them.
"""

import argparse
import datetime
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv-bench"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
PROGRAMS = (
    "drain", "fire_and_forget", "enqueue", "pickup", "contention", "million", "flat", "idle", "memory", "replacement", "imports",
    "log_level", "dashboard", "asynq_four", "peers",
)  # fmt: skip
ONCE = ("asynq_four", "peers")
"""Programs without a figure to reach: they compare, and take long."""
PEERS = ("huey", "persist-queue", "litequeue", "redis", "rq", "dramatiq", "celery packaging")
"""What is installed, each by itself; celery needs packaging, and does not say so."""


def main() -> int:
    given = _arguments()
    python = make_environment() if not given.here else Path(sys.executable)
    names = given.only or PROGRAMS
    passes = [[run(python, name, given.quick) for name in names if turn == 0 or name not in ONCE] for turn in range(given.times)]
    results = [together([result for one in passes for result in one if result["name"] == name]) for name in names]
    text = document(results, python, given.quick, given.times)
    if given.only or given.quick:
        print(text)
    else:
        DOCUMENT.write_text(text, encoding="utf-8")
        print(f"bench: wrote {DOCUMENT.relative_to(ROOT)}", file=sys.stderr)
    return 0 if all(result["figures"] for result in results) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", action="append", choices=PROGRAMS, metavar="NAME", help=f"one of {', '.join(PROGRAMS)}; again for more"
    )
    parser.add_argument("--quick", action="store_true", help="small numbers: to see that all of it works, not to quote")
    parser.add_argument(
        "--times", type=int, default=1, metavar="N", help="measure what has a figure to reach N times (default: 1)"
    )
    parser.add_argument("--here", action="store_true", help="with this interpreter and what it has installed, not in .venv-bench")
    return parser.parse_args()


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


# --- the environment ----------------------------------------------------------------------------------------------------


def make_environment() -> Path:
    """Make .venv-bench, with the peers that can be had; return its interpreter."""
    python = VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    for peer in PEERS:
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.split()]
        if subprocess.run(command, check=False, stdout=sys.stderr, stderr=subprocess.DEVNULL).returncode != 0:
            say(f"{peer} cannot be installed: it is left out")
    return python


# --- running ------------------------------------------------------------------------------------------------------------


def run(python: Path, name: str, quick: bool) -> dict[str, Any]:
    """Run a program and return its line; what it could not do is its `failure`."""
    say(f"{name} ...")
    began = time.monotonic()
    done = subprocess.run(
        [python, str(ROOT / "bench" / f"{name}.py"), *(["--quick"] if quick else [])],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        say(f"{name} failed with exit code {done.returncode}")
        return {"name": name, "figures": [], "reached": False, "settings": {"exit code": done.returncode}}
    print(lines[-1], flush=True)
    say(f"{name} took {time.monotonic() - began:.0f} s")
    return json.loads(lines[-1])


def together(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the results of one program in several passes as one: the pass in the middle, and how far the others are from it."""
    results = [result for result in results if result["figures"]] or results[:1]
    figures = []
    for several in zip(*(result["figures"] for result in results), strict=True):
        ordered = sorted(several, key=_measured)
        figure = dict(ordered[len(ordered) // 2])
        figure["spread"] = [_measured(ordered[0]), _measured(ordered[-1])] if len(ordered) > 1 else None
        figure["reached"] = None if figure["reached"] is None else all(one["reached"] for one in several)
        figures.append(figure)
    return {**results[-1], "figures": figures}


def _measured(figure: dict[str, Any]) -> float:
    """Return what a figure is about: its ratio, or else the value."""
    return next((value for value in (figure["ratio"], figure["ours"], figure["reference"]) if value is not None), 0.0)


# --- the document -------------------------------------------------------------------------------------------------------

HEAD = """# Benchmarks

Measured on {date}{quick}. This page is written by a program; the numbers are of {passes} on one machine.

| machine | |
|---|---|
{machine}

Ours and the reference take turns; the numbers are medians of the rounds, and a ratio is the median of the rounds'
ratios. {spread}Absolute numbers depend on the machine and its disk, ratios much less so. "Reached" compares with the
figure that this project has set itself; without one, a line is there to compare.

To measure again, all of it or one program:

<!-- not run: it takes a quarter of an hour -->
```sh
make bench
make bench TIMES=3
python bench/run.py --only drain
python bench/drain.py --quick
```

The programs are in [bench](../bench/run.py), each with what it measures at its top. `TMPDIR` says on which disk.
"""


SPREAD = """In brackets are the lowest and the highest of the {passes}: of the ratio, or of our value where there is no ratio.
What is reached was reached in each. """


def document(results: list[dict[str, Any]], python: Path, quick: bool, times: int) -> str:
    """Return the page."""
    note = ", with small numbers: not to quote" if quick else ""
    machine = "\n".join(f"| {name} | {value} |" for name, value in describe_machine(python).items())
    passes = "one run" if times == 1 else f"{times} runs"
    spread = "" if times == 1 else SPREAD.format(passes=passes)
    head = HEAD.format(date=datetime.date.today().isoformat(), quick=note, machine=machine, passes=passes, spread=spread)
    return head + "".join(_section(result) for result in results)


def _section(result: dict[str, Any]) -> str:
    lines = [f"\n## {result['name'].replace('_', ' ')}\n"]
    if not result["figures"]:
        return "\n".join([*lines, "Could not be measured.\n"])
    lines += ["| what | ours | reference | ratio | to reach | reached |", "|---|---|---|---|---|---|"]
    lines += [_row(figure) for figure in result["figures"]]
    settings = ", ".join(
        f"{name.replace('_', ' ')} {_text(value)}" for name, value in result["settings"].items() if value not in (None, [])
    )
    return "\n".join([*lines, "", f"With {settings}.\n" if settings else ""])


def _row(figure: dict[str, Any]) -> str:
    unit = f" {figure['unit']}" if figure["unit"] else ""
    ours = "" if figure["ours"] is None else f"{_number(figure['ours'])}{unit}"
    reference = "" if figure["reference"] is None else f"{_number(figure['reference'])}{unit}"
    if figure["reference_is"]:
        reference += f" ({figure['reference_is']})"
    ratio = "" if figure["ratio"] is None else _number(figure["ratio"])
    if figure["spread"]:
        spread = " ({} to {})".format(*map(_number, figure["spread"]))
        ours, ratio = (ours + spread, ratio) if figure["ratio"] is None else (ours, ratio + spread)
    reached = {True: "yes", False: "**no**", None: ""}[figure["reached"]]
    return f"| {figure['what']} | {ours} | {reference} | {ratio} | {figure['figure'] or ''} | {reached} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:g}"


def _text(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def describe_machine(python: Path) -> dict[str, str]:
    """Return what the numbers depend on."""
    ask = "import platform, sqlite3; print(platform.python_version(), sqlite3.sqlite_version)"
    version, sqlite = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    return {
        "processor": _cpu_model(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": version,
        "SQLite": sqlite,
        "commit of one row, synced": f"{_commit_seconds() * 1000:.2f} ms",
        "load at the end (1 min)": f"{os.getloadavg()[0]:.1f}",
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit_seconds() -> float:
    """Return the median time of a commit that waits for the disk, where the temporary files are."""
    times = []
    with tempfile.TemporaryDirectory(prefix="fireforget-bench-") as folder:
        connection = sqlite3.connect(Path(folder) / "commit.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE t (n INTEGER)")
        for n in range(200):
            began = time.perf_counter()
            connection.execute("INSERT INTO t VALUES (?)", (n,))
            times.append(time.perf_counter() - began)
        connection.close()
    return sorted(times)[len(times) // 2]


if __name__ == "__main__":
    sys.exit(main())
