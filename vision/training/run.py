"""One run from beginning to end: what `python -m vision.main` does once it knows its config."""

import contextlib
import dataclasses
import datetime
import pathlib
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

from absl import logging
from ml_collections import ConfigDict

from vision import cli
from vision.config.load import read_config
from vision.config.packages import check_packages
from vision.config.validate import validate
from vision.errors import UserError, brief
from vision.support import progress, signals
from vision.support.files import write_json
from vision.support.lock import locked
from vision.support.processes import bound, require_files

if TYPE_CHECKING:  # these import JAX, which counts as start-up time
    from jax.sharding import Mesh

    from vision.data.pipeline import Data
    from vision.data.sources import Opened
    from vision.training.host import Host
    from vision.training.outcome import Outcome
    from vision.training.trackers.tracking import Tracking

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
GIT_TIMEOUT = 10  # seconds
FILES = 48  # that a training has open, about, without worker processes


def check_single(config: ConfigDict) -> None:
    """Raises `UserError` if a config's packages are missing, or it is of several trainings."""
    check_packages(config)
    if config.continual.tasks:
        raise UserError(
            "continual.tasks asks for several trainings: run python -m vision.continual with the "
            "same arguments"
        )


def run(
    config: ConfigDict,
    workdir: pathlib.Path | str,
    began: float | None = None,
    again: str = "",
    host: "Host | None" = None,
    files: Mapping[str, str] | None = None,
) -> dict[str, Any] | None:
    """Trains and tests as a config says, in all its phases, or resumes an interrupted run.

    Imports JAX only when it is called.

    Args:
        config: the run's config.
        workdir: the run directory.
        began: `time.perf_counter()` from which start-up counts; None = now.
        again: the command that resumes the run, for the message of an interruption; "" = the same
            command with this --workdir.
        host: who watches, and with whom programs are shared; None = neither.
        files: {name: text} of further files of the run directory, written as the training begins.

    Returns:
        The contents of result.json, or None if interrupted.

    Raises:
        UserError: the config is wrong, or does not fit its data or devices.
        RunError: the loss is no longer finite, or a checkpoint cannot be written.
    """
    began = time.perf_counter() if began is None else began
    validate(config)
    with signals.listening() as listener, contextlib.ExitStack() as stack:
        if not config.log.progress:
            stack.enter_context(progress.quiet())
        return _run(config, workdir, began, again, listener, stack, host, files or {})


def _run(
    config: ConfigDict,
    workdir: pathlib.Path | str,
    began: float,
    again: str,
    listener: signals.Signals,
    stack: contextlib.ExitStack,
    host: "Host | None",
    files: Mapping[str, str],
) -> dict[str, Any] | None:
    """Does what `run` says while `listener` notes signals, with the directory locked in `stack`."""
    with progress.waiting("starting JAX"):
        from vision import parallel
        from vision.metrics import scalars
        from vision.training import host as hosts
        from vision.training.finished import continue_config, read_result
        from vision.training.phases import phases

        mesh = _start_devices(config)
    if not parallel.is_single_process():
        # All must stop at one step: JAX's runtime has taken SIGTERM, and Ctrl-C just ends them.
        listener.release(signal.SIGINT)
    # The main process names it, as the default depends on the clock.
    workdir = parallel.from_main_process(str(workdir))
    again = again or f"the same command with --workdir {workdir}"
    report = cli.show if parallel.is_main_process() else _ignore
    result = None
    parallel.on_main_process(lambda: stack.enter_context(locked(workdir, "--workdir")))
    state = f"before training began: {again} continues"
    try:
        for phase, directory in phases(config, workdir):
            state = f"before training began: {again} continues"
            listener.leave_at_once(f"interrupted {state}")
            phase = continue_config(phase, directory)
            result = read_result(phase, directory)
            if parallel.all_agree(result is not None) and result is not None:
                report(f"finished already: {describe(result)}; {directory}")
                _finish_tracking(phase, directory, result, report)
                continue
            opened = host.opened if host is not None else None
            phase, data = _open(phase, directory, mesh, report, opened)
            is_last = directory == pathlib.Path(workdir)
            watched = host if host is not None and is_last else hosts.ALONE
            tracking = _track(phase, directory, report, stack)
            watched = dataclasses.replace(watched, files=files, tracking=tracking)
            outcome = _train(phase, data, directory, mesh, watched)
            listener.stay()
            if outcome.why == "interrupted":
                report(f"interrupted at step {outcome.steps}: saved; {again} resumes it")
                return None
            state = f"at step {outcome.steps}, the last: saved; {again} tests it"
            result = _test(phase, data, outcome, mesh, began)
            _write_result(directory, result, report)
            _draw_curves(directory, phase, outcome.best_step, report)
            if tracking is not None:
                tracking.finish(scalars(result))
            began = time.perf_counter()
    except signals.Interrupted:
        report(f"interrupted {state}")
        return None
    return result


