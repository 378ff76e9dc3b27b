"""What was found as seven files, replaced as a whole after every phase; a disk that is full stops nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.schedule import Finding
from benchmarks.gpu_check.table import table
from benchmarks.gpu_check.verdict import CHECKS

_LOG_CHARACTERS = 6_000_000


def contents(findings: Sequence[Finding], facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of every file by its name.

    Args:
        findings: of the phases that ran.
        facts: that they said.
    """
    by_phase = {finding.phase: finding for finding in findings}
    summary = [
        {
            "phase": finding.phase,
            "outcome": finding.text,
            "seconds": round(finding.seconds, 1),
            "units": len(finding.results),
            "left": finding.left,
            "stopped": finding.stopped,
            "faults": finding.faults,
        }
        for finding in findings
    ]
    reports = ("report of networks", "report of layers")
    told = {name: value for name, value in facts.items() if name not in reports}
    checks = {name: by_phase[name].results for name in CHECKS if name in by_phase}
    kernels = by_phase["kernels"].results if "kernels" in by_phase else {}
    return {
        "table.txt": "\n".join(table(findings, facts)) + "\n",
        "summary.json": _json({"phases": summary, "facts": told}),
        "checks.json": _json(checks),
        "networks.json": _json(_report(facts.get(reports[0]), by_phase.get("networks"))),
        "kernels.json": _json(kernels),
        "layers.json": _json(_report(facts.get(reports[1]), by_phase.get("layers"))),
        "log.txt": _log(findings),
    }


def write(out: Path, texts: Mapping[str, str], show: Callable[[str], None] = print) -> bool:
    """Replace the files, most telling first; return whether all could be written, and say why not.

    Args:
        out: folder.
        texts: by name.
        show: prints a line.
    """
    for name, text in texts.items():
        temporary = out / f".{name}.part"
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, out / name)
        except OSError as error:
            show(f"{name} cannot be written, the run goes on: {error}")
            try:
                temporary.unlink(missing_ok=True)
            except OSError:
                return False  # which is how it began
            return False
    return True


def _json(content: Any) -> str:
    return json.dumps(content, indent=1)


def _report(header: Any, finding: Finding | None) -> dict[str, Any]:
    """Return a file of ``benchmarks.results``; empty as long as there is none."""
    if header is None or finding is None:
        return {}
    return {**header, "results": [result for found in finding.results.values() for result in found]}


def _log(findings: Sequence[Finding]) -> str:
    parts = []
    for finding in findings:
        for task, lines in finding.logs.items():
            if lines:
                parts += [f"== {finding.phase}, {task}", *lines]
    return "\n".join(parts)[:_LOG_CHARACTERS] + "\n"
