"""The suites for pytest-benchmark report the samples that were taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_samples_reach_pytest_benchmark(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    file = tmp_path / "benchmark.json"
    command = [sys.executable, "-m", "pytest", "benchmarks/suites/bench_layers.py", "-q", "-p", "no:cacheprovider"]
    # By its end: the title of the first layer is part of others.
    command += ["-k", "c4.attn.net.0", f"--benchmark-json={file}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    found = json.loads(file.read_text())["benchmarks"]
    assert [entry["name"].rpartition(":_")[2] for entry in found] == ["eager]", "FastResUNetPP]"]
    for entry in found:
        assert entry["stats"]["rounds"] >= 5
        assert entry["stats"]["min"] > 0
        assert entry["extra_info"]["verdict"]["passed"]
