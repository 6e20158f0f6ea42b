"""Several processes as one run, by jax.distributed: how they find each other, and how all end when one has died.

JAX's runtime learns of another process's death by heartbeats or by a closed connection. It then aborts this process
(SIGABRT) from a thread of its own, with pages on stderr, whatever Python would rather do. So what native code writes on
file descriptor 2 goes to a file, and a handler of SIGABRT ends the process in one line. Free of JAX until it is asked.
"""

import contextlib
import ctypes
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from jdiff.common.errors import UserError, first_line

HEARTBEAT_S = 30  # a process that has not been heard of for so long is dead
PATIENCE_S = 300  # for all processes to meet
ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # what JAX reads
FATAL = "JAX distributed service detected fatal errors"  # in what JAX's runtime says before it aborts

_together = threading.Event()  # the processes have met
_kept: list[Any] = []  # the handler that C calls


@dataclass(frozen=True)
class Place:
    """This process among the others. None: not said, which JAX finds out from Slurm, Open MPI or Kubernetes.

    coordinator: HOST:PORT of the first process, which opens that port. local_device: the only one that it may see.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    local_device: int | None = None

    @property
    def missing(self) -> dict[str, str]:
        """What is not said -> how to say it."""
        ways = {
            "the first process's address": (self.coordinator, f"{ADDRESS}=HOST:PORT (or machine.coordinator)"),
            "the number of processes": (self.processes, f"{COUNT} (or machine.processes)"),
            "this process's index": (self.process, f"{INDEX} (or machine.process)"),
        }
        return {what: way for what, (value, way) in ways.items() if value is None}


def place(machine: Any, environment: Mapping[str, str]) -> Place:
    """What config.machine says, or else the environment. JAX itself reads ADDRESS alone of these variables, and knows
    Open MPI up to version 4. Raises UserError where a value is wrong.
    """

    def number(names: tuple[str, ...], *, least: int) -> tuple[str, int | None]:
        name = next((name for name in names if environment.get(name)), "")
        if not name:
            return "", None
        if not environment[name].strip().isdigit() or int(environment[name]) < least:
            raise UserError(f"{name}={environment[name]!r} must be a whole number, at least {least}")
        return name, int(environment[name])

    coordinator = machine.coordinator or environment.get(ADDRESS) or None
    count_name, processes = number((COUNT, "OMPI_COMM_WORLD_SIZE"), least=1)
    index_name, process = number((INDEX, "OMPI_COMM_WORLD_RANK"), least=0)
    if machine.processes:
        count_name, processes = "machine.processes", machine.processes
    if machine.process >= 0:
        index_name, process = "machine.process", machine.process
    if coordinator and not re.fullmatch(r".+:\d{1,5}", coordinator):
        name = "machine.coordinator" if machine.coordinator else ADDRESS
        raise UserError(f"{name}={coordinator!r} must be HOST:PORT, such as node1:1234")
    if processes is not None and process is not None and process >= processes:
        raise UserError(f"{index_name}={process} must be below {count_name}={processes}: the first process is 0")
    _, local = number(("OMPI_COMM_WORLD_LOCAL_RANK",), least=0)
    return Place(coordinator, processes, process, None if environment.get("JAX_LOCAL_DEVICE_IDS") else local)


def join(machine: Any, *, debug: bool) -> None:
    """Meet the other processes. debug: what native code says stays on stderr, and its abort is an abort.

    Raises UserError where it is not known who they are.
    """
    import jax

    here = place(machine, os.environ)
    if here.process == 0 and here.coordinator:
        _check_port(here.coordinator)
    # JAX's own handler of SIGTERM; training has one, which asks the other processes, too.
    jax.config.update("jax_enable_preemption_service", False)
    if not debug:
        _end_in_a_line(here)
    meet = partial(
        jax.distributed.initialize,
        here.coordinator,
        here.processes,
        here.process,
        local_device_ids=here.local_device,
        # Nothing is left to be found out; Kubernetes, for one, would ask for a library to do so.
        cluster_detection_method=None if here.missing or "SLURM_LOCALID" in os.environ else "deactivate",
        initialization_timeout=PATIENCE_S,
        heartbeat_timeout_seconds=HEARTBEAT_S,
    )
    try:
        with ThreadPoolExecutor(1) as thread:  # the main one answers signals while it waits
            thread.submit(meet).result()
    except Exception as error:
        if here.missing and isinstance(error, ValueError):
            raise UserError(_not_known(here, os.environ)) from error
        raise UserError(
            f"machine.distributed=True: the other processes cannot be found: {first_line(error)}; "
            f"set {ADDRESS}=HOST:PORT, {COUNT} and {INDEX}"
        ) from error
    _together.set()


def _not_known(here: Place, environment: Mapping[str, str]) -> str:
    hint = ""
    if "SLURM_JOB_ID" in environment:
        lacking = [name for name in SLURM if name not in environment]
        hint = f" (this is a Slurm job without {', '.join(lacking)}: start the command by srun)" if lacking else ""
    elif "OMPI_COMM_WORLD_RANK" in environment:
        hint = f" (Open MPI 5 does not tell it: mpirun -x {ADDRESS}=HOST:PORT)"
    elif "KUBERNETES_SERVICE_HOST" in environment and find_spec("kubernetes") is None:
        hint = ' (in Kubernetes, JAX finds them after pip install "jax[k8s]")'
    return (
        f"machine.distributed=True needs {', '.join(here.missing)}{hint}: set {', '.join(here.missing.values())}, or "
        "start the command by srun or mpirun"
    )


def _check_port(coordinator: str) -> None:
    """Raises UserError where the first process cannot open its port: JAX would end in a segmentation fault."""
    port, both = int(coordinator.rpartition(":")[2]), socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"the first process cannot open port {port} of {coordinator}: {why}; give another one to all processes "
            f"({ADDRESS} or machine.coordinator)"
        ) from error


def _end_in_a_line(here: Place) -> None:
    """From now on native code's stderr goes to a file; an abort by JAX's runtime ends in a line and status 1, any other
    abort as ever, with what was written.
    """
    try:
        libc = ctypes.CDLL(None)
        set_handler = libc.signal
    except (AttributeError, OSError, TypeError):
        return
    terminal = os.dup(2)
    sys.stderr.flush()
    sys.stderr = open(  # noqa: SIM115
        terminal, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace", closefd=False
    )
    written = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the process lives
    os.dup2(written.fileno(), 2)

    def aborted(number: int) -> None:
        said = os.pread(written.fileno(), 2**20, 0).decode(errors="replace")
        if FATAL not in said:
            os.dup2(terminal, 2)
            os.write(2, said.encode())
            return  # to the abort
        line = _lost(said) if _together.is_set() else _did_not_meet(said, here)
        os.write(terminal, f"jdiff: {line}\n".encode())
        os._exit(1)

    set_handler.restype = ctypes.c_void_p
    _kept.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted))
    set_handler(signal.SIGABRT, _kept[-1])


def _lost(said: str) -> str:
    """The line of a run that has lost a process; the coordinator, which is the first, names all but itself."""
    named = re.search(r"stopped sending heartbeats\):\s*([\d, ]+)", said)
    return (
        f"process {named[1].strip() if named else '0'} has ended or cannot be reached (its own output says why), so "
        "this one ends too; started again, on any number of processes, training goes on from its last checkpoint"
    )


def _did_not_meet(said: str, here: Place) -> str:
    if "newer incarnation" in said:
        return f"two processes say that they are process {here.process}: give each its own index ({INDEX})"
    where = f" at {here.coordinator}" if here.coordinator else ""
    return (
        f"{here.processes or 'the'} processes did not meet{where} within {PATIENCE_S} s: start all of them, each with "
        f"its own index ({INDEX} or machine.process), and give the first one's address as the others reach it "
        f"({ADDRESS} or machine.coordinator)"
    )


def wait_for_verdict() -> None:
    """After an error among several processes: wait until JAX would have told that another has died, which ends this one
    too. What comes back is an error of this process's own.
    """
    if _together.is_set():
        time.sleep(HEARTBEAT_S * 1.5)


def leave(status: int) -> int:
    """`status`; one of several processes ends here, at once: at exit it would wait for the others, as they for it."""
    if _together.is_set():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        os._exit(status)
    return status
