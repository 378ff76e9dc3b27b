"""FastResUNetPP: ResUNet++ with the published parameters and numbers, computed by fused operations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fastresunet.blocks import ASPP, DecoderBlock, FusedBlock, ResidualBlock, StemBlock
from fastresunet.feature_map import FeatureMap
from fastresunet.ops import Backend, Source, check_backend, conv
from fastresunet.ops.autocast import autocast_dtype
from fastresunet.pretrained import build
from fastresunet.reference import ResUNetPP
from fastresunet.running_statistics import updated_together
from fastresunet.weights_folder import find_weights, write_folder

_SIZE_MULTIPLE = 8  # three halvings
Network = TypeVar("Network", bound="FastResUNetPP")


class FastResUNetPP(ResUNetPP):
    """ResUNet++ (Jha et al. 2019, arXiv:1911.07067), a drop-in for the published PyTorch model: logits out, no sigmoid.

    Parameters, buffers, their names and order are those of ``ResUNetPP``; checkpoints load both ways.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits; 1 for a binary mask.
        filters: channels of the stem, the three encoder blocks and the bridge.
        se_reduction: reduction of every squeeze-and-excitation.
        aspp_rates: dilation of each branch of the two ASPP modules.
        backend: what computes the fused operations: ``"torch"``, plain PyTorch on any device; ``"triton"``, Triton
            kernels, on GPUs; ``"auto"``, Triton kernels on GPUs where Triton is installed, plain PyTorch elsewhere.

    Raises:
        RuntimeError: the backend is not available.
        TypeError: an argument is no integer, or no sequence of integers.
        ValueError: an argument is out of range; the message names it.
    """

    stem_class = StemBlock
    residual_class = ResidualBlock
    aspp_class = ASPP
    decoder_class = DecoderBlock
    aspp: ASPP

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1,
        filters: Sequence[int] = (16, 32, 64, 128, 256),
        se_reduction: int = 8,
        aspp_rates: Sequence[int] = (1, 6, 12, 18),
        backend: Backend = "auto",
    ) -> None:
        check_backend(backend)
        super().__init__(in_channels, num_classes, filters, se_reduction, aspp_rates)
        self.backend = backend
        self.aspp.feeds_normalization = False
        for module in self.modules():
            if isinstance(module, FusedBlock):
                module.backend = backend

    @classmethod
    def from_pretrained(
        cls: type[Network], name: str | Path, backend: Backend = "auto", revision: str | None = None
    ) -> Network:
        """Return a network with trained weights, in evaluation mode on the CPU.

        Args:
            name: weights that come with the package, such as ``"kvasir-seg"``: polyps in colonoscopy images, see
                ``fastresunet/weights/kvasir-seg.md``; a folder that ``save_pretrained`` has written; or a repository
                ``"owner/name"`` of Hugging Face with such files.
            backend: see ``FastResUNetPP``.
            revision: branch, tag or commit of the repository; None takes its newest.

        Raises:
            CheckpointError: the weights are not those of this network.
            ModuleNotFoundError: the package ``safetensors`` is missing, or for a repository ``huggingface_hub``.
            ValueError: there are no weights of that name; the message lists all.
        """
        return build(cls, find_weights(name, revision), str(name), backend=backend)

    def save_pretrained(self, folder: str | Path, size: int | None = None, classes: Sequence[str] = ()) -> None:
        """Write ``model.safetensors`` and ``config.json``, which ``from_pretrained`` and ``fastresunet.load`` read.

        Args:
            folder: to write to; made if missing.
            size: height and width in pixels of the images it was trained on; None if unknown.
            classes: of its masks, the background first, with their pixel values, such as ``"polyp 1"``, for
                ``fastresunet evaluate`` and ``predict``; none numbers them.

        Raises:
            OSError: a file cannot be written.
            ValueError: a parameter is not finite.
        """
        write_folder(Path(folder), type(self).__name__, self.arguments, self.state_dict(), size, tuple(classes))

    @property
    def arguments(self) -> dict[str, Any]:
        """What to construct an equal network with, as JSON can hold it."""
        return {
            "in_channels": self.in_channels,
            "num_classes": self.num_classes,
            "filters": list(self.filters),
            "se_reduction": self.se_reduction,
            "aspp_rates": list(self.aspp_rates),
        }

    def forward(self, x: Tensor) -> Tensor:
        """Return logits for images of any size from 8 x 8 on.

        Sizes that are no multiple of 8 are padded on the right and at the bottom by repeating the last column and row,
        and the logits are cropped back.

        Args:
            x: images (N, in_channels, H, W) in the parameters' dtype (any floating dtype under autocast).

        Returns:
            Logits (N, num_classes, H, W).

        Raises:
            TypeError: ``x`` is no floating-point tensor of the parameters' dtype.
            ValueError: shape or device of ``x`` do not fit.
        """
        self._check_image(x)
        height, width = x.shape[2:]
        bottom, right = ((_SIZE_MULTIPLE - size % _SIZE_MULTIPLE) % _SIZE_MULTIPLE for size in (height, width))
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        with updated_together():
            features = self._features(x)
        weight, bias = self.output.weight, self.output.bias
        logits = conv([Source(features.to_tensor())], weight, bias, statistics=False, backend=self.backend).data
        return logits[:, :, :height, :width].contiguous()

    def _features(self, x: Tensor) -> FeatureMap:
        # Two convolutions read the image: convert it once.
        dtype = autocast_dtype(x.device.type) or x.dtype
        c1 = self.c1(FeatureMap(x.to(dtype=dtype, memory_format=torch.channels_last)))
        c2 = self.c2(c1)
        c3 = self.c3(c2)
        c4 = self.c4(c3)
        bridge = self.b1(c4)
        d1 = self.d1(c3, bridge)
        d2 = self.d2(c2, d1)
        d3 = self.d3(c1, d2)
        features: FeatureMap = self.aspp(d3)
        return features

    def _check_image(self, x: Tensor) -> None:
        expected = f"a floating-point tensor (N, {self.in_channels}, H, W) with H and W of at least {_SIZE_MULTIPLE}"
        if not isinstance(x, Tensor):
            raise TypeError(f"the image must be {expected}, got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(f"the image must be {expected}, got dtype {x.dtype}; convert it, e.g. x.float() / 255")
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < _SIZE_MULTIPLE or x.shape[0] < 1:
            raise ValueError(f"the image must be {expected}, got shape {tuple(x.shape)}")
        weight = self.output.weight
        if x.device != weight.device:
            raise ValueError(
                f"the image is on {x.device}, the model on {weight.device}: move one of them with .to(device)"
            )
        if x.dtype != weight.dtype and autocast_dtype(x.device.type) is None:
            raise TypeError(f"the image is {x.dtype}, the model {weight.dtype}: convert one of them with .to(dtype)")
