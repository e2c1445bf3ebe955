"""Runs the studies of this folder, and fills the table of its README.

    python -m experiments.search.run                 # 40 trials each: an hour on two free CPU cores
    python -m experiments.search.run --trials 20     # the small version
    python -m experiments.search.run --rows          # show the commands, run nothing
    python -m experiments.search.run --table         # fill the table, run nothing

A study that is there already is not run again.
"""

import argparse
import json
import pathlib
import shlex

from experiments.commands import call
from experiments.readme import fill
from vision import cli
from vision.search.repeats import difference, interval

HERE = pathlib.Path(__file__).parent
ROWS = {  # the flags of each study, besides what all have in common
    "tpe": ("--sampler=tpe",),
    "random": ("--sampler=random",),
    "tpe, hyperband": ("--sampler=tpe", "--pruner=hyperband"),
}
TITLES = (
    "study",
    "trials",
    "images",
    "best, validation",
    "best, test (3 seeds)",
    "plain, test (3 seeds)",
    "difference",
    "seconds",
)


def main(argv: list[str]) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--trials", type=int, default=40)
    p.add_argument("--workers", type=int, default=1)
    p.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/search"))
    p.add_argument("--rows", action="store_true", help="show the commands, run nothing")
    p.add_argument("--table", action="store_true", help="fill the table, run nothing")
    a = p.parse_args(argv)
    for name in ROWS:
        words = _words(name, a)
        if a.rows:
            print("$ python -m vision.search", shlex.join(words))
        elif not a.table:
            call("vision.search", *words)
    if not a.rows:
        _fill(a.workdir)


def _words(name: str, a: argparse.Namespace) -> list[str]:
    words = ["--config", "experiments/search/plain.py"]
    words += ["--space", "experiments/search/space.py", f"--trials={a.trials}"]
    words += [f"--workers={a.workers}", "--repeat=1", "--seeds=0,1,2", *ROWS[name]]
    return [*words, f"--out={_out(name, a.workdir)}"]


def _out(name: str, workdir: pathlib.Path) -> pathlib.Path:
    return workdir / name.replace(", ", "-")


def _fill(workdir: pathlib.Path) -> None:
    """Writes the table into the README."""
    lines = ["| " + " | ".join(TITLES) + " |", "|---" * len(TITLES) + "|"]
    for name in ROWS:
        file = _out(name, workdir) / "results.json"
        cells = _cells(json.loads(file.read_text())) if file.is_file() else ["not run"]
        cells += [""] * (len(TITLES) - 1 - len(cells))
        lines.append("| " + " | ".join([name, *cells]) + " |")
    fill(HERE / "README.md", lines)
    print(f"{HERE / 'README.md'}: filled")


def _cells(record: dict) -> list[str]:
    by_name = {r["config"]: r for r in record["repeated"]}
    plain = by_name.pop("default")
    (best,) = by_name.values()
    scores = {
        name: dict(zip(r["seeds"], r["test"], strict=True))
        for name, r in (("best", best), ("plain", plain))
    }
    gap = difference(scores["best"], scores["plain"])
    states = ", ".join(f"{count} {state}" for state, count in record["trials"].items())
    return [
        states,
        f"{record['images']:,}",
        f"{100 * record['value']:.1f} %",
        _percent(interval(list(scores["best"].values()))),
        _percent(interval(list(scores["plain"].values()))),
        f"{100 * gap[0]:+.1f} ({100 * gap[1]:+.1f} to {100 * gap[2]:+.1f})",
        f"{record['seconds']:,.0f}",
    ]


def _percent(values: tuple[float, float, float]) -> str:
    mean, low, high = (100 * value for value in values)
    return f"{mean:.1f} % ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    cli.run(main)
