"""Windows of pixels that one program computes together, and the inputs that they read.

A window is one of

* ``rows x columns`` pixels that lie ``dilation`` apart, so that they share inputs. Windows then come in groups of
  ``dilation`` along each axis: window i starts at row i // dilation * dilation * WINDOW + i % dilation;
* the four pixels (2 i + p, 2 j + q) that one small pixel spreads to, where a source is upsampled;
* the four pixels of which the maximum is written.
"""

import triton
import triton.language as tl


@triton.jit
def window_start(index, dilation, WINDOW: tl.constexpr):
    """Return the first row (or column) of the windows ``index``."""
    if WINDOW == 1:
        start = index
    else:
        start = index // dilation * (dilation * WINDOW) + index % dilation
    return start


@triton.jit
def first_input_pixel(index, start, stride, dilation, TAPS: tl.constexpr, UPSAMPLE: tl.constexpr):
    """Return the row (or column) of a source under the first tap of the windows' first position.

    An upsampled source is read by two taps for each parity, from one small pixel before on.
    """
    if UPSAMPLE:
        first = index - (TAPS - 1)
    else:
        first = start * stride - dilation * (TAPS // 2)
    return first


@triton.jit
def select(branch, VALUES: tl.constexpr, DTYPE: tl.constexpr):
    """Return element ``branch`` of a tuple of constants."""
    value = tl.full((), VALUES[0], DTYPE)
    for k in tl.static_range(1, len(VALUES)):
        value = tl.where(branch == k, tl.full((), VALUES[k], DTYPE), value)
    return value
