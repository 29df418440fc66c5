"""ONNX graph -> OpenVINO IR, by OpenVINO's own reader."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError
from ..runtime.engines.open_vino import import_openvino

__all__ = ["to_openvino"]


def to_openvino(model: Any, *, facts: Mapping[str, str], half: bool = False) -> dict[str, bytes]:
    """The two files of an IR, `model.xml` and `model.bin`.

    Args:
        model: an ONNX model (`onnx.ModelProto`) that takes pixels.
        facts: texts by name, kept in the XML as rt_info below "mobilenets".
        half: keep the weights as float16.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    try:
        ov = import_openvino()
    except ImportError as error:
        raise MissingExtraError("openvino", extra="openvino") from error
    read = ov.Core().read_model(model.SerializeToString())
    for name, value in facts.items():
        read.set_rt_info(value, ["mobilenets", name])
    with tempfile.TemporaryDirectory() as folder:
        ov.save_model(read, Path(folder) / "model.xml", compress_to_fp16=half)
        return {name: (Path(folder) / name).read_bytes() for name in ("model.xml", "model.bin")}
