"""A segmentation data set at training size in one file, small enough to carry to a GPU: JPEG images, packed masks.

Run: python -m benchmarks.pretraining.packed --data Kvasir-SEG --out kvasir256.npz
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastresunet.training.data import Pair
from fastresunet.training.split import split_pairs
from fastresunet.training.transforms import resize_image, resize_mask

_QUALITY = 95
SPLITS = ("train", "val")


class Split(NamedTuple):
    """Images of one list of a data set.

    Attributes:
        names: of the images.
        images: (N, 3, size, size) uint8.
        masks: (N, 1, size, size) bool.
    """

    names: list[str]
    images: Tensor
    masks: Tensor


def pack(data: Path, out: Path, size: int) -> dict[str, int]:
    """Write the file, and return how many images each split has.

    Args:
        data: folder with ``images``, ``masks``, ``train.txt`` and ``val.txt``.
        out: file to write; numpy's ``.npz``.
        size: height and width in pixels.

    Raises:
        UserError: the folder has another form, or a file cannot be read.
    """
    arrays: dict[str, Any] = {"size": np.array(size)}
    for split, pairs in zip(SPLITS, split_pairs(data), strict=True):
        arrays[f"{split} names"] = np.array([pair.name for pair in pairs])
        images = [_jpeg(pair, size) for pair in pairs]
        arrays[f"{split} lengths"] = np.array([len(image) for image, _ in images])
        arrays[f"{split} images"] = np.frombuffer(b"".join(image for image, _ in images), np.uint8)
        arrays[f"{split} masks"] = np.packbits(np.stack([mask for _, mask in images]))
    with out.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return {split: len(arrays[f"{split} names"]) for split in SPLITS}


def _jpeg(pair: Pair, size: int) -> tuple[bytes, NDArray[np.uint8]]:
    image, mask = pair.read()
    content = io.BytesIO()
    pixels = resize_image(image, size).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(content, "JPEG", quality=_QUALITY, subsampling=0)
    return content.getvalue(), resize_mask(mask, size).numpy()


def unpack(file: Path, split: str) -> Split:
    """Read one split of a file that ``pack`` has written.

    Args:
        file: the file; reading it runs no code.
        split: one of ``SPLITS``.
    """
    with np.load(file, allow_pickle=False) as arrays:
        size, names = int(arrays["size"]), arrays[f"{split} names"].tolist()
        ends = np.cumsum(arrays[f"{split} lengths"])[:-1]
        contents = np.split(arrays[f"{split} images"], ends)
        bits = np.unpackbits(arrays[f"{split} masks"], count=len(names) * size * size)
    images = [np.asarray(Image.open(io.BytesIO(content.tobytes()))) for content in contents]
    masks = torch.from_numpy(bits.reshape(len(names), 1, size, size)).bool()
    return Split(names, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), masks)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with images, masks, train.txt and val.txt")
    parser.add_argument("--out", type=Path, required=True, help="the file, such as kvasir256.npz")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels (default: 256)")
    options = parser.parse_args()
    counts = pack(options.data, options.out, options.size)
    listed = ", ".join(f"{count} images of {split}" for split, count in counts.items())
    print(f"{listed}, {options.out.stat().st_size / 1e6:.1f} MB: {options.out}")


if __name__ == "__main__":
    main()
