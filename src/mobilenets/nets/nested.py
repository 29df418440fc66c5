"""A narrow network inside a wide one: each of its tensors is the leading part of the wide one's of that name.

Slimmable networks (Yu et al. 2019, section 3) run with the first channels of every layer. Here a narrow network is a
table of its own, built like any other; only its tensors are looked up in the wide one's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..arch.spec import ArchSpec
from ..errors import SpecError
from .network import Network

__all__ = ["Place", "hollow", "places_in"]

Place = tuple[slice, ...]


def hollow(spec: ArchSpec) -> Network:
    """The network of a table without numbers (on torch's device "meta"): for its shapes, or for `functional_call`."""
    with torch.device("meta"):
        return Network(spec)


def places_in(wide: ArchSpec, narrow: ArchSpec) -> Mapping[str, Place]:
    """Where the tensors of a narrow network lie in those of a wide one: `narrow[name] = wide[name][place]`.

    Trained tensors and running statistics alike; without the batch counters of norms, which nothing reads.

    Raises:
        SpecError: the tables are not of one family, or a tensor of `narrow` is larger than that of `wide`; names it.
    """
    inner, outer = _shapes(narrow), _shapes(wide)
    if strange := sorted(inner.keys() ^ outer.keys()):
        raise SpecError(
            f"{narrow.name} and {wide.name} do not both have {strange[0]}"
            + (f" and {len(strange) - 1} more" if len(strange) > 1 else ""),
            wanted="two widths of one table",
            do="slice the network into narrower ones of its own family",
        )
    for name, shape in inner.items():
        if len(shape) != len(outer[name]) or any(n > w for n, w in zip(shape, outer[name], strict=True)):
            raise SpecError(
                f"{name} is {shape} in {narrow.name} and {outer[name]} in {wide.name}",
                wanted="widths that nest: every layer of the narrower network at most as wide",
                do="use widths in the table that rounding keeps in order, such as multiples of 8",
            )
    return {name: tuple(slice(0, n) for n in shape) for name, shape in inner.items()}


def _shapes(spec: ArchSpec) -> dict[str, tuple[int, ...]]:
    tensors = hollow(spec).state_dict()
    return {name: tuple(t.shape) for name, t in tensors.items() if not name.endswith("num_batches_tracked")}
