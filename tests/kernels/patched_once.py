"""Triton's interpreter without its largest cost, which is no computing: two fifths of the time of these tests.

While a kernel runs, functions of ``triton.language`` are replaced by interpreted ones. The interpreter replaces them
anew whenever the kernel calls another ``@triton.jit`` function, although it puts them back only when the kernel ends.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest


def patch_once_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls inside a kernel find the language as the kernel has patched it; Triton must be interpreting."""
    import triton.language as tl  # noqa: PLC0415 - Triton decides when it is imported
    from triton.runtime import interpreter  # noqa: PLC0415

    patch = interpreter._patch_lang
    patched: set[str] = set()

    @functools.cache
    def languages(function: Any) -> frozenset[str]:
        return frozenset(x.__name__ for x in function.__globals__.values() if x is tl or x is tl.core)

    def patch_what_is_not(function: Any) -> Any:
        if languages(function) <= patched:
            return interpreter._LangPatchScope()
        patched.update(languages(function))
        scope = patch(function)
        restore = scope.restore

        def restore_at_the_end() -> None:
            patched.clear()
            restore()

        scope.restore = restore_at_the_end  # only a kernel's own scope is restored
        return scope

    monkeypatch.setattr(interpreter, "_patch_lang", patch_what_is_not)
