"""A rollout of a better model while people ask, and what a stopped attempt at it leaves."""

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from experiments.circle.traffic import People, wait_until_ready
from experiments.commands import call
from vision.errors import RunError
from vision.monitoring.rollout.state import DONE, ROLLED_BACK
from vision.support.files import write_json

OLD = "1"  # versions
NEW = "2"
REFUSED = 1  # exit code of a gate that refuses a model, and of a rollout that takes it back


def forget_stopped(
    folder: pathlib.Path, model: str, *, is_served: bool, is_rolled_out: bool
) -> None:
    """Removes what stopped attempts have left of the steps that count requests and answers.

    Their rows in the log, and their labels, would be counted with those of this attempt.

    Args:
        folder: has log/, labels/, rollout/ and models/.
        model: name of the model, whose traffic becomes the old version's again.
        is_served: whether the requests before the rollout are finished, and in the log.
        is_rolled_out: whether the rollout is finished.
    """
    if not is_served:
        shutil.rmtree(folder / "log", ignore_errors=True)
    if not is_rolled_out:
        for name in ("rollout", "labels"):
            shutil.rmtree(folder / name, ignore_errors=True)
        write_json(folder / "models" / model / "traffic.json", {"weights": {OLD: 100}})


def roll_out(
    folder: pathlib.Path, model: str, url: str, images: Mapping[bytes, str], window: int
) -> dict[str, Any]:
    """Gives the traffic to the new version, step by step, while people ask.

    Args:
        folder: see `forget_stopped`.
        model: name of the model.
        url: the server's.
        images: {an image file's bytes: its class}, what people ask about.
        window: answers that the guardrails look at.

    Returns:
        rollout.json, whose status is `DONE` or `ROLLED_BACK`, with {"answers": {version: how many},
        "failed": requests without an answer}.

    Raises:
        RunError: the rollout stopped before either.
    """
    out = folder / "rollout"
    labels = folder / "labels"
    flags = [f"--models={folder / 'models'}", f"--model={model}", f"--from={OLD}", f"--to={NEW}"]
    flags += [f"--server={url}", "--steps=10,50,100", f"--window={window}"]
    flags += [f"--min-answers={window // 2}", f"--min-labels={window // 4}"]
    flags += [f"--log={folder / 'log'}", f"--labels={labels}", f"--out={out}"]
    # Disagreement and drift are left out: after a change of the light there must be both. The p99
    # is of a machine with other work.
    flags += ["--guards=errors,p99,accuracy", "--p99=20", "--interval=1", "--settle=3"]
    wait_until_ready(url, model, NEW)
    with People(url, model, images, labels) as people:
        call("vision.monitoring.rollout", *flags, allowed=(0, REFUSED))
    record = json.loads((out / "rollout.json").read_text())
    if record["status"] not in (DONE, ROLLED_BACK):
        raise RunError(f"the rollout has stopped: {record['reason'] or record['status']}")
    return record | {"answers": people.answered, "failed": len(people.failed)}
