"""Which networks can be folded: those whose layers are what the published network made them."""

from __future__ import annotations

import torch
from torch import nn

from fastresunet import blocks, keras, model, reference

_PLAIN = {
    model.FastResUNetPP: reference.ResUNetPP,
    blocks.StemBlock: reference.StemBlock,
    blocks.ResidualBlock: reference.ResidualBlock,
    blocks.SqueezeExcite: reference.SqueezeExcite,
    blocks.ASPP: reference.ASPP,
    blocks.AttentionGate: reference.AttentionGate,
    blocks.DecoderBlock: reference.DecoderBlock,
    nn.SyncBatchNorm: nn.BatchNorm2d,
}
# Layers whose description says all that their result depends on.
_DESCRIBED = (nn.Conv2d, nn.Linear, nn.MaxPool2d)


def check_foldable(network: nn.Module) -> None:
    """Check that folding would compute what the network computes in evaluation mode.

    Args:
        network: what was given to ``fold``.

    Raises:
        TypeError: it is no ``FastResUNetPP``, ``KerasResUNetPP`` or ``ResUNetPP``.
        ValueError: a layer was replaced, altered or hooked, or a normalisation has no running statistics; the message
            names it.
    """
    if not isinstance(network, reference.ResUNetPP):
        raise TypeError(
            f"fold takes a FastResUNetPP, KerasResUNetPP or ResUNetPP, got {type(network).__name__}; "
            "fold the network itself, before it is wrapped or compiled"
        )
    published_class = keras.KerasResUNetPP if isinstance(network, keras.KerasResUNetPP) else reference.ResUNetPP
    with torch.device("meta"):
        published = published_class(
            network.in_channels, network.num_classes, network.filters, network.se_reduction, network.aspp_rates
        )
    expected = dict(published.named_modules())
    for name, module in network.named_modules():
        shown = repr(name) if name else "the network"
        if name not in expected:
            raise ValueError(f"cannot fold: the published network has no layer {shown}, got {_describe(module)}")
        _check_layer(shown, module, expected.pop(name))
    if expected:
        raise ValueError(f"cannot fold: the network has no layer {next(iter(expected))!r}")


def _check_layer(shown: str, module: nn.Module, expected: nn.Module) -> None:
    if _plain_class(module) is not _plain_class(expected):
        raise ValueError(f"cannot fold: {shown} was replaced: expected {_describe(expected)}, got {_describe(module)}")
    if isinstance(expected, _DESCRIBED) and module.extra_repr() != expected.extra_repr():
        raise ValueError(f"cannot fold: {shown} was altered: expected {_describe(expected)}, got {_describe(module)}")
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        raise ValueError(
            f"cannot fold: {shown} has a forward hook or a forward of its own, which folding would leave out; remove it"
        )
    if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
        assert isinstance(expected, nn.BatchNorm2d)
        if module.running_mean is None or module.running_var is None:
            raise ValueError(
                f"cannot fold: {shown} has no running statistics (track_running_stats=False), so that its result "
                "depends on the batch; train it with running statistics, or use the network as it is"
            )
        if module.num_features != expected.num_features:
            raise ValueError(
                f"cannot fold: {shown} was replaced: expected {expected.num_features} features, "
                f"got {module.num_features}"
            )


def _plain_class(module: nn.Module) -> type[nn.Module]:
    return _PLAIN.get(type(module), type(module))


def _describe(module: nn.Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"
