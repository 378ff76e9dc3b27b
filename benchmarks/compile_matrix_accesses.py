"""How wide a kernel's accesses to global memory are, argument by argument, read from its LLVM code.

LLVM code is the last form in which both vendors' kernels still say what an address was computed from. A pointer is
followed back through the instructions that define it to the arguments it may start from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

UNKNOWN = "an unknown pointer"

_NAME = r"%([\w.$-]+)"
_DEFINITION = re.compile(rf"^\s*{_NAME} = (.*)")
# Global memory, and AMD's buffers, which are made from pointers to it.
_POINTER = re.compile(rf"ptr addrspace\([178]\) (?:\w+ )*{_NAME}")
_MERGED_POINTER = re.compile(rf"\[ {_NAME}, %")
_ASSEMBLY = re.compile(r'\basm (?:sideeffect )?"([^"]*)"')
_ESCAPED_SPACE = re.compile(r"\\0[0-9A-F]")
_INLINE_ACCESS = re.compile(r"\b(?:ld|st|red|atom)\.[\w.:]*?global[\w.:]*?(?:\.v(\d+))?\.[bfsu](\d+)\b")
_INLINE_COPY = re.compile(r"\bcp\.async\.c[ag]\.shared[\w:]*\.global[\w.:]* [^;]*?\], (0x[0-9a-f]+|\d+)")
_INTRINSIC_ACCESS = re.compile(r"@llvm\.[\w.]*\b(?:load|store)\b[\w.]*?\.(?:v(\d+))?(?:i|f|bf)(\d+)\b")
_INTRINSIC_COPY = re.compile(
    r"@llvm\.amdgcn\.[\w.]*load(?:\.async)?(?:\.to)?\.lds.*?ptr addrspace\(3\) [^,]*, i32 (\d+)"
)
# Calls that take a pointer to global memory and do not touch what it points to.
_HARMLESS_CALL = re.compile(r"@llvm\.(?:amdgcn\.make\.buffer\.rsrc|assume|prefetch|lifetime|ptrmask)\b")
_INSTRUCTION = re.compile(r"\b(?:load|store) (?:volatile )?(?:<(\d+) x )?(i\d+|half|bfloat|float|double)\b")
_OTHER_ACCESS = re.compile(r"\b(?:call|atomicrmw|cmpxchg)\b")
_BITS = {"half": 16, "bfloat": 16, "float": 32, "double": 64}


def global_accesses(llvm_code: str, parameters: Sequence[str]) -> dict[str, dict[int, int]]:
    """Return how many instructions access each argument with each width in bytes.

    Args:
        llvm_code: of one kernel.
        parameters: names of the arguments that are passed at run time, in their order.

    Returns:
        Counts by width, by the name of the argument; by ``UNKNOWN`` where an address cannot be followed to one.

    Raises:
        ValueError: an instruction takes a pointer to global memory and is of no known kind.
    """
    lines = llvm_code.splitlines()
    definitions = {match[1]: match[2] for match in map(_DEFINITION.match, lines) if match}
    accesses: dict[str, Counter[int]] = {}
    for line in lines:
        pointers = [] if line.startswith(("define", "declare")) else _POINTER.findall(line)
        width = _width(line) if pointers else None
        if width is None:
            continue
        for position in _origins(pointers[-1], definitions):
            known = position is not None and position < len(parameters)
            name = parameters[position] if known and position is not None else UNKNOWN
            accesses.setdefault(name, Counter())[width] += 1
    return {name: dict(counts) for name, counts in accesses.items()}


def _width(line: str) -> int | None:
    """Return how many bytes a line of LLVM code with a pointer loads or stores, ``None`` if it does neither."""
    if assembly := _ASSEMBLY.search(line):
        text = _ESCAPED_SPACE.sub(" ", assembly[1])
        if copy := _INLINE_COPY.search(text):
            return int(copy[1], 0)
        if access := _INLINE_ACCESS.search(text):
            return int(access[1] or 1) * int(access[2]) // 8
    elif copy := _INTRINSIC_COPY.search(line):
        return int(copy[1])
    elif access := _INTRINSIC_ACCESS.search(line):
        return int(access[1] or 1) * int(access[2]) // 8
    elif instruction := _INSTRUCTION.search(line):
        bits = _BITS.get(instruction[2]) or int(instruction[2][1:])
        return int(instruction[1] or 1) * bits // 8
    elif not _OTHER_ACCESS.search(line) or _HARMLESS_CALL.search(line):
        return None
    raise ValueError(f"an access to global memory of an unknown kind: {line.strip()}")


def _origins(pointer: str, definitions: dict[str, str]) -> set[int | None]:
    """Return the positions of the arguments that a pointer may start from, ``None`` for what is no argument."""
    found: set[int | None] = set()
    seen, waiting = {pointer}, [pointer]
    while waiting:
        name = waiting.pop()
        definition = definitions.get(name)
        if definition is None:
            # LLVM numbers what has no name, arguments first.
            found.add(int(name) if name.isdigit() else None)
            continue
        merged = _MERGED_POINTER if definition.startswith("phi ptr") else _POINTER
        sources = merged.findall(definition)
        if not sources:
            found.add(None)
        waiting += [source for source in sources if source not in seen]
        seen.update(sources)
    return found
