"""The field half: open an artifact, feed it images, read its answers. No torch.

Importing this loads numpy and Pillow; the engine's library comes when an artifact is opened.
"""

from .artifact import read_artifact
from .engine import (
    DEFAULT_ENGINES,
    ELSEWHERE,
    ENGINES,
    Engine,
    EngineEntry,
    Opener,
    default_threads,
    engines_for,
    is_installed,
    open_engine,
)
from .evaluate import Evaluation, evaluate, run_batches
from .model import Answers, Model, open_artifact
from .predict import predict
from .sources import find_images

__all__ = [
    "DEFAULT_ENGINES",
    "ELSEWHERE",
    "ENGINES",
    "Answers",
    "Engine",
    "EngineEntry",
    "Evaluation",
    "Model",
    "Opener",
    "default_threads",
    "engines_for",
    "evaluate",
    "find_images",
    "is_installed",
    "open_artifact",
    "open_engine",
    "predict",
    "read_artifact",
    "run_batches",
]
