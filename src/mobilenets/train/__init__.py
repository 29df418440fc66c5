"""Training: start + images + recipe -> Bundle."""

from .loop import EvalPixels, Outcome, forward_all, train
from .recipe import Recipe, read_recipe, with_settings

__all__ = ["EvalPixels", "Outcome", "Recipe", "forward_all", "read_recipe", "train", "with_settings"]
