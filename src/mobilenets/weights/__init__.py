"""Other people's checkpoints -> Bundle, and back."""

from .imported import Imported, to_bundle
from .labels import read_labels
from .read import import_weights

__all__ = ["Imported", "import_weights", "read_labels", "to_bundle"]
