"""Begins a rollout, if what it needs is there; otherwise says what is missing."""

import contextlib
import pathlib
import time

from vision.bundle.directory import MANIFEST, read_manifest
from vision.errors import UserError, check_choice
from vision.monitoring.rollout import answers, server, traffic
from vision.monitoring.rollout.places import Places
from vision.monitoring.rollout.plan import Plan
from vision.monitoring.rollout.server import Report
from vision.monitoring.rollout.state import State
from vision.reference import statistics
from vision.support.digest import sha256


def model_folder(models: pathlib.Path, model: str, versions: list[str]) -> pathlib.Path:
    """Returns the directory of a model.

    Args:
        models: the servers' --models.
        model: name of the model.
        versions: that it must have.

    Raises:
        UserError: there is no such directory, model or version.
    """
    if not models.is_dir():
        raise UserError(f"there is no directory --models {models}")
    check_choice("--model", model, _folders(models), f"; they are in --models {models}")
    folder = models / model
    bundles = [name for name in _folders(folder) if (folder / name / MANIFEST).is_file()]
    for version in versions:
        check_choice("--to" if version == versions[-1] else "--from", version, bundles)
    return folder


def ask_all(places: Places, model: str) -> dict[str, Report]:
    """Returns {URL: what the server says}; raises `UserError` if one cannot be asked."""
    reports = {}
    for url in places.servers:
        try:
            reports[url] = server.ask(url, model, places.key)
        except server.Unreachable as error:
            raise UserError(f"--server: {error}") from error
    return reports


def old_version(reports: dict[str, Report], places: Places, model: str, new: str) -> str:
    """Returns the version that has the traffic, if --from does not say it.

    Raises:
        UserError: there is none, or it is the new one, or servers differ.
    """
    serving = {seen.serving for seen in reports.values()}
    if len(serving) > 1:
        versions = ", ".join(sorted(serving))
        raise UserError(f"the servers send {model} traffic to {versions}: give --from")
    (old,) = serving
    if not old:
        raise UserError(f"no version of {model} answers at {places.servers[0]}: see its log")
    if old == new:
        why = (
            "" if traffic.read(places.folder).weights else f", as no {traffic.FILE} says otherwise"
        )
        raise UserError(
            f"version {new} of {model} has the traffic already{why}: give --from VERSION, the one "
            "to compare it with and to return to"
        )
    return old


def why_no_drift(plan: Plan, places: Places) -> str:
    """Returns why drift cannot be read; "" if it can be, or if no server answers."""
    for version in (plan.old, plan.new):
        folder = places.folder / version
        manifest = read_manifest(folder)
        try:
            statistics.parse(manifest.reference, len(manifest.classes), folder)
        except UserError as error:
            return str(error)
    reports = []
    for url in places.servers:
        with contextlib.suppress(server.Unreachable):
            reports.append(server.ask(url, plan.model, places.key))
    if not reports or any(seen.has_drift for seen in reports):
        return ""
    return "servers compare windows only with --prediction-log and a --drift-window above 0"


def begin(plan: Plan, places: Places, reports: dict[str, Report]) -> State:
    """Returns the state of a rollout that has not begun; nothing is written.

    Raises:
        UserError: a version is not ready, the traffic is shared already, or the log is of another
            model.
    """
    for url, seen in reports.items():
        for version in (plan.old, plan.new):
            state = seen.states.get(version)
            if state is None:
                raise UserError(
                    f"{url} does not have version {version} of {plan.model}: does it serve "
                    f"{places.folder.parent}?"
                )
            if state != server.READY:
                raise UserError(
                    f"version {version} of {plan.model} is {state} at {url}: wait until it is "
                    "ready, or see the server's log"
                )
    seen_traffic = traffic.read(places.folder)
    traffic.check_free(seen_traffic, plan.old, plan.new, places.folder)
    if places.log:
        answers.check_log(places.log, plan.model)
    return State(
        model=plan.model,
        old=plan.old,
        new=plan.new,
        steps=list(plan.steps),
        fingerprints={
            version: sha256(places.folder / version / MANIFEST) for version in (plan.old, plan.new)
        },
        weights=plan.weights(0),
        before=seen_traffic.weights,
        set_at=time.time(),
    )


def _folders(directory):
    return sorted(
        entry.name
        for entry in directory.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
