"""Settings for speed on a CPU, to be made before JAX's first computation (see benchmarks/RESULTS.md)."""

import contextlib
import ctypes
import importlib.util
import os
from importlib.metadata import entry_points

import jax

MOST_DEVICES = 8  # each holds a copy of the weights, and its slice of a batch shrinks


def use_all_cores(batch_size: int) -> None:
    """One JAX device per CPU core, so that all cores share a batch: XLA runs much of a program on one thread.

    The number of devices divides batch_size and is at most MOST_DEVICES. No effect if the user has set the number
    (xla_force_host_platform_device_count in XLA_FLAGS, or JAX_NUM_CPU_DEVICES), if JAX already computes, or on other
    platforms.
    """
    if (
        "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
        or getattr(jax.config, "jax_num_cpu_devices", -1) != -1
    ):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    devices = max(count for count in range(1, min(cores, MOST_DEVICES) + 1) if batch_size % count == 0)
    with contextlib.suppress(RuntimeError):  # JAX already runs, as in a notebook: its devices stay
        jax.config.update("jax_num_cpu_devices", devices)


def keep_freed_memory() -> None:
    """Makes glibc keep the memory that XLA frees: otherwise each step maps, zeroes and unmaps its scratch memory.

    The process stays at its peak memory. No effect without glibc, once JAX computes (its threads have arenas then), or
    where JAX has an accelerator: there the scratch memory is the device's, and the threads that compile would queue for
    the single arena.
    """
    if not _will_compute_on_cpu():
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8  # malloc.h
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, -1)
    mallopt(m_arena_max, 1)


def _will_compute_on_cpu() -> bool:
    """Told without asking JAX, whose answer starts its threads: by the platform that is chosen, else by the plugins
    that are installed. With a plugin but no accelerator JAX falls back to the CPU, and this says no; choose
    JAX_PLATFORMS=cpu there.
    """
    if platforms := getattr(jax.config, "jax_platforms", None):
        return platforms.split(",")[0] == "cpu"
    plugins = importlib.util.find_spec("jax_plugins") or entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None
