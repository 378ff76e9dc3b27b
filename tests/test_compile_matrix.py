"""The network's kernels compile well for A100 and H100; the checks that say so find what they are there for."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from fastresunet_kernels import interpreter
from fastresunet_kernels.launch import Launch

from benchmarks import compile_matrix
from benchmarks.compile_matrix_accesses import UNKNOWN, global_accesses
from benchmarks.compile_matrix_checks import examine
from benchmarks.compile_matrix_targets import TARGETS, resident_warps, warps_by_nvidia_registers
from benchmarks.compile_matrix_variants import Recorder, Use, Variant

pytestmark = pytest.mark.skipif(interpreter.INTERPRETED, reason="compiles kernels, which TRITON_INTERPRET=1 forbids")

# Processes share the cores with the other tests'.
JOBS = max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
TRITON_VERSION = tuple(map(int, triton.__version__.split(".")[:2]))
MOST_SPILLED_BY_OLDER = 16  # bytes of a thread; docs/design.md lists them
USE = Use("float32", "train", "layer")


@triton.jit  # type: ignore[untyped-decorator]
def copy_kernel(image_ptr: tl.tensor, copy_out: tl.tensor, first: tl.tensor, block: tl.constexpr) -> None:
    """Copy from element ``first`` on."""
    index = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(copy_out + index, tl.load(image_ptr + first + index))


@triton.jit  # type: ignore[untyped-decorator]
def center_kernel(image_ptr: tl.tensor, centered_out: tl.tensor, block: tl.constexpr) -> None:
    """Subtract the mean of a block, which has to stay in registers until that is known."""
    index = tl.program_id(0) * block + tl.arange(0, block)
    x = tl.load(image_ptr + index)
    tl.store(centered_out + index, x - tl.sum(x, axis=0) / block)


@triton.jit  # type: ignore[untyped-decorator]
def product_kernel(
    image_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    product_out: tl.tensor,
    channels: tl.tensor,
    block: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Multiply a block of pixels with a matrix."""
    row, column = tl.arange(0, block), tl.arange(0, block)
    total = tl.zeros((block, block), dtype=tl.float32)
    for first in range(0, channels, block):
        x = tl.load(image_ptr + row[:, None] * channels + first + column[None, :])
        w = tl.load(weight_ptr + (first + row)[:, None] * block + column[None, :])
        total = tl.dot(x, w, total, input_precision=precision)
    tl.store(product_out + row[:, None] * block + column[None, :], total.to(product_out.dtype.element_ty))


