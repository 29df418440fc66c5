"""The torch network as its int8 file computes it: rounded where the file rounds, with gradients as if it were not.

Jacob et al. 2018 (arXiv:1712.05877, section 3). Norms are folded into convolutions on the fly, with the statistics they
have; weights are rounded per output channel, values to the bytes of their ranges, which follow what is seen. Places are
called as in the file (`onnx_graph`, `prepare`), so that a place which one of the two lacks is noticed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, cast, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...arch.rows import Activation, BottleneckRow, FusedRow, UniversalRow
from ...errors import SpecError
from ...nets import DepthwiseConv2d, Network, depthwise_conv2d
from ...nets.builders import AttentionRowModule
from ...nets.network import ClassifierModule
from ...nets.parts import ConvNormAct, LayerScale, SqueezeExcite
from ...records import Preprocess
from .prepare import centre_of
from .ranges import KNEE, LEAST, Range, Ranges, scale_of
from .weights import GREATEST, weight_steps

__all__ = ["Grid", "twin_of"]

FOLLOWS: Final = 0.01  # share of a batch in the ranges; so they are those of the last hundred batches
BEGUN: Final = 4  # batches that ranges to begin with count as: they are of 512 images
NORMALISED: Final = "input.normalised"  # what the first convolution reads where it cannot read bytes
ACTIVATIONS: Final[Mapping[type[nn.Module], Activation]] = MappingProxyType(
    {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.Hardswish: "hard_swish", nn.Identity: "none"}
)


@final
class Grid(nn.Module):
    """What bytes stand for, as buffers: ranges of values, and of how many steps each filter's greatest weight is.

    Args:
        ranges: to begin with, of every value that is rounded.
        network: whose layers they are of.
    """

    low: Tensor  # (values,)
    high: Tensor
    numbers: Tensor  # (output channels of all layers,), whole numbers up to 127; see `weight_steps`

    def __init__(self, ranges: Ranges, network: nn.Module) -> None:
        super().__init__()
        self._share = FOLLOWS
        self._places = {name: place for place, name in enumerate(ranges)}
        self._slots: dict[str, slice] = {}
        end = 0
        for path, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d | DepthwiseConv2d | nn.Linear):
                self._slots[path] = slice(end, end + len(layer.weight))
                end += len(layer.weight)
        for name in ("low", "high"):
            self.register_buffer(name, torch.tensor([getattr(each, name) for each in ranges.values()]))
        self.register_buffer("numbers", torch.full((end,), float(GREATEST)))

    @property
    def names(self) -> frozenset[str]:
        """Of the values that are rounded."""
        return frozenset(self._places)

    def ranges(self) -> dict[str, Range]:
        """As they are now."""
        return {
            name: Range(low, high)
            for name, low, high in zip(self._places, self.low.tolist(), self.high.tolist(), strict=True)
        }

    def at(self, step: int) -> None:
        """From here on ranges are followed as at that step: the first hundred batches count alike.

        Ranges to begin with hold the greatest number of some hundred images. Where one image in a hundred reaches a
        hundred times as far as the others, as in deep networks it may, they would else be too wide for hundreds of
        steps to come.
        """
        self._share = max(FOLLOWS, 1 / (BEGUN + step + 1))

    @torch.no_grad()
    def follow(self, name: str, values: Tensor) -> None:
        """Move a range towards what a batch holds (Jacob et al. 2018, section 3.1)."""
        for bound, seen in zip((self.low, self.high), torch.aminmax(values), strict=True):
            bound[self._places[name]].lerp_(seen, self._share)

    def scale(self, name: str) -> tuple[Tensor, Tensor]:
        """Step, float32, and zero, int32, of a value's bytes; `ranges.scale_of` without waiting for the device."""
        place = self._places[name]
        low, high = self.low[place].clamp_max(0.0), self.high[place].clamp_min(0.0)
        step = (high - low).clamp_min(LEAST) / 255
        return step, (-low / step).round().clamp(0, 255).to(torch.int32)

    def swish_scale(self, name: str) -> tuple[Tensor, Tensor]:
        """Likewise of a hard-swish's input; `ranges.swish_scale` without waiting for the device."""
        high = self.high[self._places[name]].clamp_min(KNEE)
        knee = (255 * KNEE / (high + KNEE)).round().clamp(1, 127)
        knee = knee - ((255 - knee) * KNEE / knee < high).logical_and(knee > 1).to(knee.dtype)
        return KNEE / knee, knee.to(torch.int32)

    def rounded(self, layer: str, weight: Tensor) -> Tensor:
        """Weights (out, ...) of a layer as int8 has them."""
        greatest = weight.detach().abs().flatten(1).amax(1)
        steps = torch.where(greatest == 0, float(GREATEST), greatest) / self.numbers[self._slots[layer]]
        zeros = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
        return torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -GREATEST, GREATEST)

    @torch.no_grad()
    def settle(self, twin: nn.Module) -> None:
        """Choose for each filter of a twin the number of steps that suits its weights, as its int8 file does."""
        for layer in twin.modules():
            if isinstance(layer, _Folded):
                weight = layer.whole()[0].cpu().float()
                whole = np.ascontiguousarray(weight.numpy())
                steps = torch.from_numpy(weight_steps(whole, in_pairs=not layer.is_depthwise))
                greatest = weight.abs().flatten(1).amax(1)
                numbers = torch.where(greatest == 0, float(GREATEST), greatest / steps).round()
                self.numbers[self._slots[layer.path]] = numbers.to(self.numbers.device)


