"""Labelled images and a budget in; a MobileNet that runs there, with proof, out."""

__version__ = "0.1.0"
