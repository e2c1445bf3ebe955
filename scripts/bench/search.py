"""Times what a search spends beside training: a study whose trials are one step.

    python -m scripts.bench.search
    python -m scripts.bench.search --config configs/vit_mnist5k.py --trials 20

The trials differ in learning rate and weight decay only, so all but the first find their programs
compiled. `trial_s` is from the start of a trial to the start of the next one: queue, sampler,
opening the data, training, checkpoint, test, record. `training_s` is `train_seconds` of its
result.json, from the first batch to the end with the validation, and `beside_s` the difference. The
last line is the median and the worst of `beside_s` after the first trial.
"""

import contextlib
import io
import json
import pathlib
import statistics
import tempfile

from scripts.bench import common
from vision import cli

SPACE = """
def space(trial, config):
    rate = config.optimizer.learning_rate
    config.optimizer.learning_rate = trial.suggest_float("rate", rate / 10, rate * 10, log=True)
    config.optimizer.weight_decay = trial.suggest_float("decay", 1e-5, 1e-2, log=True)
"""


def main(argv):
    p = common.make_parser(__doc__, "search")
    p.add_argument("--config", default="configs/digits.py", help="as for vision.main")
    p.add_argument("--trials", type=int, default=12)
    p.add_argument("--sampler", default="tpe")
    a = p.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        timings = _study(a, pathlib.Path(folder))
    rows = [common.facts(a) | {"config": a.config, "trial": i} | t for i, t in enumerate(timings)]
    common.print_table([{"trial": i} | t for i, t in enumerate(timings)])
    common.write_rows(a.csv, rows)
    later = [t["beside_s"] for t in timings[1:]]
    print(
        f"beside training, after the first trial: {statistics.median(later):.2f} s "
        f"(worst {max(later):.2f} s)"
    )


def _study(a, folder):
    """Returns {"trial_s", "training_s", "beside_s"} of each trial but the last."""
    from vision.search import __main__ as search
    from vision.search.storage import open_storage

    space = folder / "space.py"
    space.write_text(SPACE)
    out = folder / "study"
    flags = {"train.steps": 1, "train.eval_every": 1, "log.progress": "false"}
    argv = [f"--config={a.config}", f"--space={space}", f"--out={out}", f"--sampler={a.sampler}"]
    argv += [f"--trials={a.trials}", *(f"--config.{key}={v}" for key, v in flags.items())]
    with contextlib.redirect_stdout(io.StringIO()):
        search.main(argv)
    trials = open_storage("", out).get_all_trials(0)
    timings = []
    for trial, following in zip(trials, trials[1:], strict=False):
        result = json.loads((out / f"trials/{trial.number:04d}/result.json").read_text())
        seconds = (following.datetime_start - trial.datetime_start).total_seconds()
        training = result["train_seconds"]
        timings.append({"trial_s": seconds, "training_s": training, "beside_s": seconds - training})
    return timings


if __name__ == "__main__":
    cli.run(main)
