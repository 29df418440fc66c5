"""Spec -> network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..arch.rows import Layer
from ..arch.spec import ArchSpec, ClassifierHead, Norm
from ..errors import FileFormatError
from .builders import AttentionRowModule, build_row
from .depthwise import DepthwiseConv2d
from .parts import GlobalMean, activation

__all__ = ["Network", "build", "initialise", "load_tensors", "tensors_of"]


class ClassifierModule(nn.Module):
    """A `ClassifierHead`: mean over the map, [hidden layer], dropout, linear."""

    def __init__(self, head: ClassifierHead, in_channels: int, *, norm: Norm) -> None:
        super().__init__()
        layers = {layer.name: layer for layer in head.layers(in_channels)}
        self.pool = GlobalMean()
        self.hidden: nn.Module = _linear(layers["hidden"]) if "hidden" in layers else nn.Identity()
        self.norm: nn.Module = (
            nn.BatchNorm1d(layers["hidden"].out_channels, eps=norm.eps, momentum=norm.momentum)
            if "hidden" in layers and layers["hidden"].norm
            else nn.Identity()
        )
        self.act = activation(head.act) if "hidden" in layers else nn.Identity()
        self.dropout = nn.Dropout(head.dropout)
        self.classifier = _linear(layers["classifier"])

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes)."""
        return self.answers(self.embedding(features))

    def embedding(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to what the classifier reads (N, D): the pooled map, or the hidden layer's activations of it."""
        vector: Tensor = self.act(self.norm(self.hidden(self.pool(features).flatten(1))))
        return vector

    def answers(self, embedding: Tensor) -> Tensor:
        """(N, D) to logits (N, classes)."""
        logits: Tensor = self.classifier(self.dropout(embedding))
        return logits


class Network(nn.Module):
    """A table as torch runs it: `rows`, then `head`. Built by `build`."""

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__()
        self.spec = spec
        self.rows = nn.ModuleList(
            build_row(p.row, p.in_channels, norm=spec.norm, padding=spec.padding) for p in spec.placed()
        )
        self.head = ClassifierModule(spec.head, spec.out_channels, norm=spec.norm)

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised images (N, channels, H, W) to logits (N, classes). H and W may differ from the spec's."""
        features = inputs
        for row in self.rows:
            features = row(features)
        logits: Tensor = self.head(features)
        return logits


def build(spec: ArchSpec) -> Network:
    """The network of a table, with fresh weights from torch's global random state.

    Convolutions: normal, variance 2 / fan-out (He et al. 2015); those of an attention, whose scores must start small:
    uniform (Glorot and Bengio 2010); classifier: normal, 0.01; norms: 1 and 0; layer scales: 1e-5.
    """
    network = Network(spec)
    initialise(network)
    return network


def initialise(network: nn.Module) -> None:
    """Draw fresh weights in place, as `build` does."""
    attention = {
        part for module in network.modules() if isinstance(module, AttentionRowModule) for part in module.modules()
    }
    for module in network.modules():
        if isinstance(module, nn.Conv2d | DepthwiseConv2d) and module in attention:
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Conv2d | DepthwiseConv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def tensors_of(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    """A state dict as numpy float32 arrays, copied; without the batch counters of norms, which nothing reads."""
    return {
        name: tensor.detach().to("cpu", torch.float32, copy=True).numpy()
        for name, tensor in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def load_tensors(module: nn.Module, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Copy arrays into a module, strictly by name and shape.

    Raises:
        FileFormatError: names every tensor that is missing, left over, or of another shape.
    """
    own = {k: tuple(v.shape) for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = {k: tuple(v.shape) for k, v in tensors.items()}
    wrong = [f"missing {k} {shape}" for k, shape in own.items() if k not in given]
    wrong += [f"left over {k} {shape}" for k, shape in given.items() if k not in own]
    wrong += [f"{k} is {given[k]}, the network has {own[k]}" for k in own if k in given and own[k] != given[k]]
    if wrong:
        shown = "; ".join(wrong[:6]) + (f"; and {len(wrong) - 6} more" if len(wrong) > 6 else "")
        raise FileFormatError(
            f"{len(wrong)} tensors do not fit: {shown}",
            wanted="the tensors of the spec's network, by name and shape",
            do="use the weights with the spec they were made for",
        )
    module.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in tensors.items()}, strict=False)


def _linear(layer: Layer) -> nn.Linear:
    return nn.Linear(layer.in_channels, layer.out_channels, bias=layer.bias)
