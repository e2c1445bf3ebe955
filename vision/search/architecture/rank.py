"""Measures how well a supernet ranks networks, compared with training each one alone.

    python -m vision.search.architecture.rank --workdir runs/all --networks 20 --out searches/rank
    python -m vision.search.architecture.rank --workdir runs/all --out searches/rank5 \\
        --config.train.epochs=5

Random networks of the space are judged with the supernet's weights, then trained from scratch with
its config and the changes of --config.KEY=VALUE, in OUT/runs. Kendall's tau is 1 if both rankings
agree, 0 if they are unrelated, and -1 if one is the reverse. OUT gets ranking.json and ranking.csv,
and failures.txt with the tracebacks of unexpected errors. After an interruption, repeat the command
to continue.
"""

import csv
import datetime
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags, logging
from ml_collections import ConfigDict

from vision import cli
from vision.config.flags import parse_stage
from vision.config.packages import check_packages
from vision.errors import RunError, UserError, check_count
from vision.run.directory import own_config
from vision.search.failures import AGAIN, check_hope, forget_logged, log_unexpected, reason_of
from vision.support.extras import require
from vision.support.files import replacing, write_json
from vision.support.lock import locked
from vision.support.memory import keep_freed_memory

RESAMPLES = 2000
COLUMNS = ("variant", "macs", "shared", "alone", "failed")
FEWEST = 3  # networks of which a ranking says anything


def main(argv: Sequence[str]) -> None:
    """Runs the command with its arguments, without the program's name."""
    config, values, words = parse_stage(argv, __doc__, _flags, lambda: own_config(argv))
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    if not values.workdir or config is None:
        raise UserError("which supernet? Give --workdir RUN")
    if not values.out:
        raise UserError("where to? Give --out DIRECTORY")
    check_count("--networks", values.networks, FEWEST, 10_000)
    check_count("--seed", values.seed, 0, 2**32 - 1)
    require("Kendall's tau", "evaluation", only=("scipy",))
    check_packages(config)
    keep_freed_memory()
    logging.set_verbosity(logging.ERROR)  # libraries' chatter
    out = pathlib.Path(values.out)
    with locked(out):
        try:
            result = rank(config, values.workdir, out, values.networks, values.seed)
        except KeyboardInterrupt:
            cli.show("interrupted: run the same command to continue")
            return
    low, high = result["interval"]
    ranked = sum("failed" not in row for row in result["networks"])
    cli.show(
        f"Kendall's tau {result['tau']:.3f} (95 %: {low:.3f} to {high:.3f}), "
        f"{ranked} networks; {out}: ranking.json, ranking.csv"
    )


def _flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", "", "a run of the objective supernet", flag_values=values)
    flags.DEFINE_string("out", "", "directory to write", flag_values=values)
    flags.DEFINE_integer("networks", 20, "random networks to rank", flag_values=values)
    flags.DEFINE_integer("seed", 0, "seed of the random networks", flag_values=values)


def rank(
    config: ConfigDict, workdir: str, out: pathlib.Path, networks: int, seed: int
) -> dict[str, Any]:
    """Ranks random networks both ways, and writes ranking.json and ranking.csv.

    A network that cannot be trained is recorded with the reason, and is not ranked. The traceback
    of an unexpected error goes to `vision.search.failures.LOG` in `out`.

    Args:
        config: the config to train networks with.
        workdir: the supernet's run.
        out: directory to write.
        networks: number of networks.
        seed: what they are drawn with.

    Raises:
        UserError: the run is not a supernet, or its space has fewer networks.
        RunError: the first 5 networks have all failed, or fewer than 3 could be trained.
        KeyboardInterrupt: a training was interrupted.
    """
    from vision.models.layers.variants import spell
    from vision.search.architecture.costs import count
    from vision.search.architecture.networks import Shared, Trained

    shared = Shared(workdir)
    if shared.space.size < networks:
        raise UserError(f"--networks = {networks}, but the space has {shared.space.size}")
    trained = Trained(config, out / "runs")
    generator = np.random.default_rng(seed)
    choices: dict[str, dict[str, int]] = {}
    while len(choices) < networks:
        choice = shared.space.sample(generator)
        choices[spell(choice)] = choice
    rows: list[dict[str, Any]] = []
    for name, choice in choices.items():
        row: dict[str, Any] = {"variant": name, "macs": count(choice, shared.task)}
        row |= {"shared": None, "alone": None}
        rows.append(row)
        try:
            row["shared"] = shared.accuracy(choice)
            row["alone"] = trained.accuracy(choice)
        except Exception as error:
            row["failed"] = reason_of(error)
            if not row["failed"]:
                raise
            log_unexpected(error, name, out)
            cli.show(f"{len(rows)}: {name}: failed: {row['failed']}")
            check_hope("networks", _reasons(rows), len(rows), AGAIN)
        else:
            forget_logged([name], out)
            cli.show(
                f"{len(rows)}: {name}: {100 * row['shared']:.2f} % with the supernet's weights, "
                f"{100 * row['alone']:.2f} % trained alone"
            )
    ranked = [row for row in rows if "failed" not in row]
    if len(ranked) < FEWEST:
        raise RunError(
            f"{len(ranked)} of {networks} networks could be trained, too few to rank; the last "
            f"failed with: {_reasons(rows)[-1]}\n{AGAIN}"
        )
    result = correlation([r["shared"] for r in ranked], [r["alone"] for r in ranked], seed)
    result |= {"workdir": workdir, "seed": seed, "networks": rows}
    result["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    write_json(out / "ranking.json", result)
    with replacing(out / "ranking.csv", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return result


def _reasons(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns why the networks failed that did."""
    return [row["failed"] for row in rows if "failed" in row]


def correlation(a: Sequence[float], b: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Returns {"tau": Kendall's tau-b, "interval": its 95 % bootstrap interval over the networks}.

    A rank correlation is not a share of images, so the networks are resampled.

    Args:
        a, b: two values of each network.
        seed: of the resampling.
    """
    from scipy.stats import kendalltau

    pairs = np.array([a, b])
    generator = np.random.default_rng(seed)
    places = generator.integers(0, len(a), (RESAMPLES, len(a)))
    resampled = [kendalltau(*pairs[:, rows]).statistic for rows in places]
    interval = np.nanquantile(resampled, (0.025, 0.975)).tolist()
    return {"tau": float(kendalltau(*pairs).statistic), "interval": interval}


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
