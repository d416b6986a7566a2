"""Memory that a step frees is kept for the next one: with glibc as it comes, half a gigabyte goes back to the system and is asked for again in every step."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 1 << 30
"""Bytes of one allocation; larger ones do go back."""
USUAL = 32 << 20
"""What glibc itself raises the threshold to at most."""


@contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """Keep what is freed inside of ``with`` in this process, and give it back at the end; False where there is no glibc, and nothing happens.

    Every page that the system gives is filled with zeros at its first use, which took a fifth of the CPU time of steps of small models
    (`benchmarks/training_speed.py`, with MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ or without).
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        set_option, give_back = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):  # another system, or another C library
        yield False
        return
    set_option(M_TRIM_THRESHOLD, -1)
    set_option(M_MMAP_THRESHOLD, LARGEST)
    try:
        yield True
    finally:
        set_option(M_MMAP_THRESHOLD, USUAL)
        set_option(M_TRIM_THRESHOLD, 2 * USUAL)
        give_back(0)
