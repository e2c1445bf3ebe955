"""Compares models, such as original, pruned and quantized: costs and quality on one page.

    python -m vision.compression.report runs/pets bundles/pets-int8 runs/pets-pruned \\
        --out reports/pets
    python -m vision.compression.report bundles/lite0 bundles/lite0-int8 --data folder:photos \\
        --out reports/lite0

Takes bundles, and runs, which it exports to ONNX; the others are compared with the first. ONNX
Runtime runs all of them on the same images, in turn. A bundle's files for other targets (phones,
Apple's systems, the browser) are listed with their sizes; LiteRT's is timed. Writes report.html,
report.json and pareto.png.
"""

import contextlib
import dataclasses
import datetime
import io
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from vision import cli
from vision.bundle.directory import MANIFEST, Bundle, open_bundle
from vision.config.flags import parse_stage
from vision.data.inputs import require_images_alone
from vision.errors import UserError
from vision.support.extras import require, require_stage
from vision.support.files import filling, replacing, write_json
from vision.support.lock import locked
from vision.support.progress import waiting

BATCHES = (1, 32)  # batch sizes that latency is measured with


def main(argv: list[str]) -> None:
    config, values, words = parse_stage(argv, __doc__, _flags)
    if config is not None or not words:
        raise UserError("which models? Give directories of runs and bundles, the original first")
    if not values.out:
        raise UserError("where to? Give --out DIRECTORY")
    require_stage("the report", "costs")
    with contextlib.ExitStack() as stack:
        models = [open_model(word, stack) for word in words]
        _check_titles(models)
        results = measure(models, values.data, values.split)
    write(pathlib.Path(values.out), results)
    cli.show(*describe(results))
    cli.show(f"{values.out}/report.html, report.json, pareto.png")


def _flags(values):
    flags.DEFINE_string("data", "", "source; default: the first model's", flag_values=values)
    flags.DEFINE_string("split", "", "train, val, test or all", flag_values=values)
    flags.DEFINE_string("out", "", "directory to write to; created if needed", flag_values=values)


@dataclasses.dataclass(frozen=True)
class Model:
    """One of the compared models.

    Attributes:
        title: name in the report.
        file: its ONNX file.
        bundle: its bundle.
    """

    title: str
    file: pathlib.Path
    bundle: Bundle


def open_model(path: pathlib.Path | str, stack: contextlib.ExitStack) -> Model:
    """Opens a bundle or a run.

    Args:
        path: its directory.
        stack: removes the temporary directory that a run is exported into.

    Raises:
        UserError: it is neither, or cannot be opened; its model is not an ONNX file.
    """
    path = pathlib.Path(path)
    folder = path
    if not (path / MANIFEST).is_file():
        require(f"the report of run {path}", "export", only=("jax2onnx",))
        from vision import inference
        from vision.export.bundle import export
        from vision.export.options import ExportOptions

        classifier = inference.from_run(path)
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()), "bundle")
        export(classifier, folder, ExportOptions(), workdir=path, report=lambda _: None)
    bundle = open_bundle(folder)
    require_images_alone(bundle.fields, f"the report of {path}")
    files = sorted(folder.glob("*.onnx"))
    if not files:
        raise UserError(f"{path} contains no model.onnx: export it with --format onnx")
    return Model(path.resolve().name, files[0], bundle)


def _check_titles(models):
    titles = [model.title for model in models]
    if repeated := {title for title in titles if titles.count(title) > 1}:
        raise UserError(
            f"two directories are called {min(repeated)}, which would be their name in the report: "
            "rename one"
        )


