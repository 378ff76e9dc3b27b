"""nn.SyncBatchNorm over two processes equals one process with the whole batch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.multiprocessing.spawn import spawn

from fastresunet import FastResUNetPP
from tests.numerics import relative_difference

FILTERS = (8, 8, 8, 8, 8)
SAMPLES = (1, 3)  # unequal shares of the batch


def network() -> FastResUNetPP:
    torch.manual_seed(0)
    return FastResUNetPP(filters=FILTERS).double()


def images() -> torch.Tensor:
    return torch.randn(sum(SAMPLES), 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def train_one_share(rank: int, folder: str) -> None:
    """Run one step on this process's share of the batch and save gradients, buffers and logits."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(network())
    logits = model(images().split(SAMPLES)[rank])
    logits.square().sum().backward()
    state = {"logits": logits.detach()}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        torch.distributed.all_reduce(gradient)
        state[f"gradient {name}"] = gradient
    state |= {f"buffer {name}": buffer for name, buffer in model.named_buffers()}
    torch.save(state, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    spawn(train_one_share, (str(tmp_path),), nprocs=2)
    shares = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    model = network()
    logits = model(images())
    logits.square().sum().backward()

    assert relative_difference(torch.cat([share["logits"] for share in shares]), logits) <= 1e-10
    largest = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        for share in shares:
            assert float((share[f"gradient {name}"] - parameter.grad).abs().max()) <= 1e-9 * largest, name
    for name, buffer in model.named_buffers():
        for share in shares:
            assert relative_difference(share[f"buffer {name}"].double(), buffer.double()) <= 1e-12, name