def twin_of(network: Network, grid: Grid, preprocess: Preprocess) -> Network:
    """A network that computes as the int8 file of `network` will, on the same parameters and statistics.

    It has rows and a head like any other. In training mode the grid's ranges follow what passes; norms keep their
    statistics in any mode.

    Args:
        network: a classifier of convolutions; it is not changed.
        grid: made for this network.
        preprocess: how its images are normalised.

    Raises:
        SpecError: it has attention, a layer scale or GELU; or its file rounds a value where the twin does not, or the
            other way round.
    """
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    twin = copy.deepcopy(network, shared)
    made = _Made(grid, preprocess)
    parts = dict(twin.named_modules())
    for path, module in parts.items():
        if isinstance(module, AttentionRowModule | LayerScale):
            raise SpecError(
                f"{path} is {type(module).__name__}",
                wanted="convolutions, squeeze-and-excite and a classifier, which is all that is trained for int8",
                do="quantise it without training for it",
            )
    for path, module in parts.items():
        if isinstance(module, ConvNormAct):
            _put(twin, path, made.layer(module, path))
        elif isinstance(module, SqueezeExcite):
            _put(twin, path, made.excite(module, path))
    for placed, row in zip(twin.spec.placed(), list(twin.rows), strict=True):
        kind = placed.row
        if isinstance(kind, BottleneckRow | FusedRow | UniversalRow) and kind.residual(placed.in_channels):
            twin.rows[placed.index] = nn.Sequential(row, made.place(f"rows.{placed.index}.sum"))
    twin.add_module("head", made.head(twin.head))
    if left := sorted(grid.names - made.used):
        raise SpecError(
            f"{twin.spec.name}: its int8 file rounds {', '.join(left)} too",
            wanted="the same places in training",
            do="quantise it without training for it",
        )
    return twin.to(next(network.parameters()).device)


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    network.get_submodule(parent).add_module(name, module)


