"""`ArchSpec`: a MobileNet as a table. Frozen, hashable, JSON both ways, no torch, no numpy."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from ..errors import SpecError
from ..files import digest_of
from .reading import explained
from .rows import Activation, Layer, Row

__all__ = ["ArchSpec", "ClassifierHead", "Norm", "Padding", "PlacedRow", "Rounding"]

Padding = Literal["symmetric", "same"]  # torch: k // 2 on each side; TensorFlow: what is missing, mostly at the end

# Fields of rows that came after the first bundles were written, each with what a row without it does. They are written
# only where they say something else, so that an older bundle still has the digest it was given.
LATER_FIELDS = MappingProxyType({"dilation": 1, "shortcut": True, "layer_scale": False})
Rounding = Literal["floor", "multiple_of_8"]  # how the width multiplier rounds: V1; V2 and later


class Norm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Batch normalisation."""

    eps: float
    momentum: float  # torch's convention, the weight of the new batch; TensorFlow's decay is 1 - momentum


class ClassifierHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Global average pooling, [a hidden layer], dropout, a linear layer.

    The hidden layer has a bias and no norm (V3 section 5.1), or a norm and no bias (V4, as released).
    """

    classes: int
    hidden: int | None = None
    hidden_norm: bool = False
    act: Activation = "none"  # after the hidden layer
    dropout: float = 0.2

    def __post_init__(self) -> None:
        for field, ok, wanted in (
            ("classes", self.classes >= 1, "at least 1"),
            ("hidden", self.hidden is None or self.hidden >= 1, "at least 1, or null for none"),
            ("dropout", 0 <= self.dropout < 1, "in [0, 1)"),
        ):
            if not ok:
                raise SpecError(
                    f"the head has {field} = {getattr(self, field)}", wanted=wanted, do=f"correct {field} in the head"
                )

    def layers(self, in_channels: int) -> tuple[Layer, ...]:
        """The layers of this head for a feature map of `in_channels`."""
        layers: list[Layer] = []
        width = in_channels
        for name, out in (("hidden", self.hidden), ("classifier", self.classes)):
            if out is None:
                continue
            norm = name == "hidden" and self.hidden_norm
            layers.append(
                Layer(
                    name=name,
                    kind="linear",
                    in_channels=width,
                    out_channels=out,
                    bias=not norm,
                    norm=norm,
                    on="vector",
                )
            )
            width = out
        return tuple(layers)


class PlacedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row where it stands: what the rows before it decide."""

    index: int
    row: Row
    in_channels: int
    in_size: int  # height = width of the input map, pixels
    out_size: int
    reduction: int  # of the output: how many input pixels one output pixel stands for, per side


class ArchSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network as its table: rows, a head, and the few conventions that hold for all of them.

    Raises:
        SpecError: on construction, naming the field that cannot be.
    """

    name: str
    paper: str
    rows: tuple[Row, ...]
    head: ClassifierHead
    norm: Norm
    resolution: int  # height = width of the input image, pixels
    padding: Padding = "symmetric"
    channels: int = 3
    rounding: Rounding = "multiple_of_8"

    def __post_init__(self) -> None:
        for field, ok, wanted in (
            ("name", bool(self.name) and not set(self.name) & set("/\\\0"), "a name that a file can have"),
            ("rows", len(self.rows) > 0, "at least one row"),
            ("resolution", self.resolution >= 1, "at least 1 pixel"),
            ("channels", self.channels >= 1, "at least 1, usually 3"),
            ("norm", self.norm.eps > 0 and 0 < self.norm.momentum <= 1, "eps > 0 and momentum in (0, 1]"),
        ):
            if not ok:
                raise SpecError(
                    f"{self.name} has {field} = {getattr(self, field)!r}", wanted=wanted, do=f"correct {field}"
                )

    def placed(self) -> Iterator[PlacedRow]:
        """The rows in order, each with its input channels, sizes and reduction.

        A stride-2 row turns n pixels into ceil(n / 2) with either padding.
        """
        channels, size, reduction = self.channels, self.resolution, 1
        for index, row in enumerate(self.rows):
            out_size = -(-size // row.stride)
            reduction *= row.stride
            yield PlacedRow(
                index=index,
                row=row,
                in_channels=channels,
                in_size=size,
                out_size=out_size,
                reduction=reduction,
            )
            channels, size = row.out, out_size

    @property
    def out_channels(self) -> int:
        """Channels of the last feature map, which the head reads."""
        return self.rows[-1].out

    @property
    def digest(self) -> str:
        """Names the network itself: equal for two specs that differ in name and paper only."""
        content = self.to_json()
        del content["name"], content["paper"]
        return digest_of(content)

    def to_json(self) -> dict[str, Any]:
        """The table as dicts, lists, strings and numbers."""
        # By way of text: it turns tuples into lists, as whoever reads the file gets them.
        content: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        for row in content["rows"]:
            for field, usual in LATER_FIELDS.items():
                if row.get(field) == usual:
                    del row[field]
        return content

    @classmethod
    def from_json(cls, content: Any) -> ArchSpec:
        """The inverse of `to_json`.

        Raises:
            SpecError: a field is missing, unknown, or of the wrong type or value; says which one, in which row.
        """
        try:
            return msgspec.convert(content, cls)
        except msgspec.ValidationError as error:
            raise explained(error, content, root=cls) from None
