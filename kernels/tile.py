"""Loads and stores of tiles, masked only where a tile is not complete."""

import triton
import triton.language as tl


@triton.jit
def load_block(pointer, mask, EXACT: tl.constexpr):
    """Load a tile; elements outside ``mask`` are 0. EXACT says that there are none."""
    if EXACT:
        value = tl.load(pointer)
    else:
        value = tl.load(pointer, mask=mask, other=0.0)
    return value


@triton.jit
def store_block(pointer, value, mask, EXACT: tl.constexpr):
    """Store a tile inside ``mask``. EXACT says that all of it is."""
    if EXACT:
        tl.store(pointer, value)
    else:
        tl.store(pointer, value, mask=mask)


@triton.jit
def load_vector(pointer, index, end, EXACT: tl.constexpr):
    """Load elements ``index`` of a vector; those from ``end`` on are 0. EXACT says that there are none."""
    return load_block(pointer + index, index < end, EXACT)
