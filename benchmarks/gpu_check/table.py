"""Everything that was found as a table of at most ``MOST_LINES`` lines, the last thing that is printed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.gpu_check.schedule import Finding
from benchmarks.gpu_check.verdict import CHECKS, WRONG_RESULT

MOST_LINES, _WIDTH = 40, 150
_COLUMNS = ("eager", "channels_last", "compile", "compile max-autotune", "FastResUNetPP", "folded")
_OURS = ("FastResUNetPP", "folded")
_HEADINGS = ("eager", "ch_last", "compile", "max-auto", "ours", "folded")
_GRAPH = " + CUDA graph"


def table(findings: Sequence[Finding], facts: Mapping[str, Any]) -> list[str]:
    """Return the lines: machine, ceilings, what is wrong, times of networks, kernels and layers.

    Args:
        findings: of the phases that ran.
        facts: that they said.
    """
    by_phase = {finding.phase: finding for finding in findings}
    lines = [*_machine(facts), *_compilations(facts)]
    for name in CHECKS:
        if name in by_phase:
            lines += _checked(by_phase[name])
    sections = (("networks", _networks), ("kernels", _kernels), ("layers", _layers))
    for name, section in sections:
        if name in by_phase:
            lines += section(by_phase[name].results)
    lines += [f"FAULT {line}" for finding in findings for line in finding.faults[:2]]
    lines += _unfinished(findings)
    lines = [line[:_WIDTH] for line in lines]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"... {len(lines) - MOST_LINES + 1} more lines: see summary.json"]
    return lines


def _machine(facts: Mapping[str, Any]) -> list[str]:
    machine = facts.get("machine")
    if machine is None:
        return ["no device answered: see log.txt"]
    versions = ", ".join(f"{name} {machine['versions'].get(name, '?')}" for name in ("torch", "triton"))
    launches = facts.get("launch us")
    told = [
        f"copy {_number(facts.get('copy GB/s'))} GB/s",
        f"bf16 {_number(facts.get('bf16 TFLOP/s'))} TFLOP/s",
        "launch us "
        + (", ".join(f"{name} {us:.1f}" for name, us in launches.items()) if isinstance(launches, dict) else "?"),
    ]
    sheet = facts.get("data sheet")
    if sheet:
        told.append(f"data sheet {sheet['copy GB/s']:.0f} GB/s, {sheet['bf16 TFLOP/s']:.0f} TFLOP/s")
    rehearsal = ["A REHEARSAL: these times mean nothing"] if facts.get("rehearsal") else []
    return [*rehearsal, f"{machine['name']}, {versions}, Python {machine['python']}", "; ".join(told)]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "?"


def _compilations(facts: Mapping[str, Any]) -> list[str]:
    found = [value for name, value in facts.items() if name.startswith("compilations ")]
    compiled, cached = (sum(value[key] for value in found) for key in ("compiled", "cached"))
    lines = [f"kernels compiled here: {compiled}, found in Triton's cache: {cached}"] if found else []
    return lines + ([str(facts["carried cache"])] if "carried cache" in facts else [])


def _checked(finding: Finding) -> list[str]:
    wrong = {key: problem for key, problem in finding.results.items() if problem}
    count = len(finding.results)
    lines = [f"{finding.phase}: {count - len(wrong)} of {count} right, {len(finding.faults)} faults"]
    return lines + [f"  WRONG {key}: {problem}" for key, problem in list(wrong.items())[:3]]


def _networks(results: Mapping[str, Any]) -> list[str]:
    """Return a line for each case: milliseconds of each way, without and with a CUDA graph, and the host's."""
    if not results:
        return []
    title = "ms, plain / CUDA graph"
    lines = [f"{title:22s}" + "".join(f"{heading:>16s}" for heading in _HEADINGS) + "  best/ours  host eager, ours"]
    others: dict[str, None] = {}
    for case, found in results.items():
        times = {
            result["key"]["provider"]: statistics.median(result["seconds"]) for result in found if result["seconds"]
        }
        host = {
            result["key"]["provider"]: statistics.median(result["host_seconds"])
            for result in found
            if result["host_seconds"]
        }
        for result in found:
            if result["obstacle"] and result["key"]["provider"].removesuffix(_GRAPH) in (*_COLUMNS, "TensorRT"):
                others.setdefault(f"  {case} {result['key']['provider']}: {result['obstacle']}")
        cells = "".join(f"{_ms(times.get(name)) + '/' + _ms(times.get(name + _GRAPH)):>16s}" for name in _COLUMNS)
        hosts = ", ".join(_ms(host.get(name)) for name in ("eager", "FastResUNetPP"))
        lines.append(f"{case:22s}{cells}{_ratio(times):>11s}  {hosts}")
    for case, found in list(results.items())[:2]:
        rivals = [
            f"{result['key']['provider']} {_ms(statistics.median(result['seconds']))}"
            for result in found
            if result["seconds"] and result["key"]["provider"].removesuffix(_GRAPH) not in _COLUMNS
        ]
        lines += [f"{case} others, ms: {', '.join(rivals)}"] if rivals else []
    return lines + list(others)[:4]