def _start_devices(config: ConfigDict) -> "Mesh":
    """Sets JAX up, joins the run's processes, and returns the mesh of devices."""
    from vision import cpu, distributed, parallel

    require_files(FILES, "a training")
    logging.set_verbosity(logging.ERROR)  # silences the libraries
    parallel.keep_programs(config.compile_cache)
    distributed.start(config.parallel)
    cpu.choose(config.parallel.onednn)
    return parallel.make_mesh(config.parallel.devices, config.parallel.fsdp)


def _open(
    config: ConfigDict,
    workdir: pathlib.Path,
    mesh: "Mesh",
    report: Callable[[str], object],
    opened: "Opened | None",
) -> tuple[ConfigDict, "Data"]:
    """Returns (config, data) of a training, the config with its open settings filled in."""
    from vision import cpu, objectives, parallel
    from vision.data.findings import summarize
    from vision.data.pipeline import open_data
    from vision.run.resolve import describe_fields, grow_head, resolve_config
    from vision.run.splits import past_of_training
    from vision.run.vocabulary import run_encoder
    from vision.training.memory import chooser
    from vision.training.setup import set_direction

    config, doubt = set_direction(resolve_config(config, workdir))
    past = past_of_training(workdir, config, chooser(config, mesh))
    encoder = run_encoder(workdir, config)
    data = open_data(config, mesh, with_unlabeled=True, past=past, encoder=encoder, opened=opened)
    config = describe_fields(config, data.encoder)
    config = grow_head(config, len(data.classes), data.image_size, data.channels)
    devices = parallel.describe(mesh) + cpu.describe(mesh.size)
    report(f"{config.data.source}: {data.describe()}; {devices}; {workdir}")
    definition = objectives.define(config.objective, config.continual.previous)
    doubts = definition.doubts(data.classes, data.class_counts)
    notes = (*summarize(data.findings), *data.changes.lines(), *doubts)
    for line in (doubt, *notes) if doubt else notes:
        report(f"note: {line}")
    return config, data


def _track(
    config: ConfigDict,
    workdir: pathlib.Path,
    report: Callable[[str], object],
    stack: contextlib.ExitStack,
) -> "Tracking | None":
    """Returns what reports the run to config.log.tracker, closed by `stack`; None without one."""
    from vision import distributed, parallel
    from vision.training.trackers.tracking import PATIENCE, Tracking

    if not config.log.tracker or not parallel.is_main_process():
        return None
    # Other processes wait for this one as they end; drawing the curves takes some of that time.
    is_alone = parallel.is_single_process()
    patience = PATIENCE if is_alone else distributed.SHUTDOWN_TIMEOUT / 3
    return stack.enter_context(Tracking(config.log.tracker, workdir, config, report, patience))


def _finish_tracking(
    config: ConfigDict,
    workdir: pathlib.Path,
    result: Mapping[str, Any],
    report: Callable[[str], object],
) -> None:
    """Reports the end of a finished run to its tracker, if a kill or a server prevented that."""
    from vision.metrics import scalars
    from vision.training.trackers.tracking import awaits_end

    if not config.log.tracker or not awaits_end(workdir, config.log.tracker):
        return
    resolved, _ = read_config(workdir / "config.json")
    resolved.log = config.log  # the tracker may be at another address by now
    with contextlib.ExitStack() as stack:
        tracking = _track(resolved, workdir, report, stack)
        if tracking is not None:
            tracking.finish(scalars(result))


