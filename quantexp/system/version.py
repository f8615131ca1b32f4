"""The version of quantexp."""

__version__ = "0.1.0"
