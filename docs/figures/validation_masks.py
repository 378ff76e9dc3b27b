"""Draw true and predicted masks of validation images of Kvasir-SEG, without the images, which are not ours to show.

Run: python docs/figures/validation_masks.py --data Kvasir-SEG
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastresunet.training.evaluate import evaluate_model
from fastresunet.training.gallery import shrink
from fastresunet.training.inference import decide, predict_probability
from fastresunet.training.split import named_split, recorded_pairs
from fastresunet.training.trained_network import load_predictor

COLUMNS, ROWS = 4, 2
TRUTH_COLOUR, PREDICTION_COLOUR = "#bfe5cb", "#0072B2"


def main() -> None:
    """Draw the picture beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of Kvasir-SEG")
    options = parser.parse_args()
    network = load_predictor(Path("kvasir-seg"), "auto")
    _, pairs = recorded_pairs(options.data, named_split("kvasir-seg"), "the official split")
    evaluation = evaluate_model(network.model, pairs, network.size)
    dice, share = evaluation.image_scores["dice"], evaluation.foreground_share
    order = dice.argsort(descending=True).tolist()
    ranks = np.linspace(0, len(order) - 1, COLUMNS * ROWS).round().astype(int)
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, rank in zip(figure.subplots(ROWS, COLUMNS).flat, ranks, strict=True):
        image, truth = pairs[order[rank]].read()
        prediction = decide(predict_probability(network.model, image, network.size), 0.5)
        true_mask, predicted_mask = (shrink(mask[None].float())[0].numpy() for mask in (truth, prediction))
        axis.contourf(true_mask, levels=[0.5, 1.5], colors=[TRUTH_COLOUR])
        axis.contour(predicted_mask, levels=[0.5], colors=[PREDICTION_COLOUR], linewidths=1.6)
        axis.set(xticks=[], yticks=[], aspect="equal", xlim=(0, true_mask.shape[1]), ylim=(true_mask.shape[0], 0))
        axis.spines[:].set_color("#bbbbbb")
        index = order[rank]
        axis.set_title(f"rank {rank + 1} of {len(order)}: Dice {dice[index]:.3f}", fontsize=9)
        axis.set_xlabel(f"polyp {100 * share[index]:.1f} % of the image", fontsize=8)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
