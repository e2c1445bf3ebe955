"""What of Orbax the checkpoints use; a file of its own because importing Orbax takes a while."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

# Parts of a state that earlier code did not save: the code that restores a state makes up for them.
LATER = ("slow",)


def open_manager(
    directory: pathlib.Path,
    c: ConfigDict,
    mode: str,
    metric: Callable[[Mapping[str, float]], float],
) -> ocp.CheckpointManager:
    """Returns Orbax's manager of a directory, which keeps the latest checkpoints and the best.

    Args:
        directory: an absolute path.
        c: config.checkpoint.
        mode: "max" or "min", the better values of the metric.
        metric: maps the scalars of an evaluation to the value that ranks a checkpoint.
    """
    keep = [
        # Without the latest, a resume might go back to before the best.
        checkpoint_managers.LatestN(n=c.keep_latest),
        checkpoint_managers.BestN(
            get_metric_fn=metric,
            reverse=mode == "min",
            n=c.keep_best,
            keep_checkpoints_without_metrics=False,
        ),
    ]
    options = ocp.CheckpointManagerOptions(
        best_fn=metric,
        best_mode=mode,
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
        # made in the background, one that fails would leave five threads waiting for minutes
        async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
    )
    return ocp.CheckpointManager(directory, options=options)


def items_to_save(state: Any, record: Mapping[str, Any]) -> Any:
    """Returns Orbax's arguments that save a pytree of arrays and a JSON dict."""
    return ocp.args.Composite(
        state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(dict(record))
    )


def items_to_restore(like: Any, path: pathlib.Path | None = None) -> Any:
    """Returns Orbax's arguments that restore a checkpoint's arrays to those of a pytree.

    Args:
        like: a pytree of arrays, or of their shapes, dtypes and shardings.
        path: the checkpoint's `state`; what of `LATER` it lacks is left out of `like`.
    """
    if path is not None and any(name in like for name in LATER):
        saved = read_shapes(path)
        like = {name: like[name] for name in like if name in saved or name not in LATER}
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    return ocp.args.Composite(state=ocp.args.StandardRestore(target), record=ocp.args.JsonRestore())


def read_shapes(path: pathlib.Path) -> Any:
    """Returns the pytree that a checkpoint's `state` holds; its leaves have a shape and a dtype."""
    with ocp.StandardCheckpointer() as reader:
        return reader.metadata(path).item_metadata.tree
