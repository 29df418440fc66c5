"""Training: start + images + recipe -> Bundle."""

from .forward import forward_all
from .loop import EvalPixels, Outcome, train
from .objective import Batch, CrossEntropy, MakeObjective, Objective, Setting
from .recipe import Recipe, read_recipe, with_settings

__all__ = [
    "Batch",
    "CrossEntropy",
    "EvalPixels",
    "MakeObjective",
    "Objective",
    "Outcome",
    "Recipe",
    "Setting",
    "forward_all",
    "read_recipe",
    "train",
    "with_settings",
]