def image(channels: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(2, channels, 64, 64, dtype=dtype, memory_format=torch.channels_last)


def variant(kernel: Any, *arguments: Any, backend: str = "cuda", **options: Any) -> Variant:
    """Return what a launch compiles."""
    recorder = Recorder(backend, 2, [(64, 64)])
    recorder.add(Launch(kernel, (1,), arguments, options, 0), USE)
    (recorded,) = recorder.variants.values()
    return recorded


def copy(first: int, channels: int = 16, backend: str = "cuda") -> Variant:
    return variant(copy_kernel, image(channels), image(channels), first, backend=backend, block=1024, num_warps=4)


def product(
    channels: int = 64, precision: str = "tf32", stages: int = 2, dtype: torch.dtype = torch.float32
) -> Variant:
    tensors = image(channels, dtype), torch.empty(channels, 64, dtype=dtype), image(64, dtype)
    return variant(product_kernel, *tensors, channels, block=64, precision=precision, num_warps=4, num_stages=stages)


# The oldest Triton's code is compiled for one target: what it makes of Python is the same for both.
@pytest.mark.parametrize("target", ["sm_80", "sm_90"] if TRITON_VERSION >= (3, 8) else ["sm_90"])
def test_every_kernel_of_the_network_compiles_well(target: str) -> None:
    results = compile_matrix.compile_matrix([TARGETS[target]], ["bfloat16"], batch=16, size=256, jobs=JOBS)
    modes = {use.mode for result in results for use in result.variant.uses}
    assert modes == {"train", "eval", "folded"}
    assert any(result.code and result.code.tensor_instructions for result in results)
    problems = {
        f"{result.variant.name} at {sorted({use.layer for use in result.variant.uses})}": problems
        for result in results
        if (problems := [problem for problem in result.problems if not _is_known(problem)])
    }
    assert not problems


def _is_known(problem: str) -> bool:
    """Return whether a problem is a small spill of an older Triton: tiles are chosen for the code of 3.8."""
    spilled = re.fullmatch(r"spills (\d+) bytes", problem)
    return TRITON_VERSION < (3, 8) and spilled is not None and int(spilled[1]) <= MOST_SPILLED_BY_OLDER


@pytest.mark.parametrize("target", TARGETS)
def test_good_code_has_no_problems(target: str) -> None:
    _, problems = examine(copy(first=16, backend=TARGETS[target].backend), TARGETS[target])
    assert problems == []


@pytest.mark.parametrize(("target", "width"), [("sm_80", 4), ("gfx942", 4)])
def test_narrow_accesses_are_found(target: str, width: int) -> None:
    code, problems = examine(copy(first=3, backend=TARGETS[target].backend), TARGETS[target])
    assert code is not None
    assert list(code.accesses["image_ptr"]) == [width]
    assert list(code.accesses["copy_out"]) == [16]
    assert len(problems) == 1
    assert problems[0].startswith("image_ptr:")
    assert "4 bytes where 16 are possible" in problems[0]


def test_channels_that_allow_no_vectors_are_no_problem() -> None:
    assert examine(copy(first=3, channels=3), TARGETS["sm_80"])[1] == []


@pytest.mark.parametrize(("target", "block"), [("sm_80", 2**14), ("gfx942", 2**15)])
def test_spills_are_found(target: str, block: int) -> None:
    spilling = variant(center_kernel, image(16), image(16), backend=TARGETS[target].backend, block=block, num_warps=1)
    code, problems = examine(spilling, TARGETS[target])
    assert code is not None
    assert code.spill_bytes > 0
    assert problems == [f"spills {code.spill_bytes} bytes"]


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_120"])
def test_products_use_tensor_cores(target: str) -> None:
    code, problems = examine(product(dtype=torch.bfloat16), TARGETS[target])
    assert code is not None
    assert code.tensor_instructions > 0
    assert problems == []


def test_a_product_without_tensor_cores_is_found() -> None:
    assert "no tensor-core instruction" in examine(product(precision="ieee"), TARGETS["sm_80"])[1]


def test_too_much_shared_memory_is_found() -> None:
    code, problems = examine(product(channels=1024, stages=6), TARGETS["sm_86"])
    assert code is not None
    assert code.warps == 0
    assert problems == [f"{code.shared_bytes} bytes of shared memory, {99 * 1024} is the most"]
    assert examine(product(channels=1024, stages=6), TARGETS["sm_90"])[1] == []


def test_what_does_not_compile_is_found() -> None:
    code, problems = examine(product(precision="no such precision"), TARGETS["sm_80"])
    assert code is None
    assert len(problems) == 1
    assert problems[0].startswith("does not compile: ")


def test_launches_that_compile_alike_are_one_variant() -> None:
    recorder = Recorder("cuda", 2, [(64, 64)])
    for first in (32, 64, 1, 17):
        recorder.add(Launch(copy_kernel, (1,), (image(16), image(16), first), {"block": 1024}, 0), USE)
    assert [v.uses[USE] for v in recorder.variants.values()] == [2, 1, 1]  # divisible by 16, one, and anything


@pytest.mark.parametrize(("bad", "status"), [(False, 0), (True, 1)])
def test_the_command_reports_problems(
    bad: bool, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compile_matrix, "record_variants", lambda *_: [copy(first=16), copy(first=3 if bad else 1024)])
    file = tmp_path / "matrix.json"
    assert compile_matrix.main(["--targets", "sm_80", "--jobs", "1", "--json", str(file)]) == status
    printed = capsys.readouterr().out
    assert f"2 compilations, {status} with problems" in printed
    results = json.loads(file.read_text())["results"]
    assert [bool(result["problems"]) for result in results] == [False, bad]
    assert results[0]["launches"] == [{"dtype": "float32", "mode": "train", "layer": "layer", "count": 1}]


@pytest.mark.parametrize("arguments", [["--targets", "sm_1"], ["--size", "100"], ["--jobs", "0"]])
def test_wrong_command_lines_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        compile_matrix.main(arguments)
    assert refused.value.code == 2


def test_accesses_are_followed_to_arguments() -> None:
    code = r"""
define ptx_kernel void @kernel(ptr addrspace(1) %0, ptr addrspace(1) %1, i32 %2, ptr addrspace(1) %3) {
  %5 = getelementptr [2 x i8], ptr addrspace(1) %0, i64 %4
  %6 = phi ptr addrspace(1) [ %5, %a ], [ %8, %b ]
  %7 = tail call { i32, i32 } asm sideeffect "mov.u32 $0, 0x0;\0A\09@$3 ld.global.v2.b32 { $0, $1 }, [ $2 + 0 ];", "=r,=r,l,b"(ptr addrspace(1) %6, i1 %9)
  %8 = getelementptr i8, ptr addrspace(1) %6, i64 16
  tail call void asm sideeffect "cp.async.cg.shared.global [ $0 + 0 ], [ $1 + 0 ], 0x10, $2;", "r,l,r"(ptr addrspace(3) %s, ptr addrspace(1) %1, i32 %2)
  %10 = tail call ptr addrspace(8) @llvm.amdgcn.make.buffer.rsrc.p8.p1(ptr addrspace(1) %1, i16 0, i64 2147483646, i32 159744)
  tail call void @llvm.amdgcn.raw.ptr.buffer.store.v4i32(<4 x i32> %11, ptr addrspace(8) %10, i32 %12, i32 0, i32 0)
  store <2 x half> %13, ptr addrspace(1) %3, align 4
  store <4 x float> %14, ptr addrspace(3) %s, align 16
  %15 = inttoptr i64 %16 to ptr addrspace(1)
  %17 = load float, ptr addrspace(1) %15, align 4
"""  # noqa: E501
    accesses = global_accesses(code, ["first", "second", "size", "third"])
    assert accesses == {"first": {8: 1}, "second": {16: 2}, "third": {4: 1}, UNKNOWN: {4: 1}}


def test_unknown_accesses_are_refused() -> None:
    code = 'tail call void asm sideeffect "st.new.global [ $0 ];", "l"(ptr addrspace(1) %0)'
    with pytest.raises(ValueError, match="unknown kind"):
        global_accesses(code, ["first"])


def test_resident_warps() -> None:
    a100 = TARGETS["sm_80"]
    assert warps_by_nvidia_registers(255) == 8
    assert warps_by_nvidia_registers(168) == 12
    assert warps_by_nvidia_registers(32) == 64
    assert resident_warps(a100, warps_by_registers=12, warps_of_program=4, shared=0) == 12
    assert resident_warps(a100, warps_by_registers=12, warps_of_program=8, shared=0) == 8
    assert resident_warps(a100, warps_by_registers=64, warps_of_program=4, shared=100 * 1024) == 4
    assert resident_warps(a100, warps_by_registers=64, warps_of_program=1, shared=0) == 32
    assert resident_warps(a100, warps_by_registers=64, warps_of_program=4, shared=164 * 1024) == 0
