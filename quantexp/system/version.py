"""The version of quantexp."""

__version__ = "0.2.0"
