"""Results of benchmarks and the files they are kept in: every sample, and everything needed to repeat them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.timing import Spread

_FORMAT = 1


@dataclass(frozen=True)
class Key:
    """What a result is about.

    Attributes:
        group: ``"network"``, ``"block"`` or ``"layer"``.
        subject: name of the block or layer, or ``"network"``.
        mode: ``"forward"``, ``"training"`` or ``"evaluation"``.
        precision: see ``benchmarks.precision``.
        batch: images.
        size: their height and width in pixels.
        provider: see ``benchmarks.providers``.
    """

    group: str
    subject: str
    mode: str
    precision: str
    batch: int
    size: int
    provider: str

    def __str__(self) -> str:
        case = f"{self.group} {self.subject} {self.mode} {self.precision} {self.batch}x{self.size}x{self.size}"
        return f"{case}: {self.provider}"


@dataclass
class Result:
    """What was measured; a result without samples says why it has none.

    Attributes:
        key: of what.
        count: how often a step of the network contains it.
        obstacle: why nothing was measured, or "".
        verdict: errors and what they may be, see ``benchmarks.equivalence``.
        seconds: every sample.
        host_seconds: until a call returned, on an idle GPU, every sample; measured for some results only.
        kept_bytes: kept for the backward pass by plain counting, see ``benchmarks.memory``.
        peak: bytes allocated and reserved, on a GPU.
        joules_per_image: or why it is not known.
    """

    key: Key
    count: int = 1
    obstacle: str = ""
    verdict: dict[str, Any] | None = None
    seconds: list[float] = field(default_factory=list)
    host_seconds: list[float] = field(default_factory=list)
    kept_bytes: int | None = None
    peak: dict[str, int] | None = None
    joules_per_image: float | str | None = None

    @property
    def spread(self) -> Spread:
        """Median and percentiles of the seconds; there must be samples."""
        return Spread.of(self.seconds)

    @property
    def images_per_second(self) -> float:
        """Throughput at the median."""
        return self.key.batch / self.spread.median


@dataclass
class Report:
    """Content of a file.

    Attributes:
        machine: see ``benchmarks.machine``.
        settings: how it was measured.
        results: in the order they were measured.
        skipped: cases for which there was no time.
        notes: what makes the results doubtful.
        states: of the GPU before and after, see ``benchmarks.nvml``.
        largest_batches: images of a training step that fit the GPU's memory, by case and provider.
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    states: dict[str, Any] = field(default_factory=dict)
    largest_batches: dict[str, int] = field(default_factory=dict)

    def measured(self) -> list[Result]:
        """Return the results with samples."""
        return [result for result in self.results if result.seconds]

    def as_dict(self) -> dict[str, Any]:
        """Return the content of a file."""
        return {"format": _FORMAT, **asdict(self)}

    def write(self, file: Path) -> None:
        """Write the file, completely or not at all; a run that is cut short leaves what it had."""
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
        try:
            temporary.write_text(json.dumps(self.as_dict(), indent=1), encoding="utf-8")
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def read(cls, file: Path) -> Report:
        """Read a file.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no file of results of this version.
        """
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise ValueError(f"{file} holds no benchmark results of this version")
        results = [Result(**{**result, "key": Key(**result["key"])}) for result in content.pop("results")]
        return cls(**content, results=results)


def by_case(results: Iterable[Result]) -> dict[Key, dict[str, Result]]:
    """Return results by case, the key with an empty provider, and then by provider."""
    cases: dict[Key, dict[str, Result]] = {}
    for result in results:
        case = Key(**{**asdict(result.key), "provider": ""})
        cases.setdefault(case, {})[result.key.provider] = result
    return cases
