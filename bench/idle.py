"""What an idle worker costs in 30 s: bytes that reach the disk, and CPU time, of all its processes together.

Bytes are `write_bytes` of /proc/PID/io. CPU time is each process's own clock, exact to nanoseconds; the ticks of
/proc/PID/stat, which lose up to 10 ms a process, stand beside it.
"""

import os
import sys
import time
from pathlib import Path

import _common as common

SETTLE_SECONDS = 3.0
"""After the last job: the looks that follow a notice are over, and the metrics are written."""
MOST_CPU_MS = 30.0


def written(pid: int) -> int:
    """Return the bytes that a process has caused to be written to the disk."""
    lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(lines["write_bytes"])


def cpu_ms_exact(pid: int) -> float:
    """Return the CPU time of a process, in milliseconds."""
    return common.cpu_seconds([pid]) * 1000


def cpu_ms_in_ticks(pid: int) -> float:
    """Return user and system time of a process, in milliseconds, as /proc/PID/stat has it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def main() -> None:
    given = common.arguments(__doc__, seconds=(30, 5))
    if not Path("/proc/self/io").exists():
        sys.exit("idle: this needs /proc, which this system has not")
    with common.folder() as folder:
        path = folder / "jobs.db"
        common.store(path, 1)
        with common.worker(path, "--metrics-interval", "1") as process:
            common.run_some(path, 200)
            time.sleep(SETTLE_SECONDS)
            pids = common.processes_of(process.pid)
            before = [[measure(pid) for pid in pids] for measure in (written, cpu_ms_exact, cpu_ms_in_ticks)]
            time.sleep(given.seconds)
            after = [[measure(pid) for pid in pids] for measure in (written, cpu_ms_exact, cpu_ms_in_ticks)]
    wrote, exact, ticks = [sum(b) - sum(a) for a, b in zip(before, after, strict=True)]
    each = [round(b - a, 2) for a, b in zip(before[1], after[1], strict=True)]
    most = MOST_CPU_MS * given.seconds / 30
    figures = [
        common.figure("written to the disk", wrote, unit="bytes", reach="0", reached=wrote == 0),
        common.figure(
            f"CPU in {given.seconds} s", exact, unit="ms", reach=f"at most {most:g} ms", reached=(exact or ticks) <= most
        ),
        common.figure(f"CPU in {given.seconds} s, in ticks", ticks, unit="ms"),
    ]
    common.report("idle", figures, seconds=given.seconds, processes=len(pids), cpu_ms_of_each=each)


if __name__ == "__main__":
    main()
