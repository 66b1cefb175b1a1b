"""Random weights under which a network's activations stay of order one and its outputs tell inputs apart.

With default initialisation the logits of deep networks come near 1e-28 (or all alike), and then a wrong channel order
passes every comparison. One forward pass sets each layer as the data reaches it.
"""

from __future__ import annotations

import math

import torch
from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _uniform(n: int, low: float, high: float) -> torch.Tensor:
    return torch.rand(n) * (high - low) + low


def _set_batchnorm(module: nn.Module, args: tuple[torch.Tensor]) -> None:
    """Statistics near those of the data, though not equal; scale and shift at random."""
    x = args[0]
    axes = [0, *range(2, x.dim())]
    var, mean = torch.var_mean(x, dim=axes, unbiased=False)
    n = len(mean)
    module.running_mean = mean + 0.1 * var.sqrt() * torch.randn(n)
    module.running_var = var * _uniform(n, 0.8, 1.25) + 1e-4
    module.weight.data = _uniform(n, 0.5, 1.5)
    module.bias.data = 0.3 * torch.randn(n)


def _set_weights(module: nn.Module, args: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
    """Scales the weights so that the results have a deviation near one; centres channels by the bias."""
    transposed = isinstance(module, nn.ConvTranspose2d)
    if isinstance(module, nn.Linear) and out.dim() > 2:  # features come last: every position is a sample
        return _set_weights(module, args, out.flatten(0, -2)).reshape(out.shape)
    channels = out.shape[1]
    if out.numel() // channels < 64:  # dense, or behind a global pooling: too few samples for each channel's own
        scale = (2.0 / out.std().clamp_min(1e-6)).expand(channels)
        shift = 0.5 * torch.randn(channels)
    else:
        var, mean = torch.var_mean(out, dim=[0, *range(2, out.dim())], unbiased=False)
        spread = var.sqrt().clamp_min(0.1 * out.std().clamp_min(1e-6))
        scale = _uniform(channels, 0.7, 1.4) / spread
        shift = 0.3 * torch.randn(channels) - mean * scale
    around = [1] * (module.weight.dim() - 1)
    module.weight.data *= scale.reshape((1, -1, *around[1:]) if transposed else (-1, *around))
    out = out * scale.reshape(-1, *[1] * (out.dim() - 2))
    if module.bias is not None:
        module.bias.data = shift
        out = out + shift.reshape(-1, *[1] * (out.dim() - 2))
    return out


@torch.no_grad()
def calibrate(module: nn.Module, shape: tuple[int, ...], seed: int) -> nn.Module:
    """Sets every weight of the module in place for inputs N(0, 1) of a shape (without batch); in eval mode."""
    module.eval()
    # Small inputs leave a few positions to the last layers: statistics of those need more images.
    batch = 32 if math.prod(shape) < 50_000 else 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hooks = []
        for layer in module.modules():
            if isinstance(layer, BATCH_NORMS):
                hooks.append(layer.register_forward_pre_hook(_set_batchnorm))
            elif isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
                layer.weight.data.normal_()
                if layer.bias is not None:
                    layer.bias.data.zero_()
                hooks.append(layer.register_forward_hook(_set_weights))
        module(torch.randn(batch, *shape))
    for hook in hooks:
        hook.remove()
    return module
