"""Measures the fast CIFAR-10 recipe over several seeds in one process: test accuracy and seconds.

    python -m scripts.bench.airbench
    python -m scripts.bench.airbench --seeds 3 --config configs/airbench_cifar10.py:95 \\
        --config.data.source=tfds:cifar10

Seconds are counted as in the paper (arXiv:2404.00498): training, plus evaluating the test split
with all views, without compilation. Training is all steps at the run's images per second, which
excludes the first call; evaluation and the whitening's initialization are timed on their second
run. Opening the data is excluded. The last line is `airbench: MEAN ± STD % in SECONDS s`.
"""

import pathlib
import statistics
import tempfile
import time

from absl import flags

from scripts.bench import common
from vision import cli
from vision.config.flags import parse
from vision.config.validate import validate

CONFIG = "configs/airbench_cifar10.py"


def main(argv):
    if not any(word == "--config" or word.startswith("--config=") for word in argv):
        argv = ["--config", CONFIG, *argv]
    config, values = parse(argv, __doc__, _flags)
    validate(config)
    rows = []
    for seed in range(values.seeds):
        config.seed = seed
        row = _run(config)
        rows.append(row)
        print(f"seed {seed}: {100 * row['accuracy']:.2f} % in {row['seconds']:.2f} s", flush=True)
    common.write_rows(values.csv, [common.facts(values) | row for row in rows])
    accuracies = [100 * row["accuracy"] for row in rows]
    spread = statistics.stdev(accuracies) if len(rows) > 1 else 0.0
    seconds = statistics.mean(row["seconds"] for row in rows)
    print(f"airbench: {statistics.mean(accuracies):.2f} ± {spread:.2f} % in {seconds:.2f} s")


def _flags(values):
    path = f"{common.SPEED}/airbench.csv"
    flags.DEFINE_integer(
        "seeds", 10, "number of runs, with the seeds 0, 1, ...", flag_values=values
    )
    flags.DEFINE_string("csv", path, "CSV file to append rows to; '' = none", flag_values=values)
    flags.DEFINE_string("label", "", "label written to the rows", flag_values=values)
    flags.DEFINE_string("goal", "", "goal written to the rows", flag_values=values)


def _run(config):
    """Trains and tests once; returns the row."""
    import jax

    from vision import parallel
    from vision.data.pipeline import open_data
    from vision.training.evaluate import eval_batch_size, evaluate
    from vision.training.loop import train
    from vision.training.starts import SAMPLE

    if config.compile_cache:
        jax.config.update(
            "jax_compilation_cache_dir", str(pathlib.Path(config.compile_cache).expanduser())
        )
    c = config.train
    mesh = parallel.make_mesh(config.parallel.devices, config.parallel.fsdp)
    data = open_data(config, mesh)
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(config, data, pathlib.Path(folder) / "run", mesh)
    for _ in range(2):  # the first one compiles
        start = time.perf_counter()
        summary = evaluate(outcome.step, outcome.state, data.loaders["test"], eval_batch_size(c))
        evaluation = time.perf_counter() - start
        start = time.perf_counter()
        jax.block_until_ready(
            outcome.step.initialize_from_data(outcome.state, data.loaders["train"].sample(SAMPLE))
        )
        whitening = time.perf_counter() - start
    training = outcome.steps * c.batch_size / outcome.images_per_second
    return {
        "variant": f"{config.model.name} {config.model.variant}",
        "source": config.data.source,
        "seed": config.seed,
        "steps": outcome.steps,
        "accuracy": summary["accuracy"],
        "seconds": whitening + training + evaluation,
        "whiten_s": whitening,
        "train_s": training,
        "evaluate_s": evaluation,
        "images_per_second": outcome.images_per_second,
        "with_compiling_s": outcome.train_seconds,
    }


if __name__ == "__main__":
    cli.run(main)
