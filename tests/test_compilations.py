"""How many kernels Triton compiles anew for another batch or image size."""

from __future__ import annotations

import pytest

from benchmarks.compile_matrix_variants import record_variants

BATCH, SIZE = 8, 256
# Of some 160 kernels of a training step, an evaluation and a folded pass.
MOST_FOR_A_BATCH, MOST_FOR_A_SIZE = 10, 60


def variants(batch: int, size: int) -> set[str]:
    """Return what Triton compiles for a batch of images."""
    found = record_variants("cuda", ["bfloat16"], batch, size)
    return {repr((v.module, v.name, v.signature, v.constants, v.attributes, v.options)) for v in found}


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Return what was compiled before."""
    return variants(BATCH, SIZE)


@pytest.mark.parametrize("batch", [1, 5, 16])
def test_another_batch(batch: int, known: set[str]) -> None:
    assert len(variants(batch, SIZE) - known) <= MOST_FOR_A_BATCH


@pytest.mark.parametrize("size", [224, 352, 512])
def test_another_image_size(size: int, known: set[str]) -> None:
    assert len(variants(BATCH, size) - known) <= MOST_FOR_A_SIZE


def test_after_one_size_with_incomplete_tiles_another_one_needs_few(known: set[str]) -> None:
    assert len(variants(BATCH, 232) - known - variants(BATCH, 200)) <= MOST_FOR_A_BATCH
