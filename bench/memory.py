"""What a whole worker with two children takes in memory, after it has run a few jobs.

Counted is PSS (/proc/PID/smaps_rollup): each page divided by the processes that have it. Pages of the interpreter that other
Python programs use at the same time would be divided by those too, so what is shared outside the worker is said beside it.
"""

import sys
from pathlib import Path

import _common as common

MOST_MIB, MOST_MIB_OF_A_CHILD = 45, 12
RUN_BEFORE = 500


def rollup(pid: int) -> dict[str, float]:
    """Return the memory of a process, in MiB, by kind."""
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    return {name.rstrip(":"): int(kib) / 1024 for name, kib, *_ in lines}


def main() -> None:
    common.arguments(__doc__)
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("memory: this needs /proc, which this system has not")
    with common.folder() as folder:
        path = folder / "jobs.db"
        common.store(path, 1)
        with common.worker(path) as process:
            common.run_some(path, RUN_BEFORE)
            pids = common.processes_of(process.pid)
            memory = [rollup(pid) for pid in pids]
    pss = [each["Pss"] for each in memory]
    children = pss[-2:]
    anonymous = sum(each["Pss_Anon"] for each in memory)
    figures = [
        common.figure("a worker with two children, PSS", sum(pss), unit="MiB", reach="below 45", reached=sum(pss) < MOST_MIB),
        common.figure("a child, PSS, the larger", max(children), unit="MiB", reach="at most 12",
                      reached=max(children) <= MOST_MIB_OF_A_CHILD),
        common.figure("of that not backed by files", anonymous, unit="MiB"),
    ]  # fmt: skip
    others = [pid for pid in Path("/proc").iterdir() if pid.name.isdecimal() and _is_python(pid)]
    common.report(
        "memory", figures, processes=len(pids), pss_mib=[round(each, 1) for each in pss], pythons_beside=len(others) - 1
    )


def _is_python(process: Path) -> bool:
    try:
        return "python" in process.joinpath("exe").readlink().name
    except OSError:
        return False


if __name__ == "__main__":
    main()
