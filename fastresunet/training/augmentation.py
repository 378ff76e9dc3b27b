"""Random changes of whole batches on their device: each image is turned, stretched and coloured in its own way.

torchvision's transforms draw once for a batch, so that they would have to be called image by image; here a batch takes
a few dozen operations. What happens to an image follows from its own random numbers alone, whatever its batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Random numbers of an image, by what they decide.
_DRAWN = (
    *("angle", "scale", "aspect", "shear", "flip", "shift_x", "shift_y"),
    *("contrast", "brightness", "saturation", "red", "green", "blue", "gamma", "blurred", "noisy", "noise"),
)
DRAWS = len(_DRAWN)


@dataclass(frozen=True)
class Augmentation:
    """How far images are changed. Where a factor is given as x, it is drawn from exp(-x) to exp(x).

    Args:
        angle: of turning, in radians, to both sides.
        scale: factor of the size.
        aspect: factor of width against height.
        shear: share of a side by which rows move against each other.
        shift: share of half a side, to all sides.
        contrast: relative, to both sides.
        brightness: relative, to both sides.
        saturation: relative, to both sides.
        tint: of each colour, relative, to both sides.
        gamma: exponent of the brightness, as a factor.
        blurred: share of the images that are blurred.
        noisy: share of the images that get noise.
        noise: largest standard deviation of the noise, of a range of 0..1.
    """

    angle: float
    scale: float
    aspect: float
    shear: float
    shift: float
    contrast: float
    brightness: float
    saturation: float
    tint: float
    gamma: float
    blurred: float
    noisy: float
    noise: float


LIGHT = Augmentation(math.pi / 4, 0.22, 0.0, 0.0, 0.2, 0.25, 0.25, 0.25, 0.02, 0.0, 0.0, 0.0, 0.0)
STRONG = Augmentation(math.pi, 0.35, 0.12, 0.15, 0.2, 0.4, 0.35, 0.4, 0.1, 0.3, 0.15, 0.3, 0.03)
AUGMENTATIONS = {"none": None, "light": LIGHT, "strong": STRONG}


def augment(
    images: Tensor,
    masks: Tensor,
    draws: Tensor,
    augmentation: Augmentation,
    noise: torch.Generator | None = None,
    classes: int = 2,
) -> tuple[Tensor, Tensor]:
    """Change a batch at random.

    Args:
        images: (N, 3, H, W) or, in grey, (N, 1, H, W), uint8.
        masks: class of each pixel, (N, 1, H, W), uint8.
        draws: (N, ``DRAWS``) float32, uniform in 0..1, on the images' device.
        augmentation: how far.
        noise: generator, on that device, of the pixels' noise; None is the global one.
        classes: of the masks, with the background.

    Returns:
        Images in float32 from 0 to 1, and masks in float32, of the same shapes.
    """
    drawn = dict(zip(_DRAWN, draws.unbind(1), strict=True))
    grid = _grid(drawn, augmentation, images.shape[2:])
    pixels = F.grid_sample(images.float() / 255, grid, padding_mode="reflection", align_corners=False)
    coloured = _coloured(pixels, drawn, augmentation)
    return _noisy(coloured, drawn, augmentation, noise), _moved(masks, grid, classes)


def _between(draw: Tensor, half_width: float) -> Tensor:
    return (2 * draw - 1) * half_width


def _grid(drawn: dict[str, Tensor], augmentation: Augmentation, size: torch.Size) -> Tensor:
    angle = _between(drawn["angle"], augmentation.angle)
    scale = _between(drawn["scale"], augmentation.scale).exp()
    aspect = _between(drawn["aspect"], augmentation.aspect).exp()
    shear = _between(drawn["shear"], augmentation.shear)
    flip = torch.where(drawn["flip"] < 0.5, -1.0, 1.0)
    horizontal, vertical = flip * scale * aspect, scale / aspect
    cosine, sine = angle.cos(), angle.sin()
    first = [cosine * horizontal, shear - sine * vertical, _between(drawn["shift_x"], augmentation.shift)]
    second = [sine * horizontal, cosine * vertical, _between(drawn["shift_y"], augmentation.shift)]
    maps = torch.stack([torch.stack(first, 1), torch.stack(second, 1)], 1)
    return F.affine_grid(maps, [len(angle), 1, *size], align_corners=False)


def _moved(masks: Tensor, grid: Tensor, classes: int) -> Tensor:
    """Return the class that most of each moved pixel is of."""
    if classes == 2:
        return (F.grid_sample(masks.float(), grid, padding_mode="reflection", align_corners=False) > 0.5).float()
    numbers = torch.arange(classes, device=masks.device)[:, None, None]
    shares = F.grid_sample((masks == numbers).float(), grid, padding_mode="reflection", align_corners=False)
    return shares.argmax(1, keepdim=True).float()


def _coloured(x: Tensor, drawn: dict[str, Tensor], augmentation: Augmentation) -> Tensor:
    def factor(name: str, half_width: float) -> Tensor:
        return 1 + _between(drawn[name], half_width)[:, None, None, None]

    mean = x.mean((1, 2, 3), keepdim=True)
    contrast, brightness = factor("contrast", augmentation.contrast), factor("brightness", augmentation.brightness)
    x = (x - mean) * contrast + mean * brightness
    if x.shape[1] == 3:
        grey = x.mean(1, keepdim=True)
        x = (x - grey) * factor("saturation", augmentation.saturation) + grey
        x = x * torch.cat([factor(colour, augmentation.tint) for colour in ("red", "green", "blue")], dim=1)
    return x.clamp(0, 1) ** _between(drawn["gamma"], augmentation.gamma).exp()[:, None, None, None]


def _noisy(x: Tensor, drawn: dict[str, Tensor], augmentation: Augmentation, noise: torch.Generator | None) -> Tensor:
    if augmentation.blurred:
        coarse = F.interpolate(F.avg_pool2d(x, 2), x.shape[2:], mode="bilinear", align_corners=False)
        x = torch.where((drawn["blurred"] < augmentation.blurred)[:, None, None, None], coarse, x)
    if augmentation.noisy:
        strength = augmentation.noise * drawn["noise"] * (drawn["noisy"] < augmentation.noisy)
        field = torch.randn(x.shape, device=x.device, generator=noise)
        x = (x + strength[:, None, None, None] * field).clamp(0, 1)
    return x
