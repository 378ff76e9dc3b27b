"""The layers with parameters in an HDF5 file of Keras, whichever of its layouts the file has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class KerasLayer:
    """One layer with parameters.

    Attributes:
        name: its name in Keras.
        arrays: its parameters in Keras's order and layout, float32.
        settings: its arguments, empty in a file of weights alone.
    """

    name: str
    arrays: list[Tensor]
    settings: dict[str, Any] = field(default_factory=dict)


def read_layers(path: Path) -> list[KerasLayer]:
    """Read the layers with parameters, those of each kind in the order of the graph.

    Three layouts are known: ``model.save("model.h5")``, ``model.save_weights("weights.h5")`` of Keras 2, and
    ``model.save_weights("model.weights.h5")`` of Keras 3. Nothing in the file is run.

    Args:
        path: HDF5 file.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: h5py is not installed.
        ValueError: the file is no HDF5 file, or none that Keras wrote.
    """
    try:
        import h5py  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'reading files of Keras needs h5py. Run: pip install "fastresunet[keras]"', name="h5py"
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"there is no Keras file {path}")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path} is no HDF5 file; give the .h5 or .weights.h5 file that Keras wrote")
    try:
        with h5py.File(path, "r") as file:
            if "model_weights" in file or "layer_names" in file.attrs:
                found = list(_named_layers(file.get("model_weights", file), _settings(file)))
            elif "layers" in file:
                found = list(_numbered_layers(file["layers"]))
            else:
                raise ValueError(
                    f"it has the entries {sorted(file)}, but neither 'model_weights', 'layers' nor names of layers"
                )
    # A damaged file can make the reader raise anything.
    except Exception as error:
        raise ValueError(f"{path} is not a file of Keras that can be read: {error}") from error
    return [layer for layer in found if layer.arrays]


def _named_layers(group: Any, settings: dict[str, dict[str, Any]]) -> Iterator[KerasLayer]:
    for name in map(_text, group.attrs["layer_names"]):
        arrays = [_tensor(group[name][_text(weight)]) for weight in group[name].attrs["weight_names"]]
        yield KerasLayer(name, arrays, settings.get(name, {}))


def _numbered_layers(group: Any) -> Iterator[KerasLayer]:
    # Layers are called by their class and counted anew in the order of the graph: conv2d, conv2d_1, ... conv2d_10.
    for key in sorted(group, key=_number):
        variables = group[key]["vars"]
        yield KerasLayer(key, [_tensor(variables[index]) for index in sorted(variables, key=int)])


def _settings(file: Any) -> dict[str, dict[str, Any]]:
    if "model_config" not in file.attrs:
        return {}
    layers = json.loads(_text(file.attrs["model_config"]))["config"]["layers"]
    return {layer["config"]["name"]: layer["config"] for layer in layers}


def _number(key: str) -> int:
    last = key.rpartition("_")[2]
    return int(last) if last.isdigit() else 0


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _tensor(dataset: Any) -> Tensor:
    return torch.from_numpy(dataset[()]).float()
