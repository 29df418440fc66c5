"""Names -> tables. The first of the five extension tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import msgspec

from ..errors import SpecError, UnknownNameError
from ..files import read_json
from .knobs import WidthRule, for_small_images, with_classes, with_resolution, with_width
from .spec import ArchSpec
from .v1 import mobilenet_v1
from .v2 import mobilenet_v2
from .v3 import (
    mobilenet_v3_large,
    mobilenet_v3_large_minimalistic,
    mobilenet_v3_small,
    mobilenet_v3_small_minimalistic,
)
from .v4 import (
    mobilenet_v4_conv_large,
    mobilenet_v4_conv_medium,
    mobilenet_v4_conv_small,
    mobilenet_v4_fused,
    mobilenet_v4_hybrid_large,
    mobilenet_v4_hybrid_medium,
    mobilenet_v4_hybrid_medium_paper,
)
from .variants import deeper, full_convolutions, reduced_tail, shallow

__all__ = ["CATALOG", "VARIANTS", "NameParts", "compose", "find", "load_spec", "parts_of", "split_name"]

CATALOG: Mapping[str, Callable[[], ArchSpec]] = MappingProxyType(
    {
        "mobilenet_v1": mobilenet_v1,
        "mobilenet_v2": mobilenet_v2,
        "mobilenet_v3_large": mobilenet_v3_large,
        "mobilenet_v3_small": mobilenet_v3_small,
        "mobilenet_v3_large_minimalistic": mobilenet_v3_large_minimalistic,
        "mobilenet_v3_small_minimalistic": mobilenet_v3_small_minimalistic,
        "mobilenet_v4_conv_small": mobilenet_v4_conv_small,
        "mobilenet_v4_conv_medium": mobilenet_v4_conv_medium,
        "mobilenet_v4_conv_large": mobilenet_v4_conv_large,
        "mobilenet_v4_hybrid_medium": mobilenet_v4_hybrid_medium,
        "mobilenet_v4_hybrid_large": mobilenet_v4_hybrid_large,
    }
)

# What a paper or a library makes of a catalogue row, or we of its blocks, by name: no families of their own, but alpha
# and resolution can be set as for one.
VARIANTS: Mapping[str, Callable[[], ArchSpec]] = MappingProxyType(
    {
        "mobilenet_v1_full_convolutions": lambda: full_convolutions(mobilenet_v1()),
        "mobilenet_v1_shallow": lambda: shallow(mobilenet_v1()),
        "mobilenet_v3_large_reduced_tail": lambda: reduced_tail(mobilenet_v3_large()),
        "mobilenet_v3_small_reduced_tail": lambda: reduced_tail(mobilenet_v3_small()),
        "mobilenet_v3_large_torchvision": mobilenet_v3_large,  # torchvision narrows it by a rule of its own
        "mobilenet_v3_small_torchvision": mobilenet_v3_small,
        "mobilenet_v4_fused": mobilenet_v4_fused,
        "mobilenet_v4_hybrid_medium_paper": mobilenet_v4_hybrid_medium_paper,
    }
)

# TF-slim's scheme: NAME[_ALPHA][_RESOLUTION]. Ours: `_sN` at the end, for small images, with strides turned off until
# N is the total stride.
_NAME = re.compile(
    r"(?P<base>[a-z][a-z0-9_]*?)(?:_(?P<alpha>\d+\.\d+))?(?:_(?P<resolution>\d{1,4}))?(?:_s(?P<stride>\d+))?"
)
# timm: mobilenetv2_035; the number is 100 x alpha. `tf_` is for V3 with SAME padding, as TensorFlow trained it.
_TIMM = re.compile(
    r"mobilenetv(?P<version>1|2|3_large|3_small|4_conv_(?:small|medium|large)|4_hybrid_(?:medium|large))"
    r"(?:_(?P<percent>\d{3}))?"
)
_TIMM_TF = re.compile(r"tf_mobilenetv3_(?P<size>large|small)(?P<minimal>_minimal)?_(?P<percent>\d{3})")
# timm's deeper V2: width and depth; the stem and the last layer keep their channels.
_TIMM_DEEPER = MappingProxyType({"mobilenetv2_110d": (1.1, 1.2), "mobilenetv2_120d": (1.2, 1.4)})
_PREFIXES = ("google/", "timm/", "torchvision/", "timm:", "torchvision:")


class NameParts(msgspec.Struct, frozen=True, kw_only=True):
    """A name taken apart; None is the paper's own."""

    base: str
    alpha: float
    resolution: int | None
    stride: int | None


def find(name: str) -> ArchSpec:
    """The table that a name stands for.

    Args:
        name: `mobilenet_v2`, `mobilenet_v1_0.75_192`, a variant such as `mobilenet_v1_shallow_0.75_192`, timm's
            `mobilenetv3_small_075`, `mobilenet_v2_0.5_32_s8` (strides turned off until the total stride is 8), or the
            path of a spec's `.json`.

    Raises:
        UnknownNameError: no such name; says which known names are near.
        SpecError: alpha or the resolution cannot be.
    """
    if name.endswith(".json"):
        return load_spec(Path(name))
    plain = _plain(name)
    if plain in _TIMM_DEEPER:
        return _find_timm_deeper(plain)
    if timm := _TIMM.fullmatch(plain):
        return _find_timm(f"mobilenet_v{timm['version']}", int(timm["percent"] or 100), name=plain)
    if timm := _TIMM_TF.fullmatch(plain):
        spec = _find_timm(_tf_base(timm), int(timm["percent"]), name=plain)
        return msgspec.structs.replace(spec, padding="same", name=plain)
    parts = split_name(plain)
    if parts is None:
        raise UnknownNameError("model", name, known=(*CATALOG, *VARIANTS))
    return compose(parts.base, alpha=parts.alpha, resolution=parts.resolution, stride=parts.stride)


