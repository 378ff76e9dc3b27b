"""Train the weights that come with the package, within a time, on data from ``benchmarks.pretraining.packed``.

A tenth of the training images is held back to watch; the official validation images are scored once, at the end. The
learning rate follows the time that is left, so that it reaches 0 at its end. The average of the weights is written to
OUT as it goes: as pretrained weights, with what was measured beside it.

Run: python -m benchmarks.pretraining --data kvasir256.npz --out weights [--seconds 210]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.pretraining.packed import Split, unpack
from fastresunet import GraphedTrainingStep
from fastresunet.model import FastResUNetPP
from fastresunet.pretrained import save_pretrained
from fastresunet.training.augmentation import DRAWS, STRONG, augment
from fastresunet.training.losses import bce_dice_loss
from fastresunet.training.metrics import confusion_counts, image_means

_LEARNING_RATE, _WEIGHT_DECAY, _CLIP_NORM = 1e-3, 0.05, 1.0
_WARM_UP_STEPS = 500
_AVERAGE = 0.999
_HELD_BACK = 10  # one image of so many
_LOOKS = 12  # at the images held back, in the whole time
_SCORED_AT_ONCE = 40
NETWORK = {
    "in_channels": 3,
    "num_classes": 1,
    "filters": [16, 32, 64, 128, 256],
    "se_reduction": 8,
    "aspp_rates": [1, 6, 12, 18],
}


def batches(count: int, batch_size: int) -> Iterator[Tensor]:
    """Yield indices of training images without end, every image at most once an epoch, in batches of equal size."""
    while True:
        for indices in torch.randperm(count).split(batch_size):
            if len(indices) == batch_size:
                yield indices


def learning_rate(step: int, progress: float) -> float:
    """Return the learning rate of a step, when ``progress`` (0 to 1) of the time is over."""
    return _LEARNING_RATE * min(1.0, (step + 1) / _WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@torch.no_grad()
def score(model: torch.nn.Module, split: Split, device: torch.device) -> dict[str, float]:
    """Return means over images of all scores, at the size that the images are packed in."""
    model.eval()
    counts = []
    for first in range(0, len(split.names), _SCORED_AT_ONCE):
        images, masks = (x[first : first + _SCORED_AT_ONCE].to(device) for x in (split.images, split.masks))
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(images.float() / 255)
        counts.append(confusion_counts(logits[:, 0] > 0, masks[:, 0]).cpu())
    return {name: round(float(value), 4) for name, value in image_means(torch.cat(counts)).items()}


def split_off(split: Split) -> tuple[Split, Split]:
    """Return the images to train on, and those held back."""
    order = torch.randperm(len(split.names), generator=torch.Generator().manual_seed(0))
    held = torch.zeros(len(split.names), dtype=torch.bool)
    held[order[: len(order) // _HELD_BACK]] = True

    def part(chosen: Tensor) -> Split:
        names = [name for name, wanted in zip(split.names, chosen.tolist(), strict=True) if wanted]
        return Split(names, split.images[chosen], split.masks[chosen])

    return part(~held), part(held)


class Training:
    """A training run within a time.

    Args:
        train: images to train on.
        held: images to watch.
        batch_size: images in a step.
        device: that computes.
    """

    def __init__(self, train: Split, held: Split, batch_size: int, device: torch.device) -> None:
        self._images, self._masks, self._held = train.images.to(device), train.masks.to(device), held
        self._device = device
        self._batches = batches(len(train.names), batch_size)
        self.model = FastResUNetPP(**NETWORK).to(device).train()  # type: ignore[arg-type]
        self.average = AveragedModel(
            self.model, multi_avg_fn=get_ema_multi_avg_fn(_AVERAGE), use_buffers=True
        ).requires_grad_(False)
        kernels = [x for x in self.model.parameters() if x.ndim > 1]
        vectors = [x for x in self.model.parameters() if x.ndim <= 1]
        groups = [{"params": kernels, "weight_decay": _WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=_LEARNING_RATE, fused=True)
        self._step = GraphedTrainingStep(
            self.model, bce_dice_loss, self._optimizer, autocast=torch.bfloat16, clip_norm=_CLIP_NORM
        )
        self.steps = 0
        self.curve: list[dict[str, float]] = []

    def step(self, progress: float) -> Tensor:
        """Make a step and return its loss."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.steps, progress)
        indices = next(self._batches).to(self._device)
        draws = torch.rand(len(indices), DRAWS, device=self._device)
        loss = self._step(*augment(self._images[indices], self._masks[indices], draws, STRONG))
        self.average.update_parameters(self.model)
        self.steps += 1
        return loss

    def look(self, losses: list[Tensor]) -> None:
        """Score the average on the images held back, and say it."""
        found = score(self.average, self._held, self._device)
        mean = round(float(torch.stack(losses).mean()), 4)
        self.curve.append({"step": self.steps, "loss": mean, "dice": found["dice"], "miou": found["miou"]})
        print(f"step {self.steps}: loss {mean}, Dice held back {found['dice']}", flush=True)

    def run(self, seconds: float, save: Path) -> None:
        """Train for a time, and write the average after each look."""
        start, losses, looks = time.monotonic(), [], 0
        while (progress := (time.monotonic() - start) / seconds) < 1:
            losses.append(self.step(progress))
            # What is launched must not run ahead of the clock.
            if self.steps % 50 == 0:
                losses[-1].item()
            if progress * _LOOKS >= looks + 1:
                looks += 1
                self.look(losses)
                losses = []
                self.save(save)
        self.save(save)

    def save(self, path: Path) -> None:
        """Write the average."""
        save_pretrained(path, NETWORK, self.average.module.state_dict(), self._images.shape[-1])


def main() -> None:
    """Train, score once, and write weights and numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="file of benchmarks.pretraining.packed")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights.safetensors and scores.json")
    parser.add_argument("--seconds", type=float, default=210, help="of training (default: 210, 160 epochs on an H200)")
    parser.add_argument("--batch-size", type=int, default=16, help="(default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, held = split_off(unpack(options.data, "train"))
    if len(train.names) < options.batch_size:
        parser.error(f"--batch-size {options.batch_size} is more than the {len(train.names)} images to train on")
    print(f"{len(train.names)} images to train on, {len(held.names)} held back, on {device}", flush=True)
    training = Training(train, held, options.batch_size, device)
    training.run(options.seconds, options.out / "weights.safetensors")
    scores = {"held back": score(training.average, held, device)}
    scores["validation"] = score(training.average, unpack(options.data, "val"), device)
    epochs = round(training.steps * options.batch_size / len(train.names), 1)
    content = {"epochs": epochs, "steps": training.steps, "curve": training.curve, "scores": scores}
    (options.out / "scores.json").write_text(json.dumps(content, indent=1))
    print(f"{epochs} epochs; Dice held back {scores['held back']['dice']}, validation {scores['validation']['dice']}")


if __name__ == "__main__":
    main()
