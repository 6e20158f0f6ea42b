"""The command, again and again, in processes that are forked from one which has imported all that it needs: they live,
are killed and end as any other process does, and begin in half the time.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import FAST_COMPILE


@dataclass
class Forked:
    """A command that runs: its process, and the files of what it says."""

    pid: int
    out: Path
    err: Path
    server: subprocess.Popen

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit status, or minus the signal that killed it, as subprocess has it. Once."""
        return int(self.server.stdout.readline())


@dataclass
class Server:
    process: subprocess.Popen

    def start(self, *arguments: str, cwd: Path) -> Forked:
        job = {"arguments": arguments, "cwd": str(cwd)}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        return Forked(pid, cwd / f"{pid}.out", cwd / f"{pid}.err", self.process)


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """It runs one command at a time."""
    environment = {**os.environ, "XLA_FLAGS": FAST_COMPILE, "JAX_NUM_CPU_DEVICES": "1", "PYTHONUTF8": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-m", "tests.forked"], encoding="utf-8", env=environment, **pipes)
    try:
        yield Server(process)
    finally:
        process.stdin.close()
        process.wait(60)


def serve() -> None:
    import sklearn.datasets  # noqa: F401

    import jdiff.modes.sample
    import jdiff.modes.train  # noqa: F401
    from jdiff.main import keep_background_quiet

    keep_background_quiet()
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            run(**job)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def run(arguments: list[str], cwd: str) -> None:
    """As `python -m jdiff.main` would in this process."""
    from jdiff.main import main

    os.chdir(cwd)
    for number, name in ((0, os.devnull), (1, f"{os.getpid()}.out"), (2, f"{os.getpid()}.err")):
        file = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
    sys.stdin.close()
    sys.exit(main(arguments))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    serve()
