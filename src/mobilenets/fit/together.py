"""One elastic training for all networks of a plan, and each of them out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..arch import ArchSpec, compose, split_name
from ..bundle import Bundle
from ..compress.slice import slice_bundle
from ..data import Dataset, Pixels
from ..errors import UsageError
from ..metrics import top_k_accuracy
from ..progress import say
from ..records import Preprocess
from ..train.elastic_policy import ElasticPolicy
from ..train.validate import bundle_logits
from .records import Candidate

__all__ = ["each_of", "widest_of"]


def each_of(
    bundle: Bundle,
    candidates: Sequence[Candidate],
    dataset: Dataset,
    *,
    validation: Callable[[Preprocess], Pixels],
    device: str,
) -> Iterator[tuple[Bundle, float]]:
    """Every candidate as a bundle of its own, with its accuracy on the validation images, in [0, 1].

    Args:
        bundle: what the training of `widest_of` made.
        candidates: the same.
        dataset: the one it was trained on.
        validation: prepares images.
        device: "auto", "cpu", "cuda", ...
    """
    for candidate in candidates:
        sliced = slice_bundle(
            bundle, alpha=candidate.alpha, resolution=candidate.resolution, dataset=dataset, device=device
        )
        images = validation(sliced.preprocess)
        top1 = top_k_accuracy(bundle_logits(sliced, images.images, device=device), images.targets, k=1)
        say(f"{candidate.name}: {100 * top1:.1f} %")
        yield sliced, top1


def widest_of(candidates: Sequence[Candidate], *, classes: int) -> tuple[ArchSpec, ElasticPolicy]:
    """The table that holds all candidates of one family, and how it is trained for them and for nothing else.

    Raises:
        UsageError: they are not of one family, or have only one width.
    """
    alphas = sorted({candidate.alpha for candidate in candidates})
    sides = sorted({candidate.resolution for candidate in candidates})
    families = sorted({candidate.family for candidate in candidates})
    if len(families) != 1 or len(alphas) < 2:
        raise UsageError(
            f"networks of {', '.join(families) or 'no family'} with {len(alphas)} widths to train together",
            wanted="one family and at least two widths",
            do="train them one by one",
        )
    parts = split_name(candidates[0].name)
    stride = None if parts is None else parts.stride
    spec = compose(families[0], alpha=alphas[-1], resolution=sides[-1], stride=stride, classes=classes)
    policy = ElasticPolicy(narrowest=alphas[0], widest=alphas[-1], inner=tuple(alphas[1:-1]), resolutions=tuple(sides))
    return spec, policy
