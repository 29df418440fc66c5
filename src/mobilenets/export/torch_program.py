"""Bundle -> `torch.export` program: the network with its norms folded, from raw pixels to logits."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from ..bundle import Bundle
from ..nets import build, load_tensors
from ..nets.parts import ConvNormAct, SqueezeExcite
from ..records import Preprocess
from ..runtime.engines.torch_export import FACTS_FILE
from .onnx_graph import INPUT_NAME

__all__ = ["to_program", "to_pt2"]

EXAMPLE_BATCH: Final = 2  # a program that is traced with one image is one for single images


def to_pt2(bundle: Bundle, *, facts: Mapping[str, str], dtype: torch.dtype = torch.float32) -> bytes:
    """The `.pt2` file of a bundle's network; the batch dimension is free.

    Args:
        bundle: what to export.
        facts: texts by name, kept in the archive's extra file `FACTS_FILE`, a JSON object.
        dtype: what weights and arithmetic are in; logits are float32.
    """
    content = io.BytesIO()
    extra = {FACTS_FILE: json.dumps(dict(facts), ensure_ascii=False)}
    torch.export.save(to_program(bundle, dtype=dtype), content, extra_files=extra)
    return content.getvalue()


def to_program(
    bundle: Bundle, *, dtype: torch.dtype = torch.float32, single: bool = False
) -> torch.export.ExportedProgram:
    """The program: uint8 (N, R, R, C) to logits float32 (N, classes).

    Args:
        bundle: what to export.
        dtype: what weights and arithmetic are in.
        single: for batches of one image only.
    """
    network = build(bundle.spec)
    load_tensors(network, bundle.tensors)
    _fold(network)
    whole = _FromPixels(network, bundle.preprocess, dtype=dtype).eval()
    count = 1 if single else EXAMPLE_BATCH
    side = bundle.spec.resolution
    example = torch.zeros((count, side, side, bundle.spec.channels), dtype=torch.uint8)
    free = None if single else {INPUT_NAME: {0: torch.export.Dim("batch", min=1)}}
    with torch.no_grad():
        return torch.export.export(whole, (example,), dynamic_shapes=free)


class _FromPixels(nn.Module):
    """A network behind the normalisation of its pixels."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, preprocess: Preprocess, *, dtype: torch.dtype) -> None:
        super().__init__()
        mean, std = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (preprocess.mean, preprocess.std))
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())
        self.network = network.to(dtype)
        self.dtype = dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (N, R, R, C) to logits float32 (N, classes). The order of the pixels in memory stays."""
        images = pixels.permute(0, 3, 1, 2).float() * self.scale + self.shift
        logits: Tensor = self.network(images.to(self.dtype))
        return logits.float()


class _Excite(nn.Module):
    """Squeeze-and-excite with its mean written as a mean: adaptive pooling is exported with a copy of the memory."""

    def __init__(self, whole: SqueezeExcite) -> None:
        super().__init__()
        self.squeeze, self.excite = whole.squeeze, whole.excite

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        scale = torch.relu(self.squeeze(inputs.mean((2, 3), keepdim=True)))
        return inputs * nn.functional.hardsigmoid(self.excite(scale))


class _Mean(nn.Module):
    """(N, C, H, W) to (N, C, 1, 1)."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean((2, 3), keepdim=True)


def _fold(network: nn.Module) -> None:
    """Take norms into the convolutions before them (Jacob et al. 2018, section 3.2), in float64, in place."""
    for module in list(network.modules()):
        if isinstance(module, ConvNormAct) and isinstance(module.norm, nn.BatchNorm2d):
            norm, conv = module.norm, module.conv
            weight, bias = conv.weight, conv.bias
            assert isinstance(weight, Tensor)
            assert norm.running_var is not None
            assert norm.running_mean is not None
            scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
            shift = norm.bias.detach().double() - norm.running_mean.double() * scale
            old = bias.detach().double() if isinstance(bias, Tensor) else 0.0
            conv.weight = nn.Parameter((weight.detach().double() * scale.view(-1, 1, 1, 1)).float())
            conv.bias = nn.Parameter((old * scale + shift).float())
            module.norm = nn.Identity()
        for name, child in list(module.named_children()):
            if isinstance(child, SqueezeExcite):
                setattr(module, name, _Excite(child))
            elif isinstance(child, nn.AdaptiveAvgPool2d):
                setattr(module, name, _Mean())
