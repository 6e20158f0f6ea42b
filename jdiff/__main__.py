"""The command as `jdiff`, the console script, and as `python -m jdiff`.

It is `python -m jdiff.main` to the letter: a data worker imports the main module anew, by the name that it was run by,
and must find that one, which hides JAX from it.
"""

import runpy


def command() -> None:
    """Run `python -m jdiff.main` with this process's arguments."""
    runpy.run_module("jdiff.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    command()
