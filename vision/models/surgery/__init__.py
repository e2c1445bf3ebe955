"""Changes a model in place: what learns, a new head, modules in between, low-rank updates.

All functions take any `nnx.Module` that follows the contract of `vision.models`, abstract or not.
The name of a variable is its path, "blocks.0.attention.qkv.kernel".
"""

from vision.models.surgery.depths import depths
from vision.models.surgery.low_rank import LowRank, add_low_rank, merge_low_rank, plain_name
from vision.models.surgery.submodules import insert_after, replace_head
from vision.models.surgery.variables import Frozen, arrays, count, freeze, variables

__all__ = [
    "Frozen",
    "LowRank",
    "add_low_rank",
    "arrays",
    "count",
    "depths",
    "freeze",
    "insert_after",
    "merge_low_rank",
    "plain_name",
    "replace_head",
    "variables",
]
