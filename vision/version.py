"""The version of the package, alone, so that whatever records it imports nothing else."""

__version__ = "0.1.0"