class _Made:
    """Makes the parts of a twin and remembers which places they use."""

    def __init__(self, grid: Grid, preprocess: Preprocess) -> None:
        self._grid, self._preprocess = grid, preprocess
        self._first = True
        self.used: set[str] = set()

    def place(self, name: str, *, swish: bool = False) -> nn.Module:
        """Where a value becomes bytes."""
        if name not in self._grid.names:
            raise SpecError(
                f"{name} is no value that its int8 file rounds",
                wanted="the same places as in the file",
                do="quantise it without training for it",
            )
        self.used.add(name)
        return _Place(self._grid, name, swish=swish)

    def folded(self, layer: nn.Module, path: str, norm: nn.Module | None = None, *, gate: bool = False) -> _Folded:
        return _Folded(layer, path, norm, self._grid, gate=gate)

    def layer(self, module: ConvNormAct, path: str) -> nn.Module:
        """In place of a layer of the table; the first one takes pixels."""
        folded = self.folded(module.conv, f"{path}.conv", module.norm)
        before: nn.Module = nn.Identity()
        if self._first and NORMALISED in self._grid.names:
            before = self.place(NORMALISED)
        elif self._first:
            before = _Pixels(self._preprocess)
            folded.takes_bytes(self._preprocess)
        self._first = False
        return nn.Sequential(before, module.pad, folded, self.act(module.act, path))

    def act(self, act: nn.Module, path: str) -> nn.Module:
        """An activation with the places before and behind it."""
        name = ACTIVATIONS.get(type(act))
        if name is None:
            raise SpecError(
                f"{path} has {type(act).__name__}",
                wanted=f"one of {', '.join(ACTIVATIONS.values())}",
                do="quantise it without training for it",
            )
        if name == "none":
            return self.place(path)
        behind = self.place(f"{path}.{name}")
        # ReLUs fall away in the file, for bytes end at zero anyway; hard-swish reads bytes of its own.
        return (
            nn.Sequential(self.place(path, swish=True), act, behind)
            if name == "hard_swish"
            else nn.Sequential(act, behind)
        )

    def excite(self, module: SqueezeExcite, path: str) -> nn.Module:
        """In place of squeeze-and-excite."""
        return _Excite(
            pool=nn.Sequential(module.pool, self.place(f"{path}.pool")),
            squeeze=nn.Sequential(
                self.folded(module.squeeze, f"{path}.squeeze"), nn.ReLU(), self.place(f"{path}.squeeze.relu")
            ),
            gate=nn.Sequential(
                self.folded(module.excite, f"{path}.excite", gate=True),
                nn.Hardtanh(0.0, 1.0),
                self.place(f"{path}.gate"),
            ),
            behind=self.place(path),
        )

    def head(self, module: ClassifierModule) -> nn.Module:
        """In place of the classifier; its logits stay float32."""
        parts = [module.pool, self.place("head.pool"), nn.Flatten(1)]
        if isinstance(module.hidden, nn.Linear):
            parts += [self.folded(module.hidden, "head.hidden", module.norm), self.act(module.act, "head.hidden")]
        last = nn.Sequential(module.dropout, self.folded(module.classifier, "head.classifier"))
        return _Head(nn.Sequential(*parts), last)


