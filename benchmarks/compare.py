"""Show what changed between two files of results, beside their noise; exit with 1 if something became slower.

A change counts if the medians differ by more than the threshold and the 20th to 80th percentiles do not overlap.

Run: python -m benchmarks.compare before.json after.json [--threshold 0.05]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import Key, Report
from benchmarks.timing import Spread


@dataclass(frozen=True)
class Change:
    """One result in both files."""

    key: Key
    before: Spread
    after: Spread

    @property
    def ratio(self) -> float:
        """Median after, as a multiple of that before; above 1 it became slower."""
        return self.after.median / self.before.median

    @property
    def noise(self) -> float:
        """What the ratio may be off by through the spread of both."""
        return self.before.noise + self.after.noise

    def verdict(self, threshold: float) -> str:
        """Return ``"slower"``, ``"faster"`` or ``"same"``."""
        apart = self.after.p20 > self.before.p80 or self.after.p80 < self.before.p20
        if not apart or abs(self.ratio - 1) <= threshold:
            return "same"
        return "slower" if self.ratio > 1 else "faster"


def changes(before: Report, after: Report) -> list[Change]:
    """Return the results that both reports have, in the order of the later one; of equal keys in a file the last."""
    earlier, later = ({result.key: result.spread for result in report.measured()} for report in (before, after))
    return [Change(key, earlier[key], spread) for key, spread in later.items() if key in earlier]


def lost(before: Report, after: Report) -> list[str]:
    """Return what was measured before and is tried but not measured any more, with the reason."""
    earlier = {result.key for result in before.measured()}
    return [
        f"{result.key}: {result.obstacle}" for result in after.results if result.key in earlier and not result.seconds
    ]


def main() -> None:
    """Print a line for every change beyond the threshold, and exit with 1 if one is for the worse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--threshold", type=float, default=0.05, help="relative change that counts (default: 0.05)")
    parser.add_argument("--all", action="store_true", help="also show what stayed the same")
    options = parser.parse_args()
    before, after = Report.read(options.before), Report.read(options.after)
    if before.machine["name"] != after.machine["name"]:
        sys.exit(f"two machines: {before.machine['name']} and {after.machine['name']}; compare results of one")
    found = changes(before, after)
    for change in found:
        verdict = change.verdict(options.threshold)
        if verdict != "same" or options.all:
            print(
                f"{verdict:7s}{change.ratio:7.3f} +- {change.noise:.3f}  {1e3 * change.before.median:9.3f} -> "
                f"{1e3 * change.after.median:9.3f} ms  {change.key}"
            )
    verdicts = [change.verdict(options.threshold) for change in found]
    missing = lost(before, after)
    for line in missing:
        print(f"lost    {line}")
    print(
        f"{len(found)} compared: {verdicts.count('slower')} slower, {verdicts.count('faster')} faster, "
        f"{len(missing)} lost"
    )
    if not found:
        sys.exit("the files have no case in common")
    sys.exit(1 if missing or "slower" in verdicts else 0)


if __name__ == "__main__":
    main()
