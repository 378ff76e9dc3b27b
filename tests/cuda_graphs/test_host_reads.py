"""A step reads nothing on the host and brings nothing from it, inside of the custom operations too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from fastresunet_kernels import interpreter, launch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastresunet import FastResUNetPP, GraphedInference, GraphedTrainingStep, fold
from fastresunet.cuda_graphs import capture
from fastresunet.cuda_graphs.capture import Capture
from fastresunet.ops import Backend
from fastresunet.training.losses import bce_dice_loss

from .recorder import RecordingCapturer, reads_on_the_host
from .training_cases import adamw, batches

FILTERS = (8, 8, 8, 8, 8)


class Refusing(TorchDispatchMode):
    """Refuses operators that wait for a device, and tensors on another one than ``device_type``."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.key = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, device_type.upper()))
        self.device_type = device_type
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        options = options or {}
        self.seen.append(function.name())
        assert not reads_on_the_host(function, arguments), function.name()
        if function.namespace == "fastresunet":
            with self:
                return function.redispatch(self.key, *arguments, **options)
        found = function(*arguments, **options)
        elsewhere = [
            x for x in tree_leaves((arguments, options, found)) if isinstance(x, Tensor) and self.is_elsewhere(x)
        ]
        assert not elsewhere or function.namespace != "aten", f"{function.name()} {elsewhere}"
        return found

    def is_elsewhere(self, x: Tensor) -> bool:
        return x.device.type != self.device_type


class RefusingCapturer(RecordingCapturer):
    """Computes what it should capture, and refuses as a capture would."""

    def __init__(self) -> None:
        super().__init__()
        self.mode = Refusing("cpu")

    def capture(self, compute: Callable[[], Tensor]) -> Capture:
        self.captures += 1
        with self.mode:
            return Capture(compute(), lambda: None)


@pytest.fixture(params=["torch", "triton"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each backend; kernels are launched but kept from running, so their results are arbitrary."""
    with mock.patch.object(interpreter, "runs_on_the_cpu", return_value=True), launch.observed(lambda seen: False):
        yield request.param


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> RefusingCapturer:
    capturer = RefusingCapturer()
    monkeypatch.setattr(capture, "capturer_for", lambda device: capturer)
    return capturer


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_training_step(refusing: RefusingCapturer, backend: Backend, autocast: torch.dtype | None) -> None:
    model = FastResUNetPP(filters=FILTERS, backend=backend)
    step = GraphedTrainingStep(model, bce_dice_loss, adamw(model), autocast=autocast, clip_norm=1.0)
    for batch in 2 * batches(2):
        step(*batch)
    assert refusing.captures == 1
    seen = set(refusing.mode.seen)
    assert {"fastresunet::conv_backward", "aten::_fused_adamw_.tensor_lr", "aten::_foreach_lerp_.Scalar"} <= seen


@pytest.mark.parametrize("folds", [False, True], ids=["", "folded"])
def test_inference(refusing: RefusingCapturer, backend: Backend, folds: bool) -> None:
    model = FastResUNetPP(filters=FILTERS, backend=backend).eval()
    graphed = GraphedInference(fold(model, backend=backend) if folds else model)
    for images, _ in 2 * batches(2):
        graphed(images)
    assert refusing.captures == 1


@pytest.mark.skipif(
    not torch.backends.cuda.is_built(), reason="a PyTorch built without CUDA has no such device to name"
)
@pytest.mark.parametrize("mode", ["training", "evaluation", "folded"])
def test_a_forward_pass_on_a_gpu_makes_no_tensor_on_the_host(backend: Backend, mode: str) -> None:
    model: nn.Module = FastResUNetPP(filters=FILTERS, backend=backend).train(mode == "training")
    if mode == "folded":
        model = fold(model, backend=backend)  # type: ignore[arg-type]
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        on_gpu = {
            name: fake.from_tensor(tensor).to("cuda")
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        }
        images, masks = (torch.empty(2, channels, 16, 16, device="cuda") for channels in (3, 1))

        def compute() -> Tensor:
            logits = torch.func.functional_call(model, on_gpu, images)
            return bce_dice_loss(logits, masks)

        with torch.set_grad_enabled(mode == "training"):
            compute()  # packs the weights of the folded network
            with Refusing("cuda") as refusing:
                assert compute().device.type == "cuda"
    assert len(refusing.seen) > 20


def test_planted_reads_are_found() -> None:
    with Refusing("cpu"), pytest.raises(AssertionError, match="_local_scalar_dense"):
        torch.ones(()).item()
    with FakeTensorMode(), Refusing("cuda"), pytest.raises(AssertionError, match=r"aten::_to_copy|aten::ones"):
        torch.ones(2, device="cuda").cpu()
