"""The version of this dashtop."""

__version__ = "0.1.0"
