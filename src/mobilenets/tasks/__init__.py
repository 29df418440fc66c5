"""What a network can be trained for. The third of the five extension tables."""

from collections.abc import Mapping
from types import MappingProxyType

from . import classify, multilabel
from .task import Targets, TaskFunctions

__all__ = ["TASKS", "Targets", "TaskFunctions"]

TASKS: Mapping[str, TaskFunctions] = MappingProxyType(
    {"classify": classify.FUNCTIONS, "multilabel": multilabel.FUNCTIONS}
)
