"""The command, with a process taken for dead after 8 seconds and 5 to meet the others; by JDIFF_TEST_WRITTEN, a file
that gets a line for each one that the process opens to write, or renames or makes.
"""

import os
import runpy
import sys

from jdiff.common import distributed

distributed.HEARTBEAT_S = int(os.environ.get("JDIFF_TEST_HEARTBEAT", "8"))
distributed.PATIENCE_S = int(os.environ.get("JDIFF_TEST_PATIENCE", "60"))


def note(event: str, arguments: tuple) -> None:
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        written(arguments[0])
    elif event in ("os.mkdir", "os.rename"):
        written(str(arguments[event == "os.rename"]))


def written(path: str) -> None:
    if not busy:
        busy.append(True)
        with open(os.environ["JDIFF_TEST_WRITTEN"], "a") as lines:
            lines.write(os.path.abspath(path) + "\n")
        busy.clear()


if __name__ == "__main__":
    busy: list[bool] = []
    if "JDIFF_TEST_WRITTEN" in os.environ:
        sys.addaudithook(note)
    runpy.run_module("jdiff.main", run_name="__main__", alter_sys=True)
