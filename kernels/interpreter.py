"""Whether kernels run on CPU tensors: interpreted by Triton, or compiled for a driver that takes them."""

from __future__ import annotations

import triton

# Read when Triton is imported, as Triton does. The interpreter computes bfloat16 wrongly: kernels widen operands there.
INTERPRETED: bool = triton.knobs.runtime.interpret


def runs_on_the_cpu() -> bool:
    """Return whether kernels accept CPU tensors in this process."""
    if INTERPRETED:
        return True
    try:
        driver = triton.runtime.driver.active
        driver.get_current_device()
        return bool(driver.get_active_torch_device().type == "cpu")
    except RuntimeError:  # there is no driver, or it has no device
        return False
