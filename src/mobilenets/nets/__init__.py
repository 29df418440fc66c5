"""Tables as torch modules."""

from .builders import BUILDERS, build_row
from .depthwise import DepthwiseConv2d, depthwise_conv2d
from .network import Network, build, load_tensors, tensors_of

__all__ = [
    "BUILDERS",
    "DepthwiseConv2d",
    "Network",
    "build",
    "build_row",
    "depthwise_conv2d",
    "load_tensors",
    "tensors_of",
]
