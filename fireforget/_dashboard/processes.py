"""The processes of a worker and the memory they take, as the kernel tells it: no worker writes that into the database."""

import os
import socket
from pathlib import Path
from typing import Any

_MOST = 500  # processes of one worker


def of_worker(pid: int, host: str) -> list[dict[str, Any]] | None:
    """Return the processes below a worker's, its own first, each with its bytes of memory; None where the system does not tell.

    Only Linux tells, of this very machine, and not out of a container of its own. `shared_fairly` is whether a page that several
    processes have counts in each for its share only (PSS); otherwise it counts in each.
    """
    if host != socket.gethostname() or not os.path.isdir(f"/proc/{pid}"):
        return None
    found: list[dict[str, Any]] = []
    waiting = [pid]
    while waiting and len(found) < _MOST:
        at = waiting.pop(0)
        try:
            share = _share(at)
            resident = int(Path(f"/proc/{at}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
            children = Path(f"/proc/{at}/task/{at}/children").read_text(encoding="ascii").split()
        except (OSError, ValueError):
            continue  # it has ended meanwhile
        found.append({"pid": at, "bytes": resident if share is None else share, "shared_fairly": share is not None})
        waiting += [int(child) for child in children]
    return found or None


def _share(pid: int) -> int | None:
    """Return a process's proportional share of memory; None where only its own user may know."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)
