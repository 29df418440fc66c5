"""Tables as torch modules."""

from .builders import BUILDERS, build_row
from .depthwise import DepthwiseConv2d, depthwise_conv2d
from .features import Features, Level, RowTap, Trained, features, levels
from .full import FullConv2d
from .network import Network, build, load_tensors, tensors_of

__all__ = [
    "BUILDERS",
    "DepthwiseConv2d",
    "Features",
    "FullConv2d",
    "Level",
    "Network",
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
