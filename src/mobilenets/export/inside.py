"""What a model file tells of itself, for those who meet it without its `artifact.json`."""

from __future__ import annotations

import json

from ..bundle import Bundle
from ..records import to_json

__all__ = ["facts_of"]


def facts_of(bundle: Bundle) -> dict[str, str]:
    """Texts by name: `labels` (a JSON list in the order of the logits), `preprocess` (a JSON object: `Preprocess`),
    `task`, `network` and `bundle` (its digest).

    ONNX keeps them among `metadata_props` as "mobilenets.labels" and so on, OpenVINO as rt_info below "mobilenets",
    LiteRT as one JSON object in the metadata entry "mobilenets", torch as the extra file "mobilenets.json", and
    ExecuTorch as a method "mobilenets" that returns the bytes of such an object. Core ML has user-defined metadata.
    """
    return {
        "labels": json.dumps(bundle.labels, ensure_ascii=False),
        "preprocess": json.dumps(to_json(bundle.preprocess)),
        "task": bundle.task,
        "network": bundle.spec.name,
        "bundle": bundle.digest,
    }
