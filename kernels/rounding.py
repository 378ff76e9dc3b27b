"""Integers rounded up, for launchers: Triton's own functions are made for kernels and slow to call from Python."""

from __future__ import annotations


def cdiv(count: int, block: int) -> int:
    """Return how many blocks cover ``count``."""
    return -(-count // block)


def next_power_of_2(count: int) -> int:
    """Return the smallest power of 2 that is at least ``count``."""
    return 1 << (count - 1).bit_length()