def _ratio(times: Mapping[str, float]) -> str:
    """Return how many times as long the best of the others takes as the best of ours."""

    def best(names: Iterable[str]) -> float | None:
        return min((times[each] for name in names for each in (name, name + _GRAPH) if each in times), default=None)

    theirs, ours = best(name for name in _COLUMNS if name not in _OURS), best(_OURS)
    return "" if theirs is None or ours is None else f"{theirs / ours:.2f}x"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.3g}"


def _kernels(results: Mapping[str, Any]) -> list[str]:
    lines = []
    for case, found in results.items():
        if "busy_ms" not in found:
            lines.append(f"kernels, {case}: {found['problem']}")
            continue
        line = f"kernels, {case}: {found['launches']} launches, busy {found['busy_ms']:.3g} ms"
        if found["our_kernels_ms"]:
            line += f", ours {found['our_kernels_ms']:.3g}, floor {found.get('floor_ms', float('nan')):.3g}"
        lines.append(line + (f"; {found['problem']}" if "problem" in found else ""))
    first: list[dict[str, Any]] = next((found["kernels"] for found in results.values() if found.get("floor_ms")), [])
    for row in first[:5]:
        direction = "backward" if row["backward"] else "forward"
        where = f"{row['kernel']}, {row['layer']} {direction}"
        lines.append(f"  {where} x{row['launches']}: {row['us']:.1f} us, floor {row['floor_us']:.1f}")
    return lines


def _layers(results: Mapping[str, Any]) -> list[str]:
    """Return how many operations are faster than cuDNN's, and those that are slowest beside it."""
    ratios = {}
    wrong = 0
    for case, found in results.items():
        plain, fast = found
        if plain["seconds"] and fast["seconds"]:
            ratios[case] = statistics.median(plain["seconds"]) / statistics.median(fast["seconds"])
        wrong += fast["obstacle"].startswith(WRONG_RESULT)
    if not ratios:
        return [f"layers: none timed, {wrong} wrong"]
    faster = sum(ratio > 1 for ratio in ratios.values())
    lines = [f"layers: {faster} of {len(ratios)} faster than plain PyTorch, {wrong} wrong; slowest:"]
    slowest = sorted(ratios.items(), key=lambda item: item[1])[:3]
    return [*lines, *(f"  {case}: {ratio:.2f}x" for case, ratio in slowest)]


def _unfinished(findings: Sequence[Finding]) -> list[str]:
    found = [f"{f.phase} ({f.left} left, {f.stopped} stopped)" for f in findings if f.left or f.stopped]
    return [f"without time: {', '.join(found)}"] if found else []
