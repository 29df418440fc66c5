"""Tables as torch modules."""

from .builders import BUILDERS, build_row
from .depthwise import DepthwiseConv2d, depthwise_conv2d
from .features import Features, Level, RowTap, Trained, features, levels
from .network import Network, build, load_tensors, tensors_of
from .pointwise import PointwiseConv2d

__all__ = [
    "BUILDERS",
    "DepthwiseConv2d",
    "Features",
    "Level",
    "Network",
    "PointwiseConv2d",
    "RowTap",
    "Trained",
    "build",
    "build_row",
    "depthwise_conv2d",
    "features",
    "levels",
    "load_tensors",
    "tensors_of",
]