def _train(
    config: ConfigDict, data: "Data", workdir: pathlib.Path, mesh: "Mesh", host: "Host"
) -> "Outcome":
    """Trains, and lists the images that could not be read."""
    from vision.training.loop import train

    outcome = train(config, data, workdir, mesh, host)
    _write_unreadable(data.unreadable, workdir)
    return outcome


def _test(
    config: ConfigDict, data: "Data", outcome: "Outcome", mesh: "Mesh", began: float
) -> dict[str, Any]:
    """Evaluates the test split and returns the contents of result.json."""
    from vision import cpu, parallel
    from vision.training.evaluate import eval_batch_size, evaluate, evaluate_with_logits
    from vision.training.tasks import measure_tasks

    batch_size = eval_batch_size(config.train)
    loader = data.loaders["test"]
    arguments = (outcome.step, outcome.state, loader, batch_size)
    if len(data.tasks) > 1:
        summary, logits, readable = evaluate_with_logits(*arguments, "testing")
        summary |= measure_tasks(config, data, logits, readable)
    else:
        summary = evaluate(*arguments, True, "testing")
    parameters, learning = outcome.step.parameters
    versions = {name: metadata.version(name) for name in PACKAGES}
    return summary | {
        "classes": list(data.classes),
        "split_sizes": {name: len(loader) for name, loader in data.loaders.items()},
        "parameters": {"all": parameters, "learning": learning},
        "ended": outcome.why,
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "images_per_second": outcome.images_per_second,
        "seconds_to_first_step": outcome.first_step and outcome.first_step - began,
        "train_seconds": outcome.train_seconds,
        "device": parallel.describe(mesh),
        "onednn": cpu.uses_onednn(mesh.size),
        "versions": versions | {"python": platform.python_version()},
        "git_commit": _git_commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config": config.to_dict(),
    }


def _write_result(
    workdir: pathlib.Path,
    result: dict[str, Any],
    report: Callable[[str], object],
) -> None:
    """Writes result.json and reports the most important numbers."""
    from vision import parallel
    from vision.training.tasks import describe as describe_tasks

    if parallel.is_main_process():
        write_json(workdir / "result.json", result)
    for line in describe_tasks(result):
        report(line)
    report(f"{describe(result)}; {workdir}")


def _draw_curves(
    workdir: pathlib.Path, config: ConfigDict, best_step: int, report: Callable[[str], object]
) -> None:
    """Writes curves.png, unless a signal wants the command to end."""
    from vision import parallel
    from vision.run.curves import write_curves

    if not config.log.curves or signals.received() or not parallel.is_main_process():
        return
    try:
        with progress.waiting("drawing the curves"):
            write_curves(workdir, config, best_step)
    except Exception as error:  # a missing package or font, a full disk: the run is finished
        report(f"note: {workdir}/curves.png was not drawn: {brief(error)}")


def describe(result: Mapping[str, Any]) -> str:
    """Returns the most important numbers of a result.json as a line."""
    from vision import metrics

    numbers = ", ".join(f"{name} {value:.4f}" for name, value in metrics.scalars(result).items())
    return (
        f"test: {numbers or 'not measured yet'}; {result['ended']} at step {result['steps']}, "
        f"best step {result['best_step']}; {result['images_per_second']:,.0f} images/s, "
        f"{result['train_seconds']:.0f} s"
    )


def _write_unreadable(reasons: Mapping[str, str], workdir: pathlib.Path) -> None:
    """Lists the unreadable images that this process has met; each process loads its own."""
    from vision import parallel

    if not reasons:
        return
    name = "unreadable.json"
    if not parallel.is_single_process():
        name = f"unreadable-{parallel.process_index()}.json"
    write_json(workdir / name, reasons)
    print(
        f"{len(reasons)} images are left out (unreadable, or lost when the source was opened): "
        f"{workdir / name}"
    )


def _git_commit() -> str | None:
    """Returns the commit of this code, with "-dirty" if changed since; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            bound(command),
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _ignore(_: str) -> None:
    """Reports nothing: only the main process prints."""
