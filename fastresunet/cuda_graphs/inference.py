"""Inference from CUDA graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastresunet.cuda_graphs.baked import Baked
from fastresunet.cuda_graphs.checks import check_is_one_process, device_of
from fastresunet.cuda_graphs.replays import Computation, Replays
from fastresunet.inference import FoldedResUNetPP
from fastresunet.ops.autocast import autocast_dtype


class GraphedInference(nn.Module):
    """A network whose passes on a GPU are captured in CUDA graphs: the same call, one launch for the host.

    It takes the network's place for inference: folded or not, in evaluation mode or not, under autocast or not. The
    first pass of a shape is eager, the second one is captured, and from then on it is replayed; so is what a change in
    place makes of the parameters. Graphs are captured anew when tensors were replaced (``.to()``), frozen, or a mode or
    hook was changed. Elsewhere than on GPUs every pass is eager.

    Copies of it, also by ``pickle``, begin without graphs.

    Args:
        model: maps images (N, C, H, W) to one tensor.
        max_shapes: shapes of images to capture, each with its memory; more are computed eagerly.

    Raises:
        TypeError: ``model`` is no module, or one that splits its work over devices or processes.
        ValueError: ``max_shapes`` is no integer of at least 0.
    """

    def __init__(self, model: nn.Module, max_shapes: int = 8) -> None:
        super().__init__()
        check_is_one_process(model)
        self.model = model
        self.training = model.training
        self._replays = Replays(max_shapes)
        self._folded: list[FoldedResUNetPP] = []
        self._folded_parameters: list[Tensor] = []
        self._version = 0

    @property
    def captured(self) -> list[tuple[int, ...]]:
        """Shapes of images that are replayed."""
        return self._replays.captured

    def reset(self) -> None:
        """Forget all graphs: needed after changes that they cannot see, such as another activation's constant."""
        self._replays.reset()

    def forward(self, images: Tensor) -> Tensor:
        """Return what the network returns, without a gradient.

        Args:
            images: (N, C, H, W), as the network takes them; those in memory of the host are copied to its device,
                pinned ones while the host goes on.

        Returns:
            The network's output, in memory of its own.

        Raises:
            CaptureError: the network cannot be captured, for instance as it reads a value on the host.
            TypeError: images or output are no tensors.
            ValueError: parameters are on several devices.
        """
        if not isinstance(images, Tensor):
            raise TypeError(f"the images must be a tensor (N, C, H, W), got {type(images).__name__}")
        device = device_of(self.model)
        dtype = autocast_dtype(device.type)
        # Tensors made here are kept and written to later, which those of inference mode would not allow.
        with torch.inference_mode(False), torch.no_grad():
            self._repack()
            # Casts of weights that autocast remembers would be freed under a graph.
            with torch.autocast(device.type, dtype, enabled=dtype is not None, cache_enabled=False):
                return self._replays(Computation(self._compute, device, self._bake, dtype), [images])

    def _compute(self, images: Tensor) -> Tensor:
        output = self.model(images)
        if not isinstance(output, Tensor):
            raise TypeError(f"the network must return one tensor, got {type(output).__name__}")
        return output

    def _repack(self) -> None:
        """Bring parameters that were changed in place into the packed weights that graphs read."""
        version = self._count_changes()
        if version != self._version:
            for network in self._folded:
                network.repack()
            self._version = version

    def _count_changes(self) -> int:
        return sum([parameter._version for parameter in self._folded_parameters])

    def _bake(self) -> Baked:
        self._folded = [module for module in self.model.modules() if isinstance(module, FoldedResUNetPP)]
        # Tensors of inference mode count no changes.
        parameters = [parameter for network in self._folded for parameter in network.parameters()]
        self._folded_parameters = [parameter for parameter in parameters if not parameter.is_inference()]
        self._version = self._count_changes()
        return Baked([self.model])
