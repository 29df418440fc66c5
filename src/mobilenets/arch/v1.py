"""MobileNetV1: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
arXiv:1704.04861, 2017."""

from __future__ import annotations

from .rows import ConvRow, SeparableRow
from .spec import ArchSpec, ClassifierHead, Norm

__all__ = ["mobilenet_v1"]


def mobilenet_v1() -> ArchSpec:
    """Table 1.

    Two departures from the printed page, both as the authors' code (TF-slim `mobilenet_v1.py`) has them: the last
    depthwise layer has stride 1 (the table prints 2 although its output stays 7x7), and the activation is ReLU6.
    """
    return ArchSpec(
        name="mobilenet_v1",
        paper="arXiv:1704.04861, Table 1",
        rows=(
            ConvRow(out=32, stride=2),  # 224x224x3
            SeparableRow(out=64),  # 112x112x32
            SeparableRow(out=128, stride=2),  # 112x112x64
            SeparableRow(out=128),  # 56x56x128
            SeparableRow(out=256, stride=2),  # 56x56x128
            SeparableRow(out=256),  # 28x28x256
            SeparableRow(out=512, stride=2),  # 28x28x256
            *(SeparableRow(out=512) for _ in range(5)),  # 14x14x512
            SeparableRow(out=1024, stride=2),  # 14x14x512
            SeparableRow(out=1024),  # 7x7x1024
        ),
        head=ClassifierHead(classes=1000, dropout=0.001),  # TF-slim keeps 0.999
        norm=Norm(eps=1e-3, momentum=0.0003),  # TF-slim: decay 0.9997
        resolution=224,
        rounding="floor",
    )
