"""Searches for a network as fast as MobileNetV3-small on Fashion-MNIST, and fills README's table.

    python -m experiments.architecture_search.run                       # TFDS prepares the images
    python -m experiments.architecture_search.run --data idx:fashion-mnist --seeds 0
    python -m experiments.architecture_search.run --table               # only fill the table again

For each seed: MobileNetV3-small; a supernet; an evolution over its networks at the latency of
MobileNetV3-small; the best of them extracted and fine-tuned, and trained from scratch; all three
compared by `vision.compression.report`. With seed 0 also the ranking of 20 networks. Each step is
the command that a user would run, in a directory of its own below --workdir; existing results are
kept. results.csv keeps the rows of other machines.
"""

import argparse
import json
import pathlib

from experiments import readme
from experiments.commands import call
from experiments.seeds import read_seeds
from experiments.table import mean_and_spread, read_rows, write_rows
from vision import cli

HERE = pathlib.Path(__file__).parent
CONFIG = "configs/architecture_fashion_mnist.py"
NAMES = {
    "mobilenet": "MobileNetV3-small",
    "tuned": "found, extracted and fine-tuned",
    "alone": "found, trained from scratch",
}
COLUMNS = ("row", "seed", "variant", "accuracy", "mmacs", "ms", "faster", "minutes", "cpu", "date")
RANKING = ("seed", "networks", "tau", "low", "high", "date")


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="tfds:fashion_mnist")
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--epochs", type=int, default=20, help="of every training from scratch")
    parser.add_argument("--supernet-epochs", type=int, default=60)
    parser.add_argument("--tuned-epochs", type=int, default=10)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--networks", type=int, default=20, help="networks to rank; 0 for none")
    parser.add_argument("--seeds", type=read_seeds, default="0,1,2")
    parser.add_argument("--table", action="store_true")
    parser.add_argument(
        "--workdir", type=pathlib.Path, default=pathlib.Path("runs/architecture_search")
    )
    a = parser.parse_args(argv)
    if not a.table:
        for seed in a.seeds:
            train(a, seed)
        for seed in a.seeds:  # separately, since nothing else should run at the same time
            compare(a, seed)
        if a.networks and a.seeds:
            rank(a, a.seeds[0])
    for name, columns, rows in (
        ("results.csv", COLUMNS, results(a)),
        ("ranking.csv", RANKING, rankings(a)),
    ):
        merge(HERE / name, columns, rows)
    fill()


def directory(a, stage, seed):
    return a.workdir / f"{stage}-{seed}"


def train(a, seed):
    """Trains what is compared, and searches."""
    flags = {"data.source": a.data, "data.limit": a.images, "seed": seed}
    supernet = directory(a, "supernet", seed)
    search = directory(a, "search", seed)
    tuned = directory(a, "tuned", seed)
    for network, epochs in (("mobilenet", a.epochs), ("supernet", a.supernet_epochs)):
        training(directory(a, network, seed), network, flags | {"train.epochs": epochs})
    search_flags = (
        "--cost=latency",
        "--budget=mobilenet:small",
        f"--trials={a.trials}",
        f"--seed={seed}",
    )
    words = (f"--workdir={supernet}", f"--out={search}", *search_flags)
    call("vision.search.architecture", *words, output=search / "pareto.png")
    best = json.loads((search / "search.json").read_text())["best"]
    changes = {"train.epochs": a.tuned_epochs, "optimizer.learning_rate": 0.03}
    words = (f"--workdir={supernet}", f"--variant={best}", f"--out={tuned}")
    call("vision.search.architecture.extract", *words, config=changes, output=tuned)
    call("vision.main", f"--workdir={tuned}", output=tuned / "result.json")
    training(directory(a, "alone", seed), best, flags | {"train.epochs": a.epochs})


def training(workdir, network, flags):
    """Trains one network, or the supernet, from scratch."""
    words = ("--config", f"{CONFIG}:{network}", f"--workdir={workdir}")
    call("vision.main", *words, config=flags, output=workdir / "result.json")


def compare(a, seed):
    """Measures accuracy, multiply-adds and latency side by side."""
    out = directory(a, "report", seed)
    runs = [str(directory(a, name, seed)) for name in NAMES]
    call("vision.compression.report", *runs, f"--out={out}", output=out / "report.json")


def rank(a, seed):
    """Ranks networks by the supernet and when trained alone."""
    out = directory(a, "rank", seed)
    changes = {"train.epochs": a.epochs}
    words = (f"--workdir={directory(a, 'supernet', seed)}", f"--networks={a.networks}")
    words += (f"--out={out}",)
    file = out / "ranking.json"
    call("vision.search.architecture.rank", *words, config=changes, output=file)


def results(a):
    """Yields a row for each network of each seed that is finished."""
    for file in sorted(a.workdir.glob("report-*/report.json")):
        seed = file.parent.name.rpartition("-")[2]
        report = json.loads(file.read_text())
        for (name, title), row in zip(NAMES.items(), report["models"], strict=True):
            run = json.loads((directory(a, name, seed) / "result.json").read_text())
            yield {
                "row": title,
                "seed": seed,
                "variant": run["config"]["model"]["variant"],
                "accuracy": round(100 * row["accuracy"]["value"], 2),
                "mmacs": round(row["macs"] / 1e6, 2),
                "ms": round(row["latency_1"]["p50"], 3),
                "faster": round(row["latency_1"]["speedup"], 2),
                "minutes": round(run["train_seconds"] / 60, 1),
                "cpu": f"{report['cores']} cores",
                "date": report["date"][:10],
            }


def rankings(a):
    """Yields a row for each ranking that is finished."""
    for file in sorted(a.workdir.glob("rank-*/ranking.json")):
        record = json.loads(file.read_text())
        low, high = record["interval"]
        yield {
            "seed": file.parent.name.rpartition("-")[2],
            "networks": sum("failed" not in network for network in record["networks"]),
            "tau": round(record["tau"], 3),
            "low": round(low, 3),
            "high": round(high, 3),
            "date": record["date"][:10],
        }


def merge(path, columns, rows):
    """Brings a table up to date with rows, by their first two columns."""
    table = {tuple(row[c] for c in columns[:2]): row for row in read_rows(path)}
    for row in rows:
        row = {column: str(value) for column, value in row.items()}
        table[tuple(row[c] for c in columns[:2])] = row
    write_rows(path, columns, table.values())


def fill():
    """Writes the tables into README.md."""
    titles = ("network", "test accuracy", "mega-MACs", "batch 1, faster", "minutes", "where")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    results = read_rows(HERE / "results.csv")
    for title in NAMES.values():
        rows = [row for row in results if row["row"] == title]
        cells = ["not run", "", "", "", ""]
        if rows:
            cells = [summary(rows, name) for name in ("accuracy", "mmacs", "faster", "minutes")]
            cells.append("; ".join(dict.fromkeys(f"{r['cpu']}, {r['date']}" for r in rows)))
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    ranked = read_rows(HERE / "ranking.csv")
    text = "Kendall's tau of the ranking: "
    text += "; ".join(
        f"{r['tau']} ({r['low']} to {r['high']}), {r['networks']} networks, seed {r['seed']}"
        for r in ranked
    )
    lines += ["", f"{text}." if ranked else f"{text}not run."]
    readme.fill(HERE / "README.md", lines)


def summary(rows, name):
    """Returns the mean over seeds with the standard deviation."""
    return mean_and_spread([float(row[name]) for row in rows])


if __name__ == "__main__":
    cli.run(main)
