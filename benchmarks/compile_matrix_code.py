"""What a kernel's compiled code needs and does: resources, tensor-core instructions, widths of memory accesses."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from typing import Any

import triton
from triton.compiler.compiler import ASTSource

from benchmarks.compile_matrix_accesses import global_accesses
from benchmarks.compile_matrix_targets import Target, resident_warps, warps_by_nvidia_registers
from benchmarks.compile_matrix_variants import Variant

_SASS_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+ )?([A-Z][A-Z0-9_.]*)", re.MULTILINE)
_SASS_TENSOR = re.compile(r"(?:[HIDQO]|HG|IG|QG|BG|UTC\w*)MMA\b")
_SASS_VECTOR = re.compile(r"(?:LDG|LDGSTS|STG)\b.*\.(?:128|256)\b")
_GCN_INSTRUCTION = re.compile(r"^\s+([a-z]\w+)", re.MULTILINE)
_GCN_TENSOR = re.compile(r"v_s?mfma")
_GCN_VECTOR = re.compile(r"(?:global|buffer)_(?:load|store)_dwordx4")


@dataclass(frozen=True)
class Code:
    """One variant's code for one target.

    Attributes:
        registers: of a thread.
        spill_bytes: of what a thread has no registers for; AMD counts scalars, which are kept in vector registers.
        shared_bytes: shared memory of a program.
        tensor_memory: columns of tensor memory of a program; only sm_100 has it.
        warps: how many warps a multiprocessor runs at a time.
        has_product: the kernel multiplies matrices.
        tensor_instructions: tensor-core instructions, each counted once wherever it stands.
        vector_instructions: loads and stores of 128 bits or more from and to global memory, counted likewise.
        accesses: how many instructions access an argument with which width in bytes.
    """

    registers: int
    spill_bytes: int
    shared_bytes: int
    tensor_memory: int
    warps: int
    has_product: bool
    tensor_instructions: int
    vector_instructions: int
    accesses: dict[str, dict[int, int]]


def compile_variant(variant: Variant, target: Target) -> Code:
    """Compile a variant and read its code; no GPU is needed.

    Args:
        variant: recorded for the target's backend.
        target: what to compile for.
    """
    kernel = getattr(importlib.import_module(variant.module), variant.name)
    source = ASTSource(kernel, variant.signature, variant.constants, variant.attributes)
    # A failing assembler's whole input would be printed; what matters is in the exception.
    with contextlib.redirect_stdout(io.StringIO()):
        compiled = triton.compile(source, target=target.triton, options=dict(variant.options))
    if target.backend == "cuda":
        registers, spill_bytes, warps_by_registers, instructions = _read_cubin(compiled.asm["cubin"])
        tensor, vector = _SASS_TENSOR, _SASS_VECTOR
    else:
        registers, spill_bytes, warps_by_registers, instructions = _read_gcn(compiled.asm["amdgcn"])
        tensor, vector = _GCN_TENSOR, _GCN_VECTOR
    metadata: Any = compiled.metadata
    return Code(
        registers=registers,
        spill_bytes=spill_bytes,
        shared_bytes=metadata.shared,
        tensor_memory=getattr(metadata, "tmem_size", None) or 0,
        warps=resident_warps(target, warps_by_registers, metadata.num_warps, metadata.shared),
        has_product="tt.dot" in compiled.asm["ttir"],
        tensor_instructions=_count(tensor, instructions),
        vector_instructions=_count(vector, instructions),
        accesses=global_accesses(compiled.asm["llir"], variant.run_time_parameters),
    )


def _read_cubin(cubin: bytes) -> tuple[int, int, int, Counter[str]]:
    """Return registers, spilled bytes, warps by registers and instructions of NVIDIA code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", "-sass", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    registers, stack, local = (_number(rf"\b{name}:(\d+)", text) for name in ("REG", "STACK", "LOCAL"))
    return registers, stack + local, warps_by_nvidia_registers(registers), Counter(_SASS_INSTRUCTION.findall(text))


def _read_gcn(assembly: str) -> tuple[int, int, int, Counter[str]]:
    """Return registers, spilled bytes, warps by registers and instructions of AMD code."""
    vector, scalar, scratch = (
        _number(rf"\.{name}:\s+(\d+)", assembly)
        for name in ("vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size")
    )
    # Spilled registers may go to registers of the other kinds, without scratch memory.
    spill_bytes = max(scratch, 4 * (vector + scalar))
    # LLVM counts the wavefronts of one of the four parts of a compute unit.
    warps_by_registers = 4 * _number(r"; Occupancy: (\d+)", assembly)
    instructions = Counter(_GCN_INSTRUCTION.findall(assembly))
    return _number(r"\.vgpr_count:\s+(\d+)", assembly), spill_bytes, warps_by_registers, instructions


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"no {pattern!r} in the compiler's report")
    return int(match[1])


def _count(wanted: re.Pattern[str], instructions: Counter[str]) -> int:
    return sum(count for name, count in instructions.items() if wanted.match(name))
