"""Time a training step of FastResUNetPP and of the plain network in turn, and count what each keeps for backward.

Run: python -m benchmarks.training_step
"""

from __future__ import annotations

import argparse
import platform

import torch

from fastresunet.model import FastResUNetPP
from fastresunet.reference import ResUNetPP
from fastresunet.training.compare import activation_bytes, step_times


def main() -> None:
    """Print median seconds, their ratio, and megabytes per image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="image height and width in pixels (default: 256)")
    parser.add_argument("--batch-size", type=int, default=2, help="images a step (default: 2)")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps of each network (default: 10)")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    images = torch.rand(options.batch_size, 3, options.size, options.size, device=device)
    masks = (torch.rand(options.batch_size, 1, options.size, options.size, device=device) > 0.5).float()
    reference, fast = ResUNetPP().to(device), FastResUNetPP().to(device)
    fast.load_state_dict(reference.state_dict())
    kept, reference_kept = (activation_bytes(model, images) / len(images) / 1e6 for model in (fast, reference))
    times = step_times(fast, reference, (images, masks), options.repeats)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{tuple(images.shape)} float32, {name}, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"training step, median: {times.model:.3f} s, plain {times.reference:.3f} s, ratio {times.ratio:.2f}")
    print(f"kept for backward, MB per image: {kept:.1f}, plain {reference_kept:.1f}, ratio {kept / reference_kept:.3f}")


if __name__ == "__main__":
    main()
