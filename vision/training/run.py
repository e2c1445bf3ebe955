"""One run from beginning to end: what `python -m vision.main` does once it knows its config."""

import datetime
import functools
import json
import pathlib
import platform
import subprocess
import time
from importlib import metadata

from absl import logging

from vision.config.validate import validate

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def run(config, workdir, began=None, again=""):
    """Trains and tests as a config says, in all of its phases, or goes on where that was
    interrupted.

    JAX is imported here, not before.

    Args:
        config: the run's config.
        workdir: the run's directory.
        began: `time.perf_counter()` from which start-up counts; None = now.
        again: the command that goes on, for the message of an interruption; "" = the same with this
            --workdir.

    Returns:
        The dict that `result.json` holds, or None if interrupted.

    Raises:
        UserError: for a config that is wrong, or does not fit its data or devices.
        RunError: where the loss is no longer finite, or a checkpoint cannot be written.
    """
    began = time.perf_counter() if began is None else began
    validate(config)
    import jax

    from vision import distributed, parallel
    from vision.training.phases import phases

    logging.set_verbosity(logging.ERROR)  # libraries' chatter
    if config.compile_cache:
        jax.config.update(
            "jax_compilation_cache_dir", str(pathlib.Path(config.compile_cache).expanduser())
        )
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    distributed.start(config.parallel)
    mesh = parallel.make_mesh(config.parallel.devices, config.parallel.fsdp)
    workdir = parallel.from_main_process(str(workdir))  # a new one is named by the clock
    again = again or f"the same command with --workdir {workdir}"
    result = None
    for phase, directory in phases(config, workdir):
        result = _train_and_test(phase, directory, mesh, began, again)
        began = time.perf_counter()
        if result is None:
            break
    return result


def _train_and_test(config, workdir, mesh, began, again):
    from vision import metrics, parallel
    from vision.data.findings import summarize
    from vision.data.pipeline import open_data
    from vision.run.resolve import resolve_config
    from vision.training.evaluate import eval_batch_size, evaluate
    from vision.training.loop import train

    show = functools.partial(print, flush=True) if parallel.is_main_process() else lambda _: None
    config = resolve_config(config, workdir)
    data = open_data(config, mesh)
    show(f"{config.data.source}: {data.describe()}; {parallel.describe(mesh)}; {workdir}")
    for line in summarize(data.findings):
        show(f"note: {line}")
    outcome = train(config, data, workdir, mesh)
    _report_unreadable(data.unreadable, workdir)
    if outcome.why == "interrupted":
        show(f"interrupted at step {outcome.steps}: saved; {again} goes on")
        return None
    summary = evaluate(
        outcome.step, outcome.state, data.loaders["test"], eval_batch_size(config.train)
    )
    result = summary | {
        "classes": list(data.classes),
        "split_sizes": {name: len(loader) for name, loader in data.loaders.items()},
        "parameters": dict(zip(("all", "learning"), outcome.step.parameters, strict=True)),
        "ended": outcome.why,
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "images_per_second": outcome.images_per_second,
        "seconds_to_first_step": outcome.first_step and outcome.first_step - began,
        "train_seconds": outcome.train_seconds,
        "device": parallel.describe(mesh),
        "versions": {name: metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "git_commit": _git_commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config": config.to_dict(),
    }
    if parallel.is_main_process():
        (workdir / "result.json").write_text(json.dumps(result, indent=1))
    numbers = ", ".join(f"{k} {v:.4f}" for k, v in metrics.scalars(summary).items())
    speed = f"{outcome.images_per_second:,.0f} images/s, {outcome.train_seconds:.0f} s"
    show(
        f"test: {numbers}; {outcome.why} at step {outcome.steps}, best step {outcome.best_step}; {speed}; {workdir}"
    )
    return result


def _report_unreadable(found, workdir):
    """Writes the unreadable images that this process met; of several, each loads images of its
    own."""
    from vision import parallel

    if found:
        name = (
            "unreadable.json"
            if parallel.is_single_process()
            else f"unreadable-{parallel.process_index()}.json"
        )
        (workdir / name).write_text(json.dumps(found, indent=1))
        print(
            f"{len(found)} images are left out, unreadable or lost when the source was opened: {workdir / name}"
        )


def _git_commit():
    """The commit of this code, "-dirty" if it was changed since, or None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