def measure(
    models: Sequence[Model],
    spec: str = "",
    split: str = "",
    report: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Returns the contents of report.json.

    Args:
        models: the models, the original first.
        spec, split: see `vision.evaluation.data.open_split`.
        report: called with a line of text if a model's images are not those that it had in its
            training, or not those of the first model; their results are then not subtracted.

    Returns:
        {"source", "split", "images", "cores", "cpu", "date", "models": for each {"title",
        "accuracy": {"value", "low", "high"}, "bytes", "parameters", "macs": see
        `vision.compression.costs.costs`, "latency_1", "latency_32": {"p25", "p50", "p99":
        milliseconds of such a batch, "speedup"}, "targets": see
        `vision.compression.targets.describe_targets`, and "change": {"difference", "low", "high"}
        of its accuracy if it saw the images of the first}}.

    Raises:
        UserError: the images cannot be opened, or have classes that a model does not know.
    """
    from vision.compression.int8 import dot_product
    from vision.evaluation.measures import statistics

    spec = spec or models[0].bundle.config.data.source
    rows = []
    first = None
    for model in models:
        with waiting(f"evaluating {model.title}"):
            row, correct, names, opened = _evaluate(model, spec, split)
        for line in opened.data.changes.lines():
            report(f"note: since training of {model.title} began, {line}")
        first = first or (correct, names)
        if names == first[1]:
            row["change"] = statistics.paired_shares(correct, first[0])
        else:
            report(f"note: {model.title} and {models[0].title} are measured on different images")
        rows.append(row)
    with waiting("measuring the latency"):
        core_count = _time(models, rows)
    return {
        "source": opened.spec,
        "split": opened.name,
        "images": len(first[0]) if first else 0,
        "cores": core_count,
        "cpu": f"8-bit dot products: {dot_product()}",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "models": rows,
    }


def _evaluate(model, spec, split):
    """Evaluates a model on a split.

    Returns:
        (its row of the report as a dict, without latencies; bool (N,), which images are classified
        as labeled; the names of these images; the opened
        `vision.evaluation.data.Split`).
    """
    from vision import parallel
    from vision.compression.costs import costs
    from vision.evaluation.data import open_split
    from vision.evaluation.evaluator import gather
    from vision.evaluation.measures import intervals
    from vision.evaluation.outputs import Forward, batch_size

    bundle = model.bundle
    mesh = parallel.make_mesh(1)
    opened = open_split(bundle, bundle.config, mesh, spec, split)
    outputs = gather(Forward(bundle, mesh), opened, batch_size(bundle.config.train, mesh), 0)
    correct = outputs.logits.argmax(1) == outputs.labels
    values = intervals.with_intervals(outputs.logits, outputs.labels, bundle.classes)
    row = {"title": model.title, "accuracy": values["metrics"]["accuracy"]} | costs(model.file)
    names = [opened.source.name(int(i)) for i in outputs.rows]
    return row, correct, names, opened


def _time(models, rows):
    """Adds the times of models, and their targets, to their rows; returns the number of cores."""
    from vision.compression.latency import compare
    from vision.compression.targets import describe_targets, runs_beside

    beside = {model.title: runs_beside(model.file.parent, model.bundle) for model in models}
    for batch in BATCHES:
        runs = {model.title: _runner(model.bundle, batch) for model in models}
        if batch == 1:
            for model in models:
                for file, run in beside[model.title].items():
                    runs[f"{model.title}/{file}"] = _runner(model.bundle, batch, run)
        latencies = compare(runs, np.zeros(1))
        for row in rows:
            row[f"latency_{batch}"] = latencies["models"][row["title"]]
        if batch == 1:
            p50 = {name: times["p50"] for name, times in latencies["models"].items()}
    for model, row in zip(models, rows, strict=True):
        milliseconds = {name: p50[f"{model.title}/{name}"] for name in beside[model.title]}
        milliseconds[model.bundle.file] = p50[model.title]
        row["targets"] = describe_targets(model.file.parent, model.bundle, milliseconds)
    return latencies["cores"]


def _runner(bundle, batch, run=None):
    """Returns a function that runs a model on random images of its own size.

    Args:
        bundle: the model.
        batch: number of images.
        run: `run(images)` of one of its files; None for the bundle's own.
    """
    shape = (batch, bundle.image_size, bundle.image_size, bundle.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    run = run or bundle.probabilities_and_embeddings
    return lambda _: run(images)


def write(out: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Writes report.html, report.json and pareto.png into a directory.

    Raises:
        UserError: they cannot be written.
    """
    from vision.data.pictures import data_uri
    from vision.support.page import render

    picture = pareto(results["models"])
    values = {"report": results, "batches": BATCHES, "picture": data_uri(picture)}
    page = render(pathlib.Path(__file__).with_name("report.html"), values)
    with locked(out), filling(out) as folder:
        with replacing(folder / "pareto.png", binary=True) as file:
            file.write(picture)
        write_json(folder / "report.json", results)
        with replacing(folder / "report.html") as file:
            file.write(page)


def pareto(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Returns a PNG of accuracy against latency and against size.

    The models that no other beats in both are joined by a line.

    Args:
        rows: the "models" of report.json.
    """
    from matplotlib.figure import Figure

    from vision.evaluation.report.figures import name_points

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    costs = {
        f"ms for a batch of {BATCHES[-1]}": [row[f"latency_{BATCHES[-1]}"]["p50"] for row in rows],
        "MB": [row["bytes"] / 1e6 for row in rows],
    }
    accuracy = [100 * row["accuracy"]["value"] for row in rows]
    errors = [
        [100 * abs(row["accuracy"][end] - row["accuracy"]["value"]) for row in rows]
        for end in ("low", "high")
    ]
    for axes, (title, cost) in zip(figure.subplots(1, 2, sharey=True), costs.items(), strict=True):
        axes.errorbar(cost, accuracy, errors, fmt="o", color="#0969da", ecolor="#afb8c1", capsize=3)
        best = front(cost, accuracy)
        axes.plot(
            [cost[i] for i in best], [accuracy[i] for i in best], "--", color="#57606a", linewidth=1
        )
        axes.set_xlabel(title)
        axes.set_xlim(0, 1.25 * max(cost))
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("accuracy, %")
    titles = [row["title"] for row in rows]
    for axes, cost in zip(figure.axes, costs.values(), strict=True):
        name_points(axes, list(zip(cost, accuracy, strict=True)), titles)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def front(cost: Sequence[float], value: Sequence[float]) -> list[int]:
    """Returns the indices of the Pareto front, by increasing cost.

    That is, of the pairs for which no other one has at most the same cost and at least the same
    value.
    """
    order = sorted(range(len(cost)), key=lambda i: (cost[i], -value[i]))
    best = -np.inf
    indices = []
    for i in order:
        if value[i] > best:
            best = value[i]
            indices.append(i)
    return indices


def describe(results: Mapping[str, Any]) -> list[str]:
    """Returns the lines that the command prints about a report.json."""
    lines = [
        f"{results['source']}, {results['split']}: {results['images']:,} images; "
        f"{results['cores']} cores ({results['cpu']})"
    ]
    for row in results["models"]:
        accuracy = {key: 100 * row["accuracy"][key] for key in ("value", "low", "high")}
        latency = row[f"latency_{BATCHES[-1]}"]
        macs = f"{row['macs'] / 1e9:.3f} GMACs" if row["macs"] is not None else "GMACs unknown"
        lines.append(
            f"{row['title']}: {row['bytes'] / 1e6:.2f} MB, {row['parameters']:,} parameters, "
            f"{macs}; {accuracy['value']:.1f} % ({accuracy['low']:.1f} to {accuracy['high']:.1f}); "
            f"{latency['p50']:.1f} ms for {BATCHES[-1]}, {latency['speedup']:.2f} times as fast"
        )
        if len(row["targets"]) > 1:
            lines += map(_describe_target, row["targets"])
    return lines


def _describe_target(target):
    is_timed = target["ms"] is not None
    return (
        f"  {target['file']} ({target['target']}): {target['bytes'] / 1e6:.2f} MB, "
        f"{target['download'] / 1e6:.2f} MB to download, "
        + (f"{target['ms']:.2f} ms an image" if is_timed else "not run here")
    )


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
