"""How captures call CUDA, on a stand-in for it, and what their errors say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastresunet import GraphedInference, GraphedTrainingStep
from fastresunet.cuda_graphs import CaptureError, checks
from fastresunet.cuda_graphs.capture import CudaCapturer, capture, capturer_for
from fastresunet.training.losses import bce_dice_loss

from .recorder import RecordingCapturer
from .training_cases import adamw, batches, small_network

GPU = torch.device("cuda", 0)


class FakeCuda:
    """Streams and graphs that write down what is asked of them."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.current = "main"
        self.fails_at_the_end = False

    def stream(self, name: str) -> Any:
        log = self.log

        class Stream(str):
            def wait_stream(self, other: str) -> None:
                log.append(f"{self} waits for {other}")

        return Stream(name)

    @contextmanager
    def use(self, stream: str) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph: Any, pool: Any, stream: str, capture_error_mode: str) -> Iterator[None]:
        self.log.append(f"capture in {pool} on {stream}, {capture_error_mode}")
        self.current = stream
        yield
        self.current = "main"

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self.stream("side"))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.stream(self.current))
        monkeypatch.setattr(torch.cuda, "stream", self.use)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: _FakeGraph(self.log))


class _FakeGraph:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def replay(self) -> None:
        self.log.append("replay")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    fake.install(monkeypatch)
    return fake


def computing(cuda: FakeCuda) -> Callable[[], Tensor]:
    def compute() -> Tensor:
        cuda.log.append(f"compute on {cuda.current}")
        return torch.ones(())

    return compute


def test_warm_up_and_capture_share_a_stream_and_all_graphs_a_pool(cuda: FakeCuda) -> None:
    capturer = capturer_for(GPU)
    assert isinstance(capturer, CudaCapturer)
    capturer.run(computing(cuda))
    assert cuda.log == ["side waits for main", "compute on side", "main waits for side"]
    cuda.log.clear()
    captures = [capture(capturer, computing(cuda)) for _ in range(2)]
    assert cuda.log == 2 * ["capture in pool on side, thread_local", "compute on side"]
    cuda.log.clear()
    captures[1].replay()
    assert (cuda.log, cuda.current) == (["replay"], "main")


def test_only_cuda_devices_capture() -> None:
    assert capturer_for(torch.device("cpu")) is None


def test_a_capture_that_fails_names_the_line_and_leaves_the_stream(cuda: FakeCuda) -> None:
    with pytest.raises(
        CaptureError, match=r"RuntimeError: shape .* \(.*test_capture\.py, line \d+: .*\.view\(3\)"
    ) as caught:
        capture(CudaCapturer(GPU), lambda: torch.zeros(2).view(3))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert cuda.current == "main"


def test_the_first_failure_is_named_and_not_that_of_ending_the_capture() -> None:
    class Failing(RecordingCapturer):
        def capture(self, compute: Callable[[], Tensor]) -> Any:
            try:
                compute()
            finally:
                raise RuntimeError("operation failed due to a previous error during capture")

    def compute() -> Tensor:
        raise ValueError("the reason")

    with pytest.raises(CaptureError, match="ValueError: the reason"):
        capture(Failing(), compute)


def test_a_lack_of_memory_stays_what_it_is() -> None:
    def compute() -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        capture(RecordingCapturer(), compute)


def test_statistics_shared_between_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(small_network())
    checks.check_is_one_process(model)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(TypeError, match=r"one process on one device; 1 is a SyncBatchNorm \(processes: 2\)"):
        GraphedInference(model)
    with pytest.raises(TypeError, match="SyncBatchNorm"):
        GraphedTrainingStep(model, bce_dice_loss, adamw(model))


def test_a_model_on_several_devices_is_refused(capturer: RecordingCapturer) -> None:
    model = small_network()
    model.register_module("4", nn.Linear(1, 1, device="meta"))
    model.forward = lambda x: model[:4](x)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="captured on one device; parameters and buffers are on cpu, meta"):
        GraphedInference(model)(batches(1)[0][0])
