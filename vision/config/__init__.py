"""The config: its schema, and how it is read from files and flags and validated.

`python -m vision.config [WORD]` prints the keys, or those about WORD.
"""

from vision.config.schema import default

__all__ = ["default"]
