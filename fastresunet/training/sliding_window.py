"""Images larger than the network's: overlapping tiles at the image's own resolution, blended."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastresunet.training.inference import check_finite, to_probabilities
from fastresunet.training.transforms import to_network_input


@torch.inference_mode()
def predict_tiled(model: nn.Module, image: Tensor, tile: int, *, overlap: float = 0.5, batch_size: int = 8) -> Tensor:
    """Predict the probability of each class from overlapping tiles of an image that is not stretched.

    Where tiles overlap, their probabilities are averaged with Gaussian weights, so that pixels near the edge of a
    tile, which see less around them, count less. A side shorter than the tile is padded by repeating the border. The
    windows are those of MONAI's ``sliding_window_inference``.

    Args:
        model: network in evaluation mode, logits (N, K, H, W) out.
        image: uint8 tensor (channels, H, W) on the CPU.
        tile: height and width of a tile, in pixels.
        overlap: share of a tile's side that it has in common with the next one, 0 to below 1.
        batch_size: tiles computed at once.

    Returns:
        float32 tensor (K, H, W) in 0..1 on the CPU; only a batch of tiles is on the model's device at a time.

    Raises:
        FloatingPointError: the network gives values that are not finite.
        ModuleNotFoundError: MONAI is not installed.
    """
    from monai.inferers import sliding_window_inference  # noqa: PLC0415 - takes seconds, and only tiles need it

    def probability(tiles: Tensor) -> Tensor:
        return to_probabilities(check_finite(model(tiles).float()))

    blended = sliding_window_inference(
        to_network_input(image)[None],
        (tile, tile),
        batch_size,
        probability,
        overlap=overlap,
        mode="gaussian",
        padding_mode="replicate",
        sw_device=next(model.parameters()).device,
        device="cpu",
    )
    assert isinstance(blended, Tensor)
    # A weighted mean of values up to 1 may round above 1.
    return blended[0].clamp(0, 1)
