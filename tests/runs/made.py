"""Run directories as a training leaves them, written in milliseconds."""

import json
import pathlib

from vision.config import default

DATE = "2026-11-30T12:00:00+00:00"


def make_run(path, accuracy=None, validations=((10, 0.5), (20, 0.75)), **keys):
    """Writes a run directory; returns its path.

    Args:
        path: the directory.
        accuracy: on the test split, of a finished run; None for one that is not finished.
        validations: (step, val/accuracy) of the log.
        **keys: of the config, with two underscores for a dot.
    """
    path = pathlib.Path(path)
    path.mkdir(parents=True)
    config = default()
    config.data.source = "digits"
    config.train.steps = 40
    for key, value in keys.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    lines = []
    for step, value in validations:
        training = {"train/loss": 2 / step, "train/accuracy": value, "train/learning_rate": 0.1}
        lines.append({"step": step, **training, "train/images_per_second": 100.0})
        lines.append({"step": step, "val/loss": 1 / step, "val/accuracy": value})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if accuracy is not None:
        best = max((value, step) for step, value in validations)[1]
        result = {"ended": "finished", "steps": 40, "best_step": best, "accuracy": accuracy}
        result |= {"images_per_second": 123.0, "train_seconds": 9.0, "date": DATE}
        (path / "result.json").write_text(json.dumps(result))
    return path
