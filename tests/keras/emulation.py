"""The published Keras network in Keras's conventions, and files of it: independent of the package's own network.

Maps are (N, H, W, C); every convolution is a sum over taps of pixels times a matrix, with TensorFlow's "same" padding:
of the rows that are missing, the smaller half comes before the first one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


class KerasEmulation:
    """A network with random parameters of float32 values, kept and computed in float64.

    Args:
        in_channels: channels of the image.
        filters: channels of the stem, three encoder blocks and the bridge.
        classes: channels of the logits.
        reduction: of squeeze-and-excitation.
    """

    def __init__(
        self, in_channels: int = 3, filters: tuple[int, ...] = (4, 6, 8, 12, 10), classes: int = 1, reduction: int = 2
    ) -> None:
        self.filters, self.classes, self.reduction = filters, classes, reduction
        self.generator = np.random.default_rng(0)
        self.layers: dict[str, list[Tensor]] = {}  # in the order of creation
        self.settings: dict[str, dict[str, Any]] = {}
        self.shortcuts: list[str] = []
        self.counts: dict[str, int] = {}
        self(torch.rand(1, 16, 16, in_channels, dtype=torch.float64))

    def __call__(self, image: Tensor) -> Tensor:
        """Return logits (N, H, W, classes) for images (N, H, W, C); H and W are multiples of 8."""
        self.counts = {}
        f0, f1, f2, f3, f4 = self.filters
        c1 = self.excite(self.residual(image, self.conv(image, f0, 3), f0, 1))
        c2 = self.block(c1, f1, 2)
        c3 = self.block(c2, f2, 2)
        c4 = self.block(c3, f3, 2)
        x = self.aspp(c4, f4)
        for skip, filters in ((c3, f3), (c2, f2), (c1, f1)):
            gated = self.attention(skip, x)
            upsampled = gated.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
            x = self.block(torch.cat([upsampled, skip], dim=3), filters, 1)
        return self.conv(self.aspp(x, f0), self.classes, 1)

    def block(self, x: Tensor, filters: int, stride: int) -> Tensor:
        return self.excite(self.residual(x, self.conv(self.norm(x).relu(), filters, 3, stride), filters, stride))

    def residual(self, x: Tensor, hidden: Tensor, filters: int, stride: int) -> Tensor:
        hidden = self.conv(self.norm(hidden).relu(), filters, 3)
        shortcut = self.conv(x, filters, 1, stride)
        name = f"conv2d_{self.counts['conv2d']}"
        self.shortcuts += [name] * (name not in self.shortcuts)
        return hidden + self.norm(shortcut)

    def excite(self, x: Tensor) -> Tensor:
        channels = x.shape[3]
        gate = self.dense(x.mean(dim=(1, 2), keepdim=True), channels // self.reduction).relu()
        return x * self.dense(gate, channels).sigmoid()

    def aspp(self, x: Tensor, filters: int) -> Tensor:
        branches = [self.norm(self.conv(x, filters, 3, rate=rate)) for rate in (6, 12, 18, 1)]
        return self.conv(torch.stack(branches).sum(dim=0), filters, 1)

    def attention(self, skip: Tensor, x: Tensor) -> Tensor:
        filters = x.shape[3]
        g = self.conv(self.norm(skip).relu(), filters, 3)
        pooled = g.unfold(1, 2, 2).unfold(2, 2, 2).amax(dim=(-2, -1))
        return self.conv(self.norm(pooled + self.conv(self.norm(x).relu(), filters, 3)).relu(), filters, 3) * x

    def conv(self, x: Tensor, filters: int, size: int, stride: int = 1, rate: int = 1) -> Tensor:
        settings = {"strides": [stride] * 2, "dilation_rate": [rate] * 2, "padding": "same", "filters": filters}
        shapes = {"kernel": (size, size, x.shape[3], filters), "bias": (filters,)}
        kernel, bias = self.parameters("conv2d", settings, shapes)
        extent = (size - 1) * rate + 1
        rows, columns = ((pixels + stride - 1) // stride for pixels in x.shape[1:3])
        top, left = (max((r - 1) * stride + extent - n, 0) for r, n in ((rows, x.shape[1]), (columns, x.shape[2])))
        padded = F.pad(x, (0, 0, left // 2, left - left // 2, top // 2, top - top // 2))
        result = bias.expand(x.shape[0], rows, columns, filters)
        for a in range(size):
            for b in range(size):
                taken = padded[:, a * rate :, b * rate :][:, ::stride, ::stride][:, :rows, :columns]
                result = result + taken @ kernel[a, b]
        return result

    def norm(self, x: Tensor) -> Tensor:
        shapes = dict.fromkeys(ARRAY_NAMES[4], (x.shape[3],))
        gamma, beta, mean, variance = self.parameters("batch_normalization", {"epsilon": 1e-3}, shapes)
        return (x - mean) / (variance + 1e-3).sqrt() * gamma + beta

    def dense(self, x: Tensor, units: int) -> Tensor:
        return x @ self.parameters("dense", {"units": units}, {"kernel": (x.shape[3], units)})[0]

    def parameters(self, kind: str, settings: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[Tensor]:
        count = self.counts[kind] = self.counts.get(kind, -1) + 1
        name = f"{kind}_{count}" if count else kind
        if name not in self.layers:
            self.settings[name] = settings
            self.layers[name] = [torch.from_numpy(self.values(key, shape)) for key, shape in shapes.items()]
        return self.layers[name]

    def values(self, key: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        if key in ("gamma", "moving_variance"):
            value = self.generator.uniform(0.5, 1.5, shape)
        else:
            value = self.generator.normal(0, np.sqrt(2 / np.prod(shape[:-1])) if len(shape) > 1 else 0.1, shape)
        return value.astype(np.float32).astype(np.float64)

    def graph_order(self) -> list[str]:
        """Return the names as Keras lists them: a shortcut stands before the second convolution beside it."""
        names = list(self.layers)
        for shortcut in self.shortcuts:
            second = f"conv2d_{int(shortcut.rpartition('_')[2]) - 1}"
            i, j = names.index(second), names.index(shortcut)
            names[i], names[j] = names[j], names[i]
        return names


ARRAY_NAMES = {
    1: ["kernel"],
    2: ["kernel", "bias"],
    4: ["gamma", "beta", "moving_mean", "moving_variance"],
}


def write_model(emulation: KerasEmulation, path: Path) -> None:
    """Write the layout of ``model.save("model.h5")``."""
    layers = [{"config": {"name": name, **settings}} for name, settings in emulation.settings.items()]
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": {"layers": layers}})
        _write_named(emulation, file.create_group("model_weights"), suffix="")


def write_keras2_weights(emulation: KerasEmulation, path: Path) -> None:
    """Write the layout of ``model.save_weights("weights.h5")`` of Keras 2."""
    with h5py.File(path, "w") as file:
        _write_named(emulation, file, suffix=":0")


def write_keras3_weights(emulation: KerasEmulation, path: Path) -> None:
    """Write the layout of ``model.save_weights("model.weights.h5")`` of Keras 3."""
    counts: dict[str, int] = {}
    with h5py.File(path, "w") as file:
        for name in emulation.graph_order():
            kind = name.rstrip("0123456789").rstrip("_")
            count = counts[kind] = counts.get(kind, -1) + 1
            group = file.create_group(f"layers/{kind}_{count}/vars" if count else f"layers/{kind}/vars")
            group.attrs["name"] = name
            for index, array in enumerate(emulation.layers[name]):
                group[str(index)] = array.numpy().astype(np.float32)
        file.create_group("layers/activation/vars")


def _write_named(emulation: KerasEmulation, group: h5py.Group, suffix: str) -> None:
    names = emulation.graph_order()
    # Byte strings, as older versions of Keras wrote them; newer ones write text.
    group.attrs["layer_names"] = [b"input_1", *(name.encode() for name in names)]
    group.create_group("input_1").attrs["weight_names"] = []
    for name in names:
        arrays = emulation.layers[name]
        keys = [f"{name}/{key}{suffix}" for key in ARRAY_NAMES[len(arrays)]]
        layer = group.create_group(name)
        layer.attrs["weight_names"] = [key.encode() for key in keys]
        for key, array in zip(keys, arrays, strict=True):
            layer[key] = array.numpy().astype(np.float32)
