"""What is wrong with compiled code: spills, too much memory, no tensor cores, narrow accesses to images."""

from __future__ import annotations

from benchmarks.compile_matrix_accesses import UNKNOWN
from benchmarks.compile_matrix_code import Code, compile_variant
from benchmarks.compile_matrix_targets import Target
from benchmarks.compile_matrix_variants import Variant

TENSOR_CORE_CHANNELS = 16
TENSOR_MEMORY_COLUMNS = 512


def find_problems(variant: Variant, target: Target, code: Code) -> list[str]:
    """Return what is wrong with a variant's code, in words.

    Args:
        variant: what was compiled.
        target: what for.
        code: the result.
    """
    problems = []
    if code.spill_bytes:
        problems.append(f"spills {code.spill_bytes} bytes")
    if code.shared_bytes > target.shared_of_program:
        problems.append(f"{code.shared_bytes} bytes of shared memory, {target.shared_of_program} is the most")
    if code.tensor_memory > TENSOR_MEMORY_COLUMNS:
        problems.append(f"{code.tensor_memory} columns of tensor memory, {TENSOR_MEMORY_COLUMNS} is the most")
    if code.has_product and variant.channels >= TENSOR_CORE_CHANNELS and not code.tensor_instructions:
        problems.append("no tensor-core instruction")
    for parameter, vector in variant.image_bytes.items():
        # AMD's matrix instructions leave four neighbouring elements in a thread. Triton stores them from there rather
        # than through shared memory.
        possible = vector // 2 if target.backend == "hip" and parameter.endswith("_out") else vector
        narrow = {width: count for width, count in code.accesses.get(parameter, {}).items() if width < possible}
        if narrow:
            number, widths = sum(narrow.values()), ", ".join(map(str, sorted(narrow)))
            problems.append(f"{parameter}: {number} accesses of {widths} bytes where {possible} are possible")
    if UNKNOWN in code.accesses:
        problems.append("accesses that cannot be followed to an argument")
    return problems


def examine(variant: Variant, target: Target) -> tuple[Code | None, list[str]]:
    """Compile a variant; return its code, ``None`` if it does not compile, and what is wrong with it.

    Args:
        variant: recorded for the target's backend.
        target: what to compile for.
    """
    try:
        code = compile_variant(variant, target)
    except Exception as error:  # compilers fail in many ways, and every one of them is a finding
        message = " ".join(str(error).split())
        shown = message if len(message) < 400 else f"{message[:200]} ... {message[-200:]}"
        return None, [f"does not compile: {type(error).__name__}: {shown}"]
    return code, find_problems(variant, target, code)
