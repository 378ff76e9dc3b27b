"""GPUs that kernels are compiled for: what a program may use there, and how many warps then run at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from triton.backends.compiler import GPUTarget

KILOBYTE = 1024


@dataclass(frozen=True)
class Target:
    """One GPU architecture.

    Attributes:
        name: as in NVIDIA's and AMD's compilers.
        backend: Triton's name of the vendor's backend.
        arch: Triton's name of the architecture.
        warp_size: threads of a warp, or of a wavefront.
        shared_of_program: bytes of shared memory one program may have at most, by opting in where that is needed.
        shared_of_processor: bytes of shared memory of a multiprocessor.
        warps: warps that a multiprocessor can hold.
        programs: programs that a multiprocessor can hold.
    """

    name: str
    backend: str
    arch: int | str
    warp_size: int
    shared_of_program: int
    shared_of_processor: int
    warps: int
    programs: int

    @property
    def triton(self) -> Any:
        """Triton's own description of the target."""
        return GPUTarget(self.backend, self.arch, self.warp_size)


def _nvidia(arch: int, shared_kilobytes: int, warps: int, programs: int) -> Target:
    # Every resident program takes one kilobyte for the system, so that the largest one can have that much less.
    shared = shared_kilobytes * KILOBYTE
    return Target(f"sm_{arch}", "cuda", arch, 32, shared - KILOBYTE, shared, warps, programs)


# CUDA C++ programming guide, "Technical specifications per compute capability"; AMD Instinct MI300 instruction set.
TARGETS = {
    target.name: target
    for target in (
        _nvidia(80, 164, 64, 32),
        _nvidia(86, 100, 48, 16),
        _nvidia(89, 100, 48, 24),
        _nvidia(90, 228, 64, 32),
        _nvidia(100, 228, 64, 32),
        _nvidia(120, 100, 48, 24),
        Target("gfx942", "hip", "gfx942", 64, 64 * KILOBYTE, 64 * KILOBYTE, 32, 32),
    )
}


def resident_warps(target: Target, warps_by_registers: int, warps_of_program: int, shared: int) -> int:
    """Return how many warps of one kernel a multiprocessor runs at a time; 0 if not even one program fits.

    Args:
        target: where it runs.
        warps_by_registers: warps whose registers fit.
        warps_of_program: warps of one program.
        shared: bytes of shared memory of one program.
    """
    by_warps = min(target.warps, warps_by_registers) // warps_of_program
    granule, reserved = (128, KILOBYTE) if target.backend == "cuda" else (512, 0)
    of_program = -(-shared // granule) * granule + reserved
    by_shared = target.shared_of_processor // of_program if of_program else target.programs
    return min(target.programs, by_warps, by_shared) * warps_of_program


def warps_by_nvidia_registers(registers: int) -> int:
    """Return how many warps' registers fit in a multiprocessor.

    Each of its four parts has 16384; a warp gets them by 256.

    Args:
        registers: of one thread.
    """
    of_warp = max(1, -(-registers * 32 // 256)) * 256
    return 16384 // of_warp * 4
