"""What of all that was found is wrong: it decides the exit status."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from benchmarks.gpu_check.schedule import Finding

CHECKS = ("checks", "precisions", "configurations")
TIMED = ("networks", "layers")
WRONG_RESULT = "wrong result"  # how the obstacle begins of what was not timed for that


def problems(findings: Sequence[Finding]) -> list[str]:
    """Return what is wrong, a line each; nothing if everything that was computed is right.

    Args:
        findings: of all phases.
    """
    return [*(fault for finding in findings for fault in finding.faults), *_unchecked(findings), *_wrong(findings)]


def _unchecked(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield that nothing was checked, where that was asked for: silence is no success."""
    wanted = [finding for finding in findings if finding.phase in CHECKS]
    if wanted and not any(finding.results for finding in wanted):
        yield f"nothing was checked in {', '.join(finding.phase for finding in wanted)}"


def _wrong(findings: Iterable[Finding]) -> Iterator[str]:
    for finding in findings:
        for key, found in finding.results.items():
            if finding.phase in CHECKS and found:
                yield f"{key}: {found}"
            elif finding.phase in TIMED:
                for result in found:
                    if result["obstacle"].startswith(WRONG_RESULT):
                        yield f"{key}, {result['key']['provider']}: {result['obstacle']}"