class _Head(nn.Module):
    """In two parts, like the `ClassifierModule` whose place it takes."""

    def __init__(self, embedding: nn.Module, answers: nn.Module) -> None:
        super().__init__()
        self.embedding, self.answers = embedding, answers

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes)."""
        logits: Tensor = self.answers(self.embedding(features))
        return logits


class _Place(nn.Module):
    """Rounds a value to bytes. Gradients pass where it is inside its range, and end where it is cut."""

    def __init__(self, grid: Grid, name: str, *, swish: bool) -> None:
        super().__init__()
        self._grid, self._name, self._swish = grid, name, swish

    def forward(self, values: Tensor) -> Tensor:
        """Any shape to the same, float32."""
        values = values.float()
        if self.training:
            self._grid.follow(self._name, values)
        step, zero = self._grid.swish_scale(self._name) if self._swish else self._grid.scale(self._name)
        return torch.fake_quantize_per_tensor_affine(values, step, zero, 0, 255)


class _Folded(nn.Module):
    """A convolution or product with rounded weights, the norm behind it folded in with the statistics it has."""

    def __init__(self, layer: nn.Module, path: str, norm: nn.Module | None, grid: Grid, *, gate: bool) -> None:
        super().__init__()
        self.path = path
        self._layer = layer
        self._norm = norm if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) else None
        self._grid, self._gate = grid, gate
        self._pixels: tuple[Tensor, Tensor] | None = None

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel has a filter of its own."""
        return isinstance(self._layer, DepthwiseConv2d)

    def takes_bytes(self, preprocess: Preprocess) -> None:
        """Read what `_Pixels` makes: the scales of normalising go into the weights, the rest of means into the bias."""
        like = cast(Tensor, self._layer.weight)
        rest = centre_of(preprocess).rest
        steps = 255 * torch.tensor(preprocess.std, device=like.device)
        self._pixels = (steps, torch.tensor(rest, device=like.device, dtype=torch.float32))

    def whole(self) -> tuple[Tensor, Tensor]:
        """Weight and bias before rounding."""
        layer, norm = self._layer, self._norm
        weight = cast(Tensor, layer.weight)
        bias = weight.new_zeros(len(weight)) if layer.bias is None else cast(Tensor, layer.bias)
        if norm is not None:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            weight = weight * factor.view(-1, *[1] * (weight.ndim - 1))
            bias = norm.bias + (bias - norm.running_mean) * factor
        if self._gate:  # hard-sigmoid(x) is clip(x / 6 + 1 / 2, 0, 1)
            weight, bias = weight / 6, bias / 6 + 0.5
        if self._pixels is not None:
            steps, rest = self._pixels
            column = (-1, 1, 1, 1) if self.is_depthwise else (1, -1, 1, 1)
            weight = weight / steps.view(column)
            taps = weight.sum((2, 3))
            bias = bias + (taps[:, 0] * rest if self.is_depthwise else taps @ rest)
        return weight, bias

    def forward(self, inputs: Tensor) -> Tensor:
        """As the layer it stands for."""
        weight, bias = self.whole()
        weight = self._grid.rounded(self.path, weight)
        layer = self._layer
        if isinstance(layer, nn.Linear):
            return F.linear(inputs, weight, bias)
        if isinstance(layer, DepthwiseConv2d):
            return depthwise_conv2d(
                inputs, weight, bias, stride=layer.stride, padding=layer.padding, dilation=layer.dilation
            )
        assert isinstance(layer, nn.Conv2d)
        padding = cast("tuple[int, int]", layer.padding)  # never a word in our tables
        return F.conv2d(inputs, weight, bias, layer.stride, padding, layer.dilation, layer.groups)


class _Pixels(nn.Module):
    """Normalised images (N, C, R, R) to what an int8 file reads: bytes, less the mean."""

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        centre = centre_of(preprocess)
        # Its bytes are all that is possible, whatever is seen.
        lowest, highest = -float(centre.taken.max()), 255 - float(centre.taken.min())
        scale = scale_of(Range(lowest, highest))
        self._step, self._zero = (1.0, int(centre.taken[0])) if centre.whole else (scale.step, scale.zero)
        for name, values in (
            ("times", 255 * np.array(preprocess.std)),
            ("plus", 255 * np.array(preprocess.mean) - centre.taken),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The same shape, float32."""
        times, plus = cast(Tensor, self.times), cast(Tensor, self.plus)
        return torch.fake_quantize_per_tensor_affine(images.float() * times + plus, self._step, self._zero, 0, 255)


class _Excite(nn.Module):
    """Squeeze-and-excite in bytes."""

    def __init__(self, *, pool: nn.Module, squeeze: nn.Module, gate: nn.Module, behind: nn.Module) -> None:
        super().__init__()
        self.pool, self.squeeze, self.gate, self.behind = pool, squeeze, gate, behind

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        outputs: Tensor = self.behind(inputs * self.gate(self.squeeze(self.pool(inputs))))
        return outputs
