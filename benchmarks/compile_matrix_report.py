"""Variants and their code in words and in a table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.compile_matrix_code import Code
from benchmarks.compile_matrix_variants import Variant

# By module and name of a kernel and by parameter: the constants' values, as written in Python.
Distinctions = dict[tuple[str, str], dict[str, set[str]]]

_HEADER = [
    "",
    "kernel",
    "launches",
    "regs",
    "spill",
    "shared",
    "warps/SM",
    "tensor",
    "128-bit",
    "at",
    "variant",
]


def table(rows: Sequence[tuple[Variant, Code | None, bool]], distinctions: Distinctions) -> str:
    """Return a table, a line for each variant.

    Args:
        rows: variant, its code or ``None`` if it does not compile, and whether all is well.
        distinctions: see ``find_distinctions``.
    """
    lines = [_HEADER]
    for variant, code, good in rows:
        numbers = [
            "-" if code is None else str(getattr(code, name))
            for name in (
                "registers",
                "spill_bytes",
                "shared_bytes",
                "warps",
                "tensor_instructions",
                "vector_instructions",
            )
        ]
        status, launches = "ok" if good else "BAD", str(variant.uses.total())
        lines.append([status, variant.name, launches, *numbers, place(variant), describe(variant, distinctions)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numeric = range(2, 9)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if position in numeric else cell.ljust(width)
            for position, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def place(variant: Variant) -> str:
    """Return dtypes, modes and layers of a variant's launches, the first layer and how many more."""
    layers = list(dict.fromkeys(use.layer for use in variant.uses))
    dtypes = "+".join(dict.fromkeys(use.dtype for use in variant.uses))
    modes = "+".join(dict.fromkeys(use.mode for use in variant.uses))
    return f"{dtypes} {modes} {layers[0]}" + (f" and {len(layers) - 1} more" if len(layers) > 1 else "")


def find_distinctions(variants: Sequence[Variant]) -> Distinctions:
    """Return the compile-time constants in which variants of one kernel differ, and the values they have."""
    values: Distinctions = {}
    for variant in variants:
        parameters = values.setdefault((variant.module, variant.name), {})
        for parameter in variant.signature:
            parameters.setdefault(parameter, set()).add(repr(variant.constant(parameter)))
    return {
        kernel: {parameter: found for parameter, found in parameters.items() if len(found) > 1}
        for kernel, parameters in values.items()
    }


def describe(variant: Variant, distinctions: Distinctions) -> str:
    """Return the compile-time constants in which a variant differs from others of its kernel, and its options.

    Args:
        variant: what to describe.
        distinctions: see ``find_distinctions``.
    """
    words = []
    for parameter, values in distinctions[variant.module, variant.name].items():
        value = variant.constant(parameter)
        if value is True or (value is ... and "None" in values):
            words.append(parameter.removesuffix("_ptr").removesuffix("_out"))
        elif value is not ... and value:
            words.append(f"{parameter}={value}")
    words += [f"{name}={value}" for name, value in variant.options.items()]
    return " ".join(words)