def split_name(name: str) -> NameParts | None:
    """What a name of our own scheme says; None when it is not one, or its base is neither in CATALOG nor VARIANTS."""
    match = _NAME.fullmatch(name)
    if match is None or (match["base"] not in CATALOG and match["base"] not in VARIANTS):
        return None
    return NameParts(
        base=match["base"],
        alpha=float(match["alpha"]) if match["alpha"] else 1.0,
        resolution=int(match["resolution"]) if match["resolution"] else None,
        stride=int(match["stride"]) if match["stride"] else None,
    )


def parts_of(name: str) -> NameParts | None:
    """Family and width that a name says, be it our scheme's, timm's or TF-slim's; None where it says no family.

    timm's deeper networks are families of their own.
    """
    plain = _plain(name)
    if timm := _TIMM.fullmatch(plain):
        base, percent = f"mobilenet_v{timm['version']}", int(timm["percent"] or 100)
    elif timm := _TIMM_TF.fullmatch(plain):
        base, percent = _tf_base(timm), int(timm["percent"])
    else:
        return split_name(plain)
    return NameParts(base=base, alpha=percent / 100, resolution=None, stride=None)


def compose(
    base: str,
    *,
    alpha: float = 1.0,
    resolution: int | None = None,
    stride: int | Literal["small"] | None = None,
    classes: int | None = None,
) -> ArchSpec:
    """A catalogue row with its knobs set, under the name that `find` resolves to the same network.

    Args:
        base: a name in `CATALOG` or `VARIANTS`. Those that end in `_torchvision` are narrowed by torchvision's rule
            (`with_width`).
        alpha: width multiplier.
        resolution: input side in pixels; None: the paper's.
        stride: total stride after turning strides off; "small": as `for_small_images` finds it; None: the
            paper's.
        classes: number of classes; None: the paper's 1000.

    Raises:
        UnknownNameError: `base` is in neither.
        SpecError: a knob cannot be set so.
    """
    make = CATALOG.get(base) or VARIANTS.get(base)
    if make is None:
        raise UnknownNameError("model", base, known=(*CATALOG, *VARIANTS))
    original = make()
    rule: WidthRule = "torchvision" if base.endswith("_torchvision") else "paper"
    spec = original if alpha == 1.0 else with_width(original, alpha, rule=rule)
    if resolution is not None:
        spec = with_resolution(spec, resolution)
    if stride == "small":
        spec = for_small_images(spec)
    elif stride is not None:
        smallest = -(-spec.resolution // stride)
        spec = for_small_images(spec, smallest_map=smallest)
    if classes is not None:
        spec = with_classes(spec, classes)
    parts = [base]
    reduction = _reduction(spec)
    turned = reduction != _reduction(original)
    if alpha != 1.0 or spec.resolution != original.resolution or turned:
        parts += [f"{alpha:.1f}" if round(alpha, 1) == alpha else f"{alpha:g}", str(spec.resolution)]
    if turned:
        parts.append(f"s{reduction}")
    if stride not in (None, "small") and reduction != stride:
        raise SpecError(
            f"{base} at {spec.resolution} pixels has total stride {reduction} after turning strides off",
            wanted=f"total stride {stride}",
            do="name a power of two that the table can reach",
        )
    return msgspec.structs.replace(spec, name="_".join(parts))


def load_spec(path: Path) -> ArchSpec:
    """A table from its JSON file: written by hand, by a search, or by `mobilenets info NAME --spec`.

    Raises:
        FileFormatError: the file is not there or not JSON.
        SpecError: a field does not fit; names the row and the field.
    """
    return ArchSpec.from_json(read_json(path, what="spec JSON"))


def _plain(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _tf_base(match: re.Match[str]) -> str:
    return f"mobilenet_v3_{match['size']}" + ("_minimalistic" if match["minimal"] else "")


def _find_timm(base: str, percent: int, *, name: str) -> ArchSpec:
    alpha = percent / 100
    # timm keeps the stem's channels there
    if (base.startswith("mobilenet_v3") and alpha < 0.75) or (base.startswith("mobilenet_v4") and alpha < 1):
        spec = CATALOG[base]()
        stem = msgspec.structs.replace(spec.rows[0], scaling="widen")
        narrowed = with_width(msgspec.structs.replace(spec, rows=(stem, *spec.rows[1:])), alpha)
        return msgspec.structs.replace(narrowed, name=name)
    return compose(base, alpha=alpha)


def _find_timm_deeper(name: str) -> ArchSpec:
    alpha, depth = _TIMM_DEEPER[name]
    original = mobilenet_v2()
    rows = with_width(deeper(original, depth), alpha).rows
    kept = (original.rows[0], *rows[1:-1], original.rows[-1])
    return msgspec.structs.replace(original, rows=kept, name=name)


def _reduction(spec: ArchSpec) -> int:
    return list(spec.placed())[-1].reduction
