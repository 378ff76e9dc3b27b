"""Draw images that look like colonoscopy frames with polyps, for demonstrations and tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fastresunet.training.images import write_png

FloatArray = NDArray[np.float64]
MUCOSA = np.array([0.72, 0.38, 0.30])
POLYP_SHIFT = np.array([0.08, -0.05, -0.03])


def draw_polyp_image(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw a mucosa-coloured background with folds, one or two polyps, highlights and a dark rim.

    Args:
        size: height and width in pixels.
        seed: the same seed draws the same picture.

    Returns:
        Image, uint8 tensor (3, size, size), and mask, bool tensor (size, size).
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    colour = MUCOSA * random.uniform(0.8, 1.15) + random.normal(0, 0.03, 3)
    shade = 1 + 0.10 * _smooth_noise(random, size, 3) + 0.07 * _smooth_noise(random, size, 8) + _folds(random, x, y)
    image = colour * shade[..., None]
    mask = np.zeros((size, size), dtype=bool)
    for _ in range(random.integers(1, 3)):
        image, inside = _draw_polyp(random, image, colour, x, y)
        mask |= inside
    image = _draw_vessels(random, image, mask, x, y)
    light = random.uniform(-0.15, 0.15, 2)
    vignette = 1.12 - 1.5 * ((x - light[0]) ** 2 + (y - light[1]) ** 2)
    image = image * vignette[..., None] + random.normal(0, 0.012, image.shape)
    image = _draw_highlights(random, image, x, y)
    pixels = torch.from_numpy((image.clip(0, 1) * 255).round().astype(np.uint8)).permute(2, 0, 1).contiguous()
    return pixels, torch.from_numpy(mask)


def write_polyp_folder(folder: Path, count: int, size: int, seed: int = 0) -> None:
    """Write drawn pictures as a data folder: ``images/0000.png``, ``masks/0000.png`` and so on.

    Args:
        folder: folder to write.
        count: number of pictures.
        size: height and width in pixels.
        seed: the same seed writes the same pictures.

    Raises:
        UserError: a file cannot be written.
    """
    for index in range(count):
        image, mask = draw_polyp_image(size, seed=seed * 1_000_003 + index)
        write_png(folder / "images" / f"{index:04d}.png", image)
        write_png(folder / "masks" / f"{index:04d}.png", mask.to(torch.uint8) * 255)


def _smooth_noise(random: np.random.Generator, size: int, cells: int) -> FloatArray:
    """Return a smooth random field of zero mean and about unit size."""
    coarse = torch.from_numpy(random.normal(size=(1, 1, cells, cells)))
    field = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)[0, 0]
    return np.asarray(field.numpy(), dtype=np.float64)


def _folds(random: np.random.Generator, x: FloatArray, y: FloatArray) -> FloatArray:
    """Return dark bent bands, like the folds of the bowel around a far lumen."""
    centre = random.uniform(-0.6, 0.6, 2)
    radius = np.hypot(x - centre[0], y - centre[1]) + 0.03 * _smooth_noise(random, len(x), 5)
    wave = np.cos(2 * np.pi * (radius * random.uniform(3, 5) + random.uniform()))
    return np.asarray(-0.22 * np.exp(3 * (wave - 1)) + 0.06 * wave)


def _draw_polyp(
    random: np.random.Generator, image: FloatArray, mucosa: FloatArray, x: FloatArray, y: FloatArray
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return the image with one polyp, redder than the mucosa around it, and where it is."""
    centre, axes = random.uniform(-0.3, 0.3, 2), random.uniform(0.09, 0.22, 2)
    angle = random.uniform(0, np.pi)
    u = ((x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)) / axes[0]
    v = ((y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)) / axes[1]
    theta = np.arctan2(v, u)
    outline = 1 + sum(random.normal(0, 0.16 / k) * np.cos(k * theta + random.uniform(0, 2 * np.pi)) for k in (2, 3, 4))
    distance = np.hypot(u, v) / outline
    inside = distance < 1
    # A dome: bright where it faces the light, darker towards its edge, with a shadow around it.
    height = np.sqrt(np.clip(1 - distance**2, 0, None))
    tilt = random.uniform(0, 2 * np.pi)
    dome = 0.72 + 0.36 * height + 0.16 * (u * np.cos(tilt) + v * np.sin(tilt))
    texture = 0.05 * _smooth_noise(random, len(x), 16)
    surface = (mucosa + random.uniform(0.3, 1.0) * POLYP_SHIFT) * (dome + texture)[..., None]
    shadow = 1 - 0.3 * np.exp(-(((distance - 1) / 0.16) ** 2))
    edge = np.clip((1 - distance) / 0.08 + 0.5, 0, 1)[..., None]
    return image * shadow[..., None] * (1 - edge) + surface * edge, inside


def _draw_vessels(
    random: np.random.Generator, image: FloatArray, mask: NDArray[np.bool_], x: FloatArray, y: FloatArray
) -> FloatArray:
    """Return the image with thin red lines outside the polyps."""
    vessels = np.zeros_like(x)
    for _ in range(3):
        field = _smooth_noise(random, len(x), 5) + random.normal(0, 0.4)
        vessels = np.maximum(vessels, np.exp(-((field / 0.05) ** 2)))
    strength = 0.18 * vessels * ~mask * (_smooth_noise(random, len(x), 4) > 0)
    return np.asarray(image * (1 - strength[..., None] * np.array([0.5, 1.0, 1.0])))


def _draw_highlights(random: np.random.Generator, image: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Return the image with small white reflections of the lamp."""
    shine = np.zeros_like(x)
    for _ in range(random.integers(4, 12)):
        centre, radius = random.uniform(-0.4, 0.4, 2), random.uniform(0.004, 0.016)
        stretch = random.uniform(0.5, 2)
        squared = ((x - centre[0]) / stretch) ** 2 + (y - centre[1]) ** 2
        shine = np.maximum(shine, np.exp(-((squared / radius**2) ** 2)))
    return np.asarray(image + shine[..., None] * (1 - image) * 0.95)
