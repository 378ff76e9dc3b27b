"""What captures: a stream of its own and a memory pool that all graphs of an owner share."""

from __future__ import annotations

import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor


class CaptureError(RuntimeError):
    """A computation cannot be captured in a CUDA graph; the message names the line that is in the way."""


@dataclass(frozen=True)
class Capture:
    """A captured computation.

    Attributes:
        result: where every replay leaves its result.
        replay: computes again what was captured, on the current stream, without running Python.
    """

    result: Tensor
    replay: Callable[[], None]


class Capturer(Protocol):
    """Runs and captures computations on one device."""

    def run(self, compute: Callable[[], Tensor]) -> Tensor:
        """Compute now, where captures happen too."""

    def capture(self, compute: Callable[[], Tensor]) -> Capture:
        """Record what a computation launches; nothing is computed before the first replay."""

    def turn(self) -> AbstractContextManager[None]:
        """Return a context for one user of the graphs' memory at a time, on the host and on the device."""


class CudaCapturer:
    """Captures CUDA graphs.

    What runs before a capture runs on the same stream: autograd keeps the stream in which it first met a parameter.

    Args:
        device: CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._end_of_turn: torch.cuda.Event | None = None

    def run(self, compute: Callable[[], Tensor]) -> Tensor:
        """Compute on the stream of the captures; the current stream waits for it."""
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = compute()
        current.wait_stream(self._stream)
        return result

    def capture(self, compute: Callable[[], Tensor]) -> Capture:
        """Capture a CUDA graph; other threads, such as one that pins memory, may use CUDA meanwhile."""
        if not self._graphs:  # PyTorch gives up a pool with the last graph in it
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # PyTorch stays on the stream of a capture that failed: the outer block leaves it.
        outside = torch.cuda.stream(torch.cuda.current_stream(self.device))
        try:
            with outside, torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                result = compute()
        except BaseException:
            self._give_up_pool()
            raise
        self._graphs.add(graph)
        return Capture(result, graph.replay)

    def _give_up_pool(self) -> None:
        """Take another pool after a capture that failed: PyTorch may go on allocating in the old one."""
        try:
            torch._C._cuda_endAllocateToPool(self.device.index, self._pool)
        except RuntimeError:
            pass  # it has ended that, as after errors in Python
        else:
            torch._C._cuda_releasePool(self.device.index, self._pool)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for other threads, and on the device for what they have launched on other streams."""
        with self._lock:
            stream = torch.cuda.current_stream(self.device)
            if self._end_of_turn is None:
                self._end_of_turn = torch.cuda.Event()
            else:
                stream.wait_event(self._end_of_turn)
            try:
                yield
            finally:
                self._end_of_turn.record(stream)


def capturer_for(device: torch.device) -> Capturer | None:
    """Return what captures on a device, ``None`` where nothing can."""
    return CudaCapturer(device) if device.type == "cuda" else None


def capture(capturer: Capturer, compute: Callable[[], Tensor]) -> Capture:
    """Capture a computation.

    Args:
        capturer: of the device.
        compute: launches the work and returns its result.

    Raises:
        CaptureError: it did what a graph cannot hold.
        torch.OutOfMemoryError: the graph needs more memory than there is.
    """
    failures: list[Exception] = []

    def watched() -> Tensor:
        try:
            return compute()
        except Exception as error:
            failures.append(error)
            raise

    try:
        return capturer.capture(watched)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # Ending a capture that was broken off fails too, and says less.
        cause = failures[0] if failures else error
        raise CaptureError(
            f"this computation cannot be captured in a CUDA graph: {type(cause).__name__}: {cause} ({_place(cause)}). "
            "What is captured must not read values of tensors on the host (.item(), float(), if, .cpu(), nonzero), "
            "make tensors from Python numbers on the device, or wait for the device. Change that, or compute it "
            "without a graph."
        ) from cause


def _place(error: Exception) -> str:
    """Return the innermost line outside of PyTorch."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = str(Path(torch.__file__).parent)
    frame = next((x for x in reversed(frames) if not x.filename.startswith(inside)), frames[-1])
    return f"{frame.filename}, line {frame.lineno}: {frame.line}"
