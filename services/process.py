"""How a process uses memory and threads."""

import ctypes
import gc
import os
import sys

_M_TRIM_THRESHOLD = -1
_M_ARENA_MAX = -8
"""Parameters of mallopt(3), from glibc's malloc.h."""


def limit_library_threads() -> None:
    """Keep OpenMP and OpenBLAS from starting threads, which compete with the engines' own.

    To be called before they are imported. Counts that the environment sets are left alone.
    """
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


def limit_arenas() -> None:
    """Keep freed memory from staying with the process.

    glibc gives each thread an arena of its own, whose freed pages the next call cannot use: six
    calls one after another grew a stock bot from 166 to 778 MB. Two arenas and a low trim threshold
    give the memory back. Values that the environment sets are left alone.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    if "MALLOC_ARENA_MAX" not in os.environ:
        libc.mallopt(_M_ARENA_MAX, 2)
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        libc.mallopt(_M_TRIM_THRESHOLD, 128 * 1024)


def freeze_garbage() -> None:
    """Take everything that lives as long as the process out of the garbage collector's sight.

    Call it when the models are loaded. A collection then looks at the calls' objects alone, and
    does not hold the event loop up for the tens of milliseconds that a walk over every imported
    module costs.
    """
    gc.collect()
    gc.freeze()


def trim_memory() -> None:
    """Give the pages of what was freed back to the system. Blocks for some milliseconds."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
