"""Channels of an activation brought to the same range, so that one scale for all of them suits each."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .model import Model
from .statistics import channel_maxima

__all__ = ["equalized"]

ROOM: Final = 1.1  # above what was seen: a channel's maximum over some hundred images is not the last word
MOST: Final = 100.0  # a channel that hardly ever fires is not to be blown up to the size of the others
DENSE_SHARE: Final = 0.5  # of the way, in powers, where filters read all channels and share their steps


def equalized(proto: Any, images: NDArray[np.uint8]) -> Any | None:
    """A graph that says the same, in which channels between two convolutions are scaled to one range.

    Nagel et al. 2019 (arXiv:1906.04721, section 4.1): ReLU(s x) = s ReLU(x), so what one convolution's filters are
    multiplied with can be taken out of the next one's. They balance the weights of both; here weights have a step for
    each output channel anyhow, so what there is to gain is in the activation between. In front of a depthwise
    convolution it costs nothing: its filters have a step each, and every channel gets the whole range. In front of one
    that reads all channels the gain is shared between the activation and the weights (half way, as in section 4.1).

    Clipping at six is left as it is, where the paper replaces it by ReLU: channels are only made greater, up to where
    images reach the bound, so what is above was not seen, and is cut as a calibrated range would. Hard-swish cannot be
    scaled, and those values stay.

    Args:
        proto: the graph as `prepared` makes it.
        images: prepared calibration images, uint8 (N, R, R, C).

    Returns:
        None where nothing can be scaled.
    """
    model = Model(proto)
    pairs = _pairs(model)
    if not pairs:
        return None
    maxima = channel_maxima(proto, images, [value for _, value, _ in pairs])
    for before, value, after in pairs:
        greatest = maxima[value].astype(np.float64)
        if not greatest.max() > 0:
            continue
        wanted = greatest.max() / np.maximum(ROOM * greatest, 1e-12)
        depthwise = model.is_depthwise(after)
        times = np.clip(wanted, 1.0, MOST) ** (1.0 if depthwise else DENSE_SHARE)
        weight, bias = before.input[1:]
        model.constants[weight] = _scaled(model.constants[weight], times, axis=0)
        model.constants[bias] = _scaled(model.constants[bias], times, axis=0)
        model.constants[after.input[1]] = _scaled(
            model.constants[after.input[1]], 1 / times, axis=0 if depthwise else 1
        )
    return model.proto()


def _pairs(model: Model) -> list[tuple[Any, str, Any]]:
    """Convolutions with nothing but a ReLU, clipped or not, between them: the first, the value between, the second."""
    pairs = []
    for activation in model.nodes:
        if activation.op_type == "Clip":
            fits = model.constants[activation.input[1]].item() == 0 and model.constants[activation.input[2]].item() != 1
        else:
            fits = activation.op_type == "Relu"
        before, readers = model.maker(activation.input[0]), model.readers(activation.output[0])
        if (
            fits
            and before is not None
            and before.op_type == "Conv"
            and len(model.readers(before.output[0])) == 1
            and len(readers) == 1
            and readers[0].op_type == "Conv"
        ):
            pairs.append((before, activation.output[0], readers[0]))
    return pairs


def _scaled(array: NDArray[np.float32], times: NDArray[np.float64], *, axis: int) -> NDArray[np.float32]:
    shape = [len(times) if number == axis else 1 for number in range(array.ndim)]
    made: NDArray[np.float32] = (array.astype(np.float64) * times.reshape(shape)).astype(np.float32)
    return made
