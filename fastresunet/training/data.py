"""Find pairs of images and masks in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fastresunet.training.data_format import KVASIR_SEG, DataFormat
from fastresunet.training.errors import UserError
from fastresunet.training.images import IMAGE_SUFFIXES, read_image
from fastresunet.training.masks import read_mask

LAYOUT = "Expected: DIR/images and DIR/masks with files of equal names, for example images/7.jpg and masks/7.png."


@dataclass(frozen=True)
class Pair:
    """An image and its mask.

    Args:
        name: file name of the image without suffix.
        image: image file.
        mask: mask file.
        form: how they are read.
    """

    name: str
    image: Path
    mask: Path
    form: DataFormat = KVASIR_SEG

    def read(self) -> tuple[Tensor, Tensor]:
        """Read both files.

        Returns:
            Image, uint8 tensor (channels, H, W), and class of each pixel, uint8 tensor (H, W).

        Raises:
            UserError: a file cannot be read, or they differ in size.
        """
        image, mask = read_image(self.image, self.form.channels), read_mask(self.mask, self.form)
        if image.shape[1:] != mask.shape:
            raise UserError(
                f"mask {self.mask} is {mask.shape[1]}x{mask.shape[0]} pixels (width x height) but its image "
                f"{self.image} is {image.shape[2]}x{image.shape[1]}. Both must have the same size: "
                "replace the wrong file or remove the pair."
            )
        return image, mask


def list_images(folder: Path) -> dict[str, Path]:
    """Return the image files of a folder by their name without suffix, sorted.

    Args:
        folder: folder to list; sub-folders are not entered.

    Raises:
        UserError: the folder is missing or holds no image, or two files share a name.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}. {LAYOUT}")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in images:
            raise UserError(
                f"{images[path.stem]} and {path} share the name {path.stem!r}; remove or rename one of them."
            )
        images[path.stem] = path
    if not images:
        raise UserError(f"no image in {folder}; looked for files that end in {', '.join(IMAGE_SUFFIXES)}.")
    return images


def find_pairs(data: Path, form: DataFormat = KVASIR_SEG) -> list[Pair]:
    """List the pairs of a data folder, sorted by name.

    Args:
        data: folder with the sub-folders ``images`` and ``masks``.
        form: how their files are read, and what names of masks have after those of images.

    Raises:
        UserError: a folder is missing or empty, or a file has no partner.
    """
    images, masks = list_images(data / "images"), _list_masks(data / "masks", form.mask_suffix)
    for files, partners, kind, folder in ((masks, images, "image", "images"), (images, masks, "mask", "masks")):
        alone = [path for name, path in files.items() if name not in partners]
        if alone:
            others = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
            same = "the same name" if not form.mask_suffix else f"that name and {form.mask_suffix!r} after it"
            same = same if kind == "mask" else "the same name"
            raise UserError(
                f"{alone[0]}{others} has no {kind} of {same} in {data / folder}. "
                f"Add the missing {kind} or remove the file{_suffix_hint(masks, images, form)}."
            )
    return [Pair(name, path, masks[name], form) for name, path in images.items()]


def _list_masks(folder: Path, suffix: str) -> dict[str, Path]:
    """Return mask files by the name of their image."""
    files = list_images(folder)
    for name, path in files.items():
        if not name.endswith(suffix) or name == suffix:
            raise UserError(
                f"the name of {path} does not end in {suffix!r}, which --mask-suffix, or the training, says of all "
                "masks; --mask-suffix '' is for masks that are called as their images."
            )
    return {name.removesuffix(suffix): path for name, path in files.items()}


def _suffix_hint(masks: dict[str, Path], images: dict[str, Path], form: DataFormat) -> str:
    """Return what to do where all masks are called as images with the same few letters more."""
    first = min(images, key=len)
    suffix = min((mask.removeprefix(first) for mask in masks if mask.startswith(first)), key=len, default="")
    fits = not form.mask_suffix and {image + suffix for image in images} == set(masks)
    return f"; or give --mask-suffix={suffix}" if fits else ""
