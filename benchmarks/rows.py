"""Rows of results: one JSON line each, with where they were measured."""

import json
from pathlib import Path

from mobilenets.records import Environment, to_json

RESULTS = Path(__file__).parent / "results"
# The five that speeds are told of.
NETWORKS = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenet_v4_conv_small",
)
PACKAGES = (
    *("mobilenets", "torch", "torchvision", "timm", "onnxruntime", "openvino", "ai-edge-litert"),
    *("numpy", "pillow", "click"),
)


def append(name: str, row: dict) -> None:
    """Print a row and append it to `results/NAME.jsonl`."""
    whole = {**row, "environment": to_json(Environment.capture(packages=PACKAGES))}
    print(json.dumps(whole, indent=2))
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(whole) + "\n")
