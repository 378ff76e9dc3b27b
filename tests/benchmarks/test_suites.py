"""The suites for pytest-benchmark report the samples that were taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_suite(suite: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", f"benchmarks/suites/{suite}", "-q", "-p", "no:cacheprovider", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_samples_reach_pytest_benchmark(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    file = tmp_path / "benchmark.json"
    # By its end: the title of the first layer is part of others.
    done = run_suite("bench_layers.py", "-k", "c4.attn.net.0", f"--benchmark-json={file}")
    assert done.returncode == 0, done.stdout
    found = json.loads(file.read_text())["benchmarks"]
    assert [entry["name"].rpartition(":_")[2] for entry in found] == ["eager]", "FastResUNetPP]"]
    for entry in found:
        assert entry["stats"]["rounds"] >= 5
        assert entry["stats"]["min"] > 0
        assert entry["extra_info"]["verdict"]["passed"]


@pytest.mark.parametrize(("options", "found"), [((), False), (("--every-case",), True)], ids=["quick", "every"])
def test_every_case_is_there_on_demand(options: tuple[str, ...], found: bool) -> None:
    pytest.importorskip("pytest_benchmark")
    listed = run_suite("bench_networks.py", "--collect-only", *options).stdout
    assert "network_training_fp32_2x128x128:_eager" in listed
    assert ("network_forward_bf16_1x512x512:_FastResUNetPP" in listed) == found
