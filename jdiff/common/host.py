"""Making the most of a CPU. Both settings must come before JAX's first computation (see benchmarks/RESULTS.md)."""

import contextlib
import ctypes
import os

import jax

MOST_DEVICES = 8  # each holds its own copy of the weights, and a batch is cut into ever thinner slices


def use_all_cores(batch_size: int) -> None:
    """One JAX device a core, so that a batch is computed by all of them: XLA runs much of a program on one thread.

    The number of devices divides batch_size and is at most MOST_DEVICES. Nothing is changed where the user has set the
    number (XLA_FLAGS' xla_force_host_platform_device_count, JAX_NUM_CPU_DEVICES), where JAX has begun to compute
    already, and on other platforms than the CPU.
    """
    if (
        "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
        or getattr(jax.config, "jax_num_cpu_devices", -1) != -1
    ):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    devices = max(count for count in range(1, min(cores, MOST_DEVICES) + 1) if batch_size % count == 0)
    with contextlib.suppress(RuntimeError):  # JAX runs already, in a notebook: its devices stay
        jax.config.update("jax_num_cpu_devices", devices)


def keep_freed_memory() -> None:
    """Let glibc keep what XLA frees: else each step's scratch memory is mapped, zeroed and unmapped anew.

    The process stays at its peak of memory. Nothing happens without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8  # malloc.h
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, -1)
    mallopt(m_arena_max, 1)
