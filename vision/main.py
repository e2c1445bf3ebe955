"""Trains a model, then measures the best checkpoint on the test split.

    python -m vision.main --config configs/vit_cifar10.py
    python -m vision.main --config configs/resnet_cifar10.py:56 --workdir runs/r56 --config.seed=1

A --workdir that holds a run resumes it. Every key that a config or --config.KEY=VALUE can set is in vision/config.py.
"""

import datetime
import functools
import json
import pathlib
import platform
import subprocess
import time
from importlib import metadata

from absl import flags, logging

from vision import cli
from vision.memory import keep_freed_memory
from vision.ranges import validate

STARTED = time.perf_counter()  # JAX is imported later, so that its import counts as start-up time
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def main(argv):
    config, values = cli.parse(argv, __doc__, _flags)
    if config.parallel.keep_memory:
        keep_freed_memory()
    run(config, values.workdir or _fresh_workdir(argv))


def _flags(values):
    flags.DEFINE_string("workdir", "", "directory of the run; default: a new one under runs/", flag_values=values)


def run(config, workdir):
    """Trains and tests as `config` says; returns the dict that `result.json` holds, or None if interrupted."""
    validate(config)
    import jax

    from vision import parallel
    from vision.training.phases import phases

    logging.set_verbosity(logging.ERROR)  # libraries' chatter
    if config.compile_cache:
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(config.compile_cache).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    parallel.start(config.parallel)
    mesh = parallel.make_mesh(config.parallel.devices, config.parallel.fsdp)
    workdir = parallel.from_main_process(str(workdir))  # a new one is named by the clock
    result, began = None, STARTED
    for phase, directory in phases(config, workdir):
        result, began = _train_and_test(phase, directory, mesh, began), time.perf_counter()
        if result is None:
            break
    return result


def _train_and_test(config, workdir, mesh, began):
    from vision import metrics, parallel
    from vision.data.findings import summarize
    from vision.data.pipeline import open_data
    from vision.training.evaluate import eval_batch_size, evaluate
    from vision.training.loop import train
    from vision.training.restore import adopt

    show = functools.partial(print, flush=True) if parallel.is_main_process() else lambda _: None
    config = adopt(config, workdir)
    data = open_data(config, mesh)
    show(f"{config.data.source}: {data.describe()}; {parallel.describe(mesh)}; {workdir}")
    for line in summarize(data.findings):
        show(f"note: {line}")
    outcome = train(config, data, workdir, mesh)
    _report_unreadable(data.unreadable, workdir)
    if outcome.why == "interrupted":
        show(f"interrupted at step {outcome.steps}: saved; the same command with --workdir {workdir} goes on")
        return None
    summary = evaluate(outcome.step, outcome.state, data.feeds["test"], eval_batch_size(config.train))
    result = summary | {
        "classes": list(data.classes),
        "split_sizes": {name: len(feed) for name, feed in data.feeds.items()},
        "parameters": dict(zip(("all", "learning"), outcome.step.parameters, strict=True)),
        "ended": outcome.why,
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "images_per_second": outcome.images_per_second,
        "seconds_to_first_step": outcome.first_step and outcome.first_step - began,
        "train_seconds": outcome.train_seconds,
        "device": parallel.describe(mesh),
        "versions": {name: metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "git_commit": _git_commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config": config.to_dict(),
    }
    if parallel.is_main_process():
        (workdir / "result.json").write_text(json.dumps(result, indent=1))
    numbers = ", ".join(f"{k} {v:.4f}" for k, v in metrics.scalars(summary).items())
    speed = f"{outcome.images_per_second:,.0f} images/s, {outcome.train_seconds:.0f} s"
    show(f"test: {numbers}; {outcome.why} at step {outcome.steps}, best step {outcome.best_step}; {speed}; {workdir}")
    return result


def _report_unreadable(found, workdir):
    """Writes the unreadable images that this process met; of several, each loads images of its own."""
    from vision import parallel

    if found:
        name = "unreadable.json" if parallel.is_alone() else f"unreadable-{parallel.process_index()}.json"
        (workdir / name).write_text(json.dumps(found, indent=1))
        print(f"{len(found)} images are left out, unreadable or lost when the source was opened: {workdir / name}")


def _fresh_workdir(argv):
    name = next((a.removeprefix("--config=") for a in argv if a.startswith("--config=")), None)
    spec = name or argv[argv.index("--config") + 1]
    stem = "-".join([pathlib.Path(spec.split(":")[0]).stem, *spec.split(":")[1:]]).replace("/", "_")
    now = datetime.datetime.now()
    return pathlib.Path("runs") / f"{stem}-{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}"


def _git_commit():
    """The commit of this code, "-dirty" if it was changed since, or None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


if __name__ == "__main__":
    cli.run(main)
