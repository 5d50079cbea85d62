"""Processes of the Ray cluster that a test has started, to be killed."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable


def workers() -> list[int]:
    """Process ids of the cluster that this process has started, those that work."""
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listing.splitlines()]
    parents = {int(row[0]): int(row[1]) for row in rows}

    def is_ours(process: int) -> bool:
        return process == os.getpid() or (process in parents and is_ours(parents[process]))

    return [int(row[0]) for row in rows if len(row) == 3 and "ray::MapWorker" in row[2] and is_ours(int(row[0]))]


class WorkerKiller(threading.Thread):
    """SIGKILLs a worker once something has happened; `killed` has its process id."""

    def __init__(self, has_begun: Callable[[], bool]) -> None:
        super().__init__(daemon=True)
        self.has_begun, self.killed = has_begun, []
        self.start()

    def run(self) -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until and not self.killed:
            if self.has_begun():
                for worker in workers():
                    os.kill(worker, signal.SIGKILL)
                    self.killed.append(worker)
                    return
            time.sleep(0.02)
