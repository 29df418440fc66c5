"""Other people's checkpoints -> Bundle, and back."""

from .imported import Imported, to_bundle
from .labels import read_labels
from .outgoing import Offer, offer, to_state_dict, write_state_dict
from .published import Library
from .read import import_weights, trained_weights

__all__ = [
    "Imported",
    "Library",
    "Offer",
    "import_weights",
    "offer",
    "read_labels",
    "to_bundle",
    "to_state_dict",
    "trained_weights",
    "write_state_dict",
]
