"""How captures call CUDA, on a stand-in for it, and what their errors say."""

from __future__ import annotations

import threading
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
        self.pools = 0
        self.allocates_in: str | None = None  # the pool of a capture that is not ended
        self.breaks = False  # the device's capture, so that it cannot be ended

    def stream(self, name: str) -> Any:
        log = self.log

        class Stream(str):
            def wait_stream(self, other: str) -> None:
                log.append(f"{self} waits for {other}")

            def wait_event(self, event: _FakeEvent) -> None:
                log.append(f"{self} waits for the end of the last turn")

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
        assert self.allocates_in is None
        self.current, self.allocates_in = stream, pool
        try:
            yield
        finally:
            if self.breaks:
                raise RuntimeError("operation failed due to a previous error during capture")
            self.allocates_in = None
            self.current = "main"

    def new_pool(self) -> str:
        self.pools += 1
        return f"pool {self.pools}"

    def end_allocations(self, device: int, pool: str) -> None:
        if self.allocates_in != pool:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.allocates_in = None
        self.log.append(f"end allocations in {pool}")

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self.stream("side"))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.stream(self.current))
        monkeypatch.setattr(torch.cuda, "stream", self.use)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", self.new_pool)
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: _FakeGraph(self.log))
        monkeypatch.setattr(torch.cuda, "Event", lambda: _FakeEvent(self.log))
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end_allocations, raising=False)
        release = lambda device, pool: self.log.append(f"release {pool}")  # noqa: E731
        monkeypatch.setattr(torch._C, "_cuda_releasePool", release, raising=False)


class _FakeGraph:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def replay(self) -> None:
        self.log.append("replay")


class _FakeEvent:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def record(self, stream: str) -> None:
        self.log.append(f"end of a turn on {stream}")


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
    assert cuda.log == 2 * ["capture in pool 2 on side, thread_local", "compute on side"]
    cuda.log.clear()
    captures[1].replay()
    assert (cuda.log, cuda.current) == (["replay"], "main")


def test_a_pool_is_given_up_with_its_last_graph(cuda: FakeCuda) -> None:
    capturer = CudaCapturer(GPU)
    for _ in range(2):
        first, second = (capture(capturer, computing(cuda)) for _ in range(2))
        del first, second
    pools = [line.split(" on ")[0] for line in cuda.log if line.startswith("capture")]
    assert pools == 2 * ["capture in pool 2"] + 2 * ["capture in pool 3"]


@pytest.mark.parametrize("breaks", [False, True], ids=["python-fails", "device-fails"])
def test_after_a_capture_that_failed_the_next_one_has_a_pool_of_its_own(cuda: FakeCuda, breaks: bool) -> None:
    capturer = CudaCapturer(GPU)
    kept = capture(capturer, computing(cuda))
    cuda.log.clear()
    cuda.breaks = breaks
    with pytest.raises(CaptureError, match=r"\.view\(3\)"):
        capture(capturer, lambda: torch.zeros(2).view(3))
    ended = ["end allocations in pool 2", "release pool 2"] if breaks else []
    assert cuda.log == ["capture in pool 2 on side, thread_local", *ended]
    cuda.breaks = False
    capture(capturer, computing(cuda))
    assert cuda.log[-2:] == ["capture in pool 3 on side, thread_local", "compute on side"]
    kept.replay()


def test_turns_follow_one_another_on_the_device(cuda: FakeCuda) -> None:
    capturer = CudaCapturer(GPU)
    for stream in ("main", "other"):
        with cuda.use(stream), capturer.turn():
            cuda.log.append(f"turn on {stream}")
    assert cuda.log == [
        "turn on main",
        "end of a turn on main",
        "other waits for the end of the last turn",
        "turn on other",
        "end of a turn on other",
    ]


def test_a_second_thread_waits_for_its_turn(cuda: FakeCuda) -> None:
    capturer = CudaCapturer(GPU)
    began, order = threading.Event(), []

    def second() -> None:
        began.set()
        with capturer.turn():
            order.append("second")

    thread = threading.Thread(target=second)
    with capturer.turn():
        thread.start()
        began.wait()
        thread.join(timeout=0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


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
