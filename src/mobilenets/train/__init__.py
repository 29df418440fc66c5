"""Training: start + images + recipe -> Bundle."""

from .answer import BundleModel
from .checkpoint import Row
from .distil import Distillation, check_teacher, distil
from .forward import forward_all
from .judge import EvalPixels
from .loop import train
from .objective import Batch, CrossEntropy, MakeObjective, Objective, Setting
from .outcome import Outcome
from .recipe import WEIGHTS_LR, Recipe
from .recipes import RECIPES, named_recipe, read_recipe, with_settings
from .run import train_run
from .way import Tuning, Way

__all__ = [
    "RECIPES",
    "WEIGHTS_LR",
    "Batch",
    "BundleModel",
    "CrossEntropy",
    "Distillation",
    "EvalPixels",
    "MakeObjective",
    "Objective",
    "Outcome",
    "Recipe",
    "Row",
    "Setting",
    "Tuning",
    "Way",
    "check_teacher",
    "distil",
    "forward_all",
    "named_recipe",
    "read_recipe",
    "train",
    "train_run",
    "with_settings",
]
