"""ResUNet++ as published for TensorFlow, and its files of Keras."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastresunet.keras_file import KerasLayer, read_layers
from fastresunet.model import FastResUNetPP
from fastresunet.ops import Backend

PUBLISHED_RATES = (6, 12, 18, 1)
PUBLISHED_SE_REDUCTION = 8
# Stem and three encoder blocks: two convolutions, a shortcut and two dense layers each.
CONVOLUTIONS_OF_BLOCKS, EXCITATIONS_OF_BLOCKS = 12, 8
# Dimensions of a layer's parameters: kernel and bias; gamma, beta, moving mean and variance; kernel.
KINDS: dict[tuple[int, ...], type[nn.Module]] = {(4, 1): nn.Conv2d, (1, 1, 1, 1): nn.BatchNorm2d, (2,): nn.Linear}


class KerasResUNetPP(FastResUNetPP):
    """ResUNet++ with the numbers of the published TensorFlow implementation, under the published PyTorch names.

    It differs from ``FastResUNetPP`` in the padding of convolutions with stride 2, in BatchNorm's ``eps`` and
    ``momentum`` and in the order of the ASPP branches. TensorFlow's 3x3 convolution with stride 2 reads rows 2i to
    2i+2 of a map of even size, PyTorch's rows 2i-1 to 2i+1. Flipping image and kernels would turn one into the other,
    but not the shortcut beside it, which reads row 2i in both. So the convolutions with stride 2 are replaced, and the
    three encoder blocks that own them are computed plainly; all others stay fused.

    Parameters have the names of ``FastResUNetPP``. The additional buffer ``same_padding`` keeps ``load_state_dict``
    from mixing up the two networks, which would give wrong masks without an error.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits; 1 for a binary mask.
        filters: channels of the stem, the three encoder blocks and the bridge.
        se_reduction: reduction of every squeeze-and-excitation.
        aspp_rates: dilation of each branch of the two ASPP modules.
        backend: as for ``FastResUNetPP``.

    Raises:
        RuntimeError: the backend is not available.
        TypeError: an argument is no integer, or no sequence of integers.
        ValueError: an argument is out of range; the message names it.
    """

    same_padding: Tensor

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1,
        filters: Sequence[int] = (16, 32, 64, 128, 256),
        se_reduction: int = PUBLISHED_SE_REDUCTION,
        aspp_rates: Sequence[int] = PUBLISHED_RATES,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(in_channels, num_classes, filters, se_reduction, aspp_rates, backend)
        self.register_buffer("same_padding", torch.tensor(True))
        for block in (self.c2, self.c3, self.c4):
            for layers in (block.c1, block.c2):
                for index, layer in enumerate(layers):
                    if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                        layers[index] = SameConv2d(layer.in_channels, layer.out_channels, layer.kernel_size[0])
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                # Keras keeps 0.99 of the running statistics, PyTorch's momentum is the share of the new ones.
                module.eps, module.momentum = 1e-3, 0.01


class SameConv2d(nn.Conv2d):
    """Convolution with stride 2 and TensorFlow's padding ``"same"``.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        kernel_size: 1 or 3.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=2)

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / 2), ceil(W / 2))."""
        if self.kernel_size == (1, 1):
            # Every second pixel first: PyTorch's own 1x1 gradient with stride 2 can write out of bounds on CPUs.
            return F.conv2d(input[:, :, ::2, ::2], self.weight, self.bias)
        height, width = input.shape[2:]
        return F.conv2d(F.pad(input, (width % 2, 1, height % 2, 1)), self.weight, self.bias, self.stride)


def load_keras(path: str | Path, backend: Backend = "auto") -> KerasResUNetPP:
    """Build the network of a file that the published TensorFlow implementation (Jha et al. 2019) saved.

    Channels, classes and the reduction of squeeze-and-excitation follow from the shapes of the parameters; dilation
    rates from the model's description, where the file has one, otherwise they are the published ones.

    Args:
        path: ``.h5`` of a model or of its weights, or ``.weights.h5``.
        backend: as for ``FastResUNetPP``.

    Returns:
        The network in evaluation mode on the CPU, ready to train on. It maps images (N, C, H, W) to logits, where
        Keras's maps (N, H, W, C) to the probabilities after a sigmoid.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: h5py is not installed.
        ValueError: the file does not hold this network; the message names the layer.
    """
    path = Path(path)
    layers = read_layers(path)
    try:
        kinds = _by_kind(layers)
        model = KerasResUNetPP(**_network_arguments(kinds), backend=backend)
        for module_class, found in kinds.items():
            _fill(model, module_class, found)
    except ValueError as error:
        raise ValueError(f"{path} does not hold the published TensorFlow ResUNet++: {error}") from error
    return model.eval()


def _by_kind(layers: Sequence[KerasLayer]) -> dict[type[nn.Module], list[KerasLayer]]:
    kinds: dict[type[nn.Module], list[KerasLayer]] = {kind: [] for kind in KINDS.values()}
    for layer in layers:
        kind = KINDS.get(tuple(array.ndim for array in layer.arrays))
        if kind is None:
            raise ValueError(
                f"layer {layer.name} has parameters of shapes {[tuple(array.shape) for array in layer.arrays]}, which "
                "are those of no convolution, normalisation or dense layer without bias"
            )
        kinds[kind].append(layer)
    return kinds


def _network_arguments(kinds: dict[type[nn.Module], list[KerasLayer]]) -> dict[str, Any]:
    convolutions, excitations = kinds[nn.Conv2d], kinds[nn.Linear]
    # The first ASPP ends with the first 1x1 convolution after the blocks.
    after_blocks = convolutions[CONVOLUTIONS_OF_BLOCKS:]
    branches = next((i for i, layer in enumerate(after_blocks) if layer.arrays[0].shape[:2] == (1, 1)), 0)
    if not branches or len(excitations) < EXCITATIONS_OF_BLOCKS:
        raise ValueError(
            f"its {len(convolutions)} convolutions and {len(excitations)} dense layers without bias are not those of "
            "a stem, three encoder blocks and an ASPP"
        )
    rates: Sequence[int] = PUBLISHED_RATES
    if all(layer.settings for layer in after_blocks[:branches]):
        rates = [layer.settings["dilation_rate"][0] for layer in after_blocks[:branches]]
    elif branches != len(rates):
        raise ValueError(f"its ASPP has {branches} branches, whose dilation rates a file of weights alone does not say")
    # Of each block the first convolution, and the first branch of the ASPP.
    filters = [layer.arrays[0].shape[3] for layer in convolutions[: CONVOLUTIONS_OF_BLOCKS + 1 : 3]]
    return {
        "in_channels": convolutions[0].arrays[0].shape[2],
        "num_classes": convolutions[-1].arrays[0].shape[3],
        "filters": filters,
        "se_reduction": _reduction(filters[:-1], excitations[:EXCITATIONS_OF_BLOCKS:2]),
        "aspp_rates": rates,
    }


def _reduction(channels: Sequence[int], squeezes: Sequence[KerasLayer]) -> int:
    hidden = [layer.arrays[0].shape[1] for layer in squeezes]
    # Several reductions may give the same layers; the published one is named where it does.
    for reduction in (PUBLISHED_SE_REDUCTION, *range(1, min(channels) + 1)):
        if [width // reduction for width in channels] == hidden:
            return reduction
    raise ValueError(
        f"the layers {', '.join(layer.name for layer in squeezes)} have {hidden} units, which no reduction of "
        f"{list(channels)} channels gives"
    )


def _fill(model: KerasResUNetPP, module_class: type[nn.Module], layers: Sequence[KerasLayer]) -> None:
    """Copy the parameters of one kind of layer, which a file holds in the order in which the network registers them.

    There is one exception: in the order of the graph the 1x1 shortcut stands before the second 3x3 convolution.
    """
    found = list(layers)
    targets = [(name, module) for name, module in model.named_modules() if isinstance(module, module_class)]
    for index, (name, module) in enumerate(targets):
        if index == len(found):
            raise ValueError(f"there is no layer for {name}: it has {index} of {len(targets)} {module_class.__name__}")
        if isinstance(module, nn.Conv2d) and found[index].arrays[0].shape[:2] != module.kernel_size:
            found[index : index + 2] = reversed(found[index : index + 2])
        _check_settings(found[index], module)
        _copy(found[index], module, name)
    if len(found) > len(targets):
        raise ValueError(f"layer {found[len(targets)].name} is one more than the network has")


def _copy(layer: KerasLayer, module: nn.Module, name: str) -> None:
    # The order is Keras's as well: kernel, bias; or gamma, beta, moving mean, moving variance.
    targets = [tensor for key, tensor in module.state_dict().items() if key != "num_batches_tracked"]
    for target, array in zip(targets, layer.arrays, strict=True):
        # Keras keeps kernels as height, width, in, out, PyTorch as out, in, height, width.
        value = array.permute(3, 2, 0, 1) if array.ndim == 4 else array.T if array.ndim == 2 else array
        if value.shape != target.shape:
            raise ValueError(
                f"layer {layer.name} does not fit {name}: shape {tuple(value.shape)} where {tuple(target.shape)} is "
                "expected, in PyTorch's order of dimensions"
            )
        target.copy_(value)


def _check_settings(layer: KerasLayer, module: nn.Module) -> None:
    expected: dict[str, Any] = {}
    if isinstance(module, nn.Conv2d):
        expected = {"strides": list(module.stride), "dilation_rate": list(module.dilation), "padding": "same"}
    elif isinstance(module, nn.BatchNorm2d):
        expected = {"epsilon": module.eps}
    for setting, value in expected.items():
        given = layer.settings.get(setting, value)
        if given != value:
            raise ValueError(f"layer {layer.name} has {setting} {given}, expected {value}")
