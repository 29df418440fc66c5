"""TensorFlow Lite files: flatbuffer -> values -> a chain of convolutions -> a table with tensors."""

from .read import read_tflite

__all__ = ["read_tflite"]
