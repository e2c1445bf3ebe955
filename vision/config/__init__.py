"""The config: its schema, its ranges, and how it is read from files and flags."""

from vision.config.schema import default

__all__ = ["default"]
