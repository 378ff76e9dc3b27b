"""What makes a function a kernel: compiled by Triton for its channels and options, whatever the image."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import triton

# Triton compiles a kernel anew where a count turns 1 or a multiple of 16. That pays for what tells the shape of a
# weight; the others change with every batch and image size, in a step by the hundred.
_COUNTS_OF_IMAGES = re.compile(
    r"(.*_)?(samples|groups|height|width|rows|columns|pixels|tiles|splits|programs|parts)\d?$"
)


def kernel(function: Callable[..., Any]) -> Any:
    """Return a function in Triton's language as a kernel that is compiled once for all batches and image sizes."""
    names = [name for name in inspect.signature(function).parameters if _COUNTS_OF_IMAGES.match(name)]
    return triton.jit(function, do_not_specialize=names)
