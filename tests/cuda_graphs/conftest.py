"""A device that captures, in the CPU's place, and small networks to train on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fastresunet.cuda_graphs import capture

from .recorder import RecordingCapturer


@pytest.fixture
def capturer(monkeypatch: pytest.MonkeyPatch) -> RecordingCapturer:
    """Let the CPU capture; every object made meanwhile shares the capturer."""
    recording = RecordingCapturer()
    monkeypatch.setattr(capture, "capturer_for", lambda device: recording)
    return recording


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: sums of several threads may round differently from run to run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
