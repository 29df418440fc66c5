"""Bundle -> `torch.export` program: the network with its norms folded, from raw pixels to logits."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from ..bundle import Bundle
from ..errors import SpecError
from ..nets import build, load_tensors
from ..nets.parts import ConvNormAct, GlobalMean
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
    bundle: Bundle, *, dtype: torch.dtype = torch.float32, single: bool = False, by_planes: bool = False
) -> torch.export.ExportedProgram:
    """The program: uint8 (N, R, R, C) to logits float32 (N, classes).

    Args:
        bundle: what to export.
        dtype: what weights and arithmetic are in.
        single: for batches of one image only.
        by_planes: takes float32 (N, C, R, R) instead, with values from 0 to 255: what Core ML makes of an image.
    """
    network = build(bundle.spec)
    load_tensors(network, bundle.tensors)
    _fold(network)
    whole = _FromPixels(network, bundle.preprocess, dtype=dtype, by_planes=by_planes).eval()
    count = 1 if single else EXAMPLE_BATCH
    side, channels = bundle.spec.resolution, bundle.spec.channels
    example = torch.zeros((count, side, side, channels), dtype=torch.uint8)
    if by_planes:
        example = torch.zeros((count, channels, side, side))
    free = None if single else {INPUT_NAME: {0: torch.export.Dim("batch", min=1)}}
    with torch.no_grad():
        return torch.export.export(whole, (example,), dynamic_shapes=free)


class _FromPixels(nn.Module):
    """A network behind the normalisation of its pixels: (pixels + shift) * scale, the scale in the stem's filters.

    coremltools would make a batch norm of the product and the sum, and add its epsilon to the scale.
    """

    shift: Tensor

    def __init__(self, network: nn.Module, preprocess: Preprocess, *, dtype: torch.dtype, by_planes: bool) -> None:
        super().__init__()
        mean, std = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (preprocess.mean, preprocess.std))
        stem = next(module for module in network.modules() if isinstance(module, ConvNormAct)).conv
        if not isinstance(stem, nn.Conv2d) or stem.groups > 1:
            raise SpecError("the first layer is depthwise", wanted="a convolution over the colours", do="put one first")
        stem.weight = nn.Parameter((stem.weight.detach().double() / (255 * std)).float())
        self.register_buffer("shift", (-255 * mean).float())
        self.network = network.to(dtype)
        self.dtype = dtype
        self.by_planes = by_planes

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (N, R, R, C) to logits float32 (N, classes). The order of the pixels in memory stays."""
        planes = pixels if self.by_planes else pixels.permute(0, 3, 1, 2).float()
        logits: Tensor = self.network((planes + self.shift).to(self.dtype))
        return logits.float()


class _Mean(nn.Module):
    """(N, C, H, W) to (N, C, 1, 1), written as a mean: adaptive pooling is exported with a copy of the memory."""

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
            if isinstance(child, GlobalMean):
                setattr(module, name, _Mean())
