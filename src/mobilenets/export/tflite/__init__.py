"""`.tflite` files, written from our ONNX graphs."""

from .graph import to_tflite

__all__ = ["to_tflite"]
