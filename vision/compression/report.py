"""Original, pruned, quantized: what each costs and how good it is, on one page.

    python -m vision.compression.report runs/pets bundles/pets-int8 runs/pets-pruned --out
    reports/pets
    python -m vision.compression.report bundles/lite0 bundles/lite0-int8 --data folder:photos --out
    reports/lite0

Names runs, which are exported to ONNX for it, and bundles; the others are compared to the first.
All are run by ONNX Runtime on the same images, in turn. Writes report.html, report.json and
pareto.png.
"""

import contextlib
import dataclasses
import datetime
import io
import pathlib
import tempfile

import numpy as np
from absl import flags

from vision import cli
from vision.bundle.directory import MANIFEST, open_bundle
from vision.config.flags import parse_stage
from vision.errors import UserError
from vision.support.files import make_directory, replacing, write_json

BATCHES = (1, 32)  # that latency is measured with


def main(argv):
    config, values, words = parse_stage(argv, __doc__, _flags)
    if config is not None or not words:
        raise UserError("which models? Give directories of runs and bundles, the original first")
    if not values.out:
        raise UserError("where to? Give --out DIRECTORY")
    with contextlib.ExitStack() as stack:
        models = [open_model(word, stack) for word in words]
        _check_titles(models)
        found = measure(models, values.data, values.split)
    write(make_directory(values.out), found)
    print(*describe(found), sep="\n")
    print(f"{values.out}/report.html, report.json, pareto.png")


def _flags(values):
    flags.DEFINE_string("data", "", "another source than the first model's", flag_values=values)
    flags.DEFINE_string("split", "", "train, val, test or all", flag_values=values)
    flags.DEFINE_string("out", "", "directory to write to; made if need be", flag_values=values)


@dataclasses.dataclass(frozen=True)
class Model:
    """One of the compared models.

    Attributes:
        title: what it is called.
        file: its ONNX file.
        bundle: `vision.bundle.directory.Bundle`.
    """

    title: str
    file: pathlib.Path
    bundle: object


def open_model(path, stack):
    """Opens a bundle, or a run, which is exported into a temporary directory that `stack` removes.

    Raises:
        UserError: it is neither, or cannot be opened; its model is no ONNX file.
    """
    path = pathlib.Path(path)
    folder = path
    if not (path / MANIFEST).is_file():
        from vision import inference
        from vision.export.bundle import ExportOptions, export

        classifier = inference.from_run(path)
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()), "bundle")
        export(classifier, folder, ExportOptions(), workdir=path, report=lambda _: None)
    bundle = open_bundle(folder)
    files = sorted(folder.glob("*.onnx"))
    if not files:
        raise UserError(f"{path} holds no model.onnx: export it with --format onnx")
    return Model(path.resolve().name, files[0], bundle)


def _check_titles(models):
    titles = [model.title for model in models]
    if repeated := {title for title in titles if titles.count(title) > 1}:
        raise UserError(
            f"two directories are called {min(repeated)}: rename one, for the report calls them by it"
        )


def measure(models, spec="", split=""):
    """Returns what report.json says: {"source", "split", "images", "cores", "cpu", "date",
    "models": [...]}.

    Args:
        models: list of `Model`, the original first.
        spec, split: see `vision.evaluation.data.open_split`.

    Raises:
        UserError: the images cannot be opened, or have classes that a model does not know.
    """
    from vision import parallel
    from vision.compression.costs import costs
    from vision.compression.int8 import dot_product
    from vision.compression.latency import compare
    from vision.evaluation.data import open_split
    from vision.evaluation.evaluator import gather
    from vision.evaluation.measures import intervals, statistics
    from vision.evaluation.outputs import Forward, batch_size

    mesh = parallel.make_mesh(1)
    rows = []
    right = []
    first = models[0].bundle
    for model in models:
        opened = open_split(
            model.bundle, model.bundle.config, mesh, spec or first.config.data.source, split
        )
        outputs = gather(
            Forward(model.bundle, mesh), opened, batch_size(model.bundle.config.train, mesh), 0
        )
        right.append((outputs.logits.argmax(1) == outputs.labels).astype(float))
        accuracy = intervals.with_intervals(outputs.logits, outputs.labels, model.bundle.classes)[
            "metrics"
        ]["accuracy"]
        rows.append({"title": model.title, "accuracy": accuracy} | costs(model.file))
    for row, own in zip(rows, right, strict=True):
        if len(own) == len(right[0]):
            row["change"] = statistics.paired_bootstrap(own, right[0])
    for batch in BATCHES:
        runs = {model.title: _runner(model.bundle, batch) for model in models}
        found = compare(runs, np.zeros(1))
        for row in rows:
            row[f"latency_{batch}"] = found["models"][row["title"]]
    return {
        "source": opened.spec,
        "split": opened.name,
        "images": len(right[0]),
        "cores": found["cores"],
        "cpu": f"8-bit dot products: {dot_product()}",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "models": rows,
    }


def _runner(bundle, batch):
    """Returns a function that runs a model on random images of its own size."""
    shape = (batch, bundle.image_size, bundle.image_size, bundle.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return lambda _: bundle.probabilities_and_embeddings(images)


def write(out, found):
    """Writes report.html, report.json and pareto.png into a directory."""
    from vision.data.pictures import data_uri
    from vision.support.page import render

    picture = pareto(found["models"])
    shown = {"found": found, "batches": BATCHES, "picture": data_uri(picture)}
    page = render(pathlib.Path(__file__).with_name("report.html"), shown)
    try:
        with replacing(out / "pareto.png", binary=True) as file:
            file.write(picture)
        write_json(out / "report.json", found)
        with replacing(out / "report.html") as file:
            file.write(page)
    except OSError as error:
        raise UserError(f"cannot write to --out {out}: {error.strerror or error}") from error


def pareto(rows):
    """Returns the PNG of accuracy against latency and against size; what nothing else beats in both
    is joined."""
    from matplotlib.figure import Figure

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
        for number, place in enumerate(zip(cost, accuracy, strict=True), 1):
            axes.annotate(str(number), place, (5, 5), textcoords="offset points", fontsize=9)
        best = front(cost, accuracy)
        axes.plot(
            [cost[i] for i in best], [accuracy[i] for i in best], "--", color="#57606a", linewidth=1
        )
        axes.set_xlabel(title)
        axes.set_xlim(0, 1.25 * max(cost))
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("accuracy, %")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def front(cost, value):
    """Returns the positions that no other one beats in cost and equals or beats in value, by
    cost."""
    order = sorted(range(len(cost)), key=lambda i: (cost[i], -value[i]))
    best = -np.inf
    found = []
    for i in order:
        if value[i] > best:
            best = value[i]
            found.append(i)
    return found


def describe(found):
    """Returns the lines that the command prints."""
    lines = [
        f"{found['source']}, {found['split']}: {found['images']:,} images; {found['cores']} cores ({found['cpu']})"
    ]
    for row in found["models"]:
        accuracy = row["accuracy"]
        last = row[f"latency_{BATCHES[-1]}"]
        macs = f"{row['macs'] / 1e9:.3f} GMACs" if row["macs"] is not None else "GMACs unknown"
        lines.append(
            f"{row['title']}: {row['bytes'] / 1e6:.2f} MB, {row['parameters']:,} parameters, {macs}; "
            f"{100 * accuracy['value']:.1f} % ({100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f}); "
            f"{last['p50']:.1f} ms for {BATCHES[-1]}, {last['speedup']:.2f} times as fast"
        )
    return lines


if __name__ == "__main__":
    cli.run(main)
