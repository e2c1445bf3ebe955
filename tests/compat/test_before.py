"""Today's code opens what an earlier commit wrote: runs, a bundle, a pack, an evaluation, configs.

fixtures/ holds the files and `make_fixtures.py` the commands that wrote them.
"""

import gzip
import json
import pathlib
import tarfile

import numpy as np
import pandas as pd
import pytest

from tests.compat.make_fixtures import EVALUATION, FIXTURES, HEAD, SUPERVISED, TRANSFER
from vision import cli, inference, main, metrics, parallel
from vision.bundle.directory import open_bundle
from vision.config.load import BEFORE, from_dict, load
from vision.config.validate import leaves, validate
from vision.data import __main__ as data_command
from vision.data.pipeline import open_data
from vision.data.sources import open_splits
from vision.evaluation import __main__ as evaluation_command
from vision.evaluation.compare import __main__ as compare_command
from vision.export import __main__ as export_command
from vision.run.directory import read_run
from vision.run.weights import open_run

REPOSITORY = pathlib.Path(__file__).parents[2]
DIGITS = f"--config={REPOSITORY}/configs/digits.py:smoke"
SAME = {"rel": 1e-5, "abs": 1e-5}  # another CPU adds in another order
RUNS = ("supervised", "head", "lora")
# {spec: keys} of the configs that were changed on purpose since
AIRBENCH = {"optimizer.freeze", "optimizer.freeze_at", "schedule.warmup"}  # as the author's code
CHANGED: dict[str, set[str]] = {
    f"configs/airbench_cifar10.py{argument}": AIRBENCH
    for argument in ("", ":95", ":smoke", ":95:smoke")
}


def read(name):
    with gzip.open(FIXTURES / f"{name}.json.gz", "rt") as file:
        return json.load(file)


CONFIGS = read("configs")


def unpack(*names):
    """Puts fixtures into the current directory; returns it."""
    for name in names:
        with tarfile.open(FIXTURES / f"{name}.tar.gz") as archive:
            archive.extractall(filter="data")
    return pathlib.Path.cwd()


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    """The runs name each other by relative paths."""
    monkeypatch.chdir(tmp_path)


def read_result(workdir):
    return json.loads(pathlib.Path(workdir, "result.json").read_text())


def read_lines(workdir):
    text = pathlib.Path(workdir, "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def assert_same_lines(lines, expected):
    """Asserts that the lines of metrics.jsonl have the expected values, except for the speed."""
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for line, values in zip(lines, expected, strict=True):
        values = {key: value for key, value in values.items() if "images_per_second" not in key}
        assert {key: line[key] for key in values} == pytest.approx(values, **SAME)


def assert_same_result(result, expected):
    for key in ("ended", "steps", "best_step", "confusion", "classes", "parameters", "split_sizes"):
        assert result[key] == expected[key], key
    scalars = metrics.scalars(expected)
    assert {key: result[key] for key in scalars} == pytest.approx(scalars, **SAME)


def open_test_split(config):
    """Returns (images, labels) of the test split that a run's config names."""
    loader = open_data(config, parallel.make_mesh(1)).loaders["test"]
    return np.asarray(loader.data["image"]), np.asarray(loader.data["label"])


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_the_weights_that_its_result_measures(name):
    unpack(name)
    config, data, model = open_run(name)
    result = read_result(name)
    assert data["step"] == result["best_step"] and data["classes"] == result["classes"]
    shape = (data["image_size"], data["channels"])
    classifier = inference.Classifier(config, model, data["classes"], *shape)
    images, labels = open_test_split(config)
    logits, _ = classifier(images)
    probabilities = inference.softmax(logits)
    assert np.mean(logits.argmax(1) == labels) == pytest.approx(result["accuracy"])
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    assert loss == pytest.approx(result["loss"], **SAME)


@pytest.mark.parametrize("name", RUNS)
def test_data_json_has_the_split_that_was_trained_on(name):
    unpack(name)
    config, data = read_run(name)
    opened = open_data(config, parallel.make_mesh(1))
    assert data["class_counts"] == opened.class_counts.tolist()
    assert data["split_sizes"] == {name: len(loader) for name, loader in opened.loaders.items()}


def test_an_interrupted_run_ends_as_the_earlier_code_ended_it(capsys):
    unpack("interrupted")
    cli.run(main.main, ["--workdir=interrupted"])
    assert "resumed interrupted at step 26/60" in capsys.readouterr().err
    expected = read("continued")
    assert_same_lines(read_lines("interrupted"), expected["metrics"])
    assert_same_result(read_result("interrupted"), expected["result"])


@pytest.mark.parametrize("flags", [(), (DIGITS, *SUPERVISED)], ids=["its own config", "--config"])
def test_a_finished_run_has_nothing_left_to_train(flags):
    unpack("supervised")
    expected = read_result("supervised")
    lines = read_lines("supervised")
    cli.run(main.main, ["--workdir=supervised", *flags])
    assert read_lines("supervised") == lines
    assert_same_result(read_result("supervised"), expected)


@pytest.mark.parametrize("name", ["head", "lora"])
def test_a_finished_transfer_has_nothing_left_to_train(name):
    unpack("supervised", name)
    expected = read_result(name)
    cli.run(main.main, [f"--workdir={name}"])
    assert_same_result(read_result(name), expected)


def test_training_from_a_run_repeats_what_the_earlier_code_did():
    unpack("supervised", "head")
    cli.run(main.main, [DIGITS, "--workdir=again", *TRANSFER, *HEAD])
    assert_same_lines(read_lines("again"), read_lines("head"))
    assert_same_result(read_result("again"), read_result("head"))


def test_evaluating_a_run_repeats_its_evaluation(capsys):
    workdir = unpack("supervised") / "supervised"
    before = (workdir / "evaluation").rename("before")
    cli.run(evaluation_command.main, ["--workdir=supervised", *EVALUATION])
    expected = json.loads((before / "metrics.json").read_text())
    report = json.loads((workdir / "evaluation" / "metrics.json").read_text())
    for name, number in expected["metrics"].items():
        ours = report["metrics"][name]
        # Shares had bootstrap intervals; they now have Wilson's, as everywhere else.
        is_share = name.endswith(("accuracy", "recall"))
        compared = ("value",) if is_share else ("value", "low", "high")
        for key in compared:
            assert ours[key] == pytest.approx(number[key], **SAME), name
        assert ours["low"] == pytest.approx(number["low"], abs=0.04)
    assert report["confusion"] == expected["confusion"]
    fitted = json.loads((workdir / "evaluation" / "calibration.json").read_text())
    calibration = json.loads((before / "calibration.json").read_text())
    assert fitted.pop("temperature") == pytest.approx(calibration.pop("temperature"), rel=1e-4)
    assert fitted == calibration
    capsys.readouterr()
    cli.run(compare_command.main, ["before", "supervised", "--out=comparison"])
    assert len(pathlib.Path("comparison", "flipped.csv").read_text().splitlines()) == 1


def test_an_evaluation_calibrates_its_run():
    unpack("supervised")
    table = pd.read_parquet("supervised/evaluation/predictions.parquet")
    temperature = json.loads(pathlib.Path("supervised/evaluation/calibration.json").read_text())
    classifier = inference.from_run("supervised")
    assert classifier.temperature == temperature["temperature"]
    images, _ = open_test_split(classifier.config)
    logits, _ = classifier(images)
    probabilities = np.stack(table["probabilities"])  # without the temperature
    np.testing.assert_allclose(inference.softmax(logits), probabilities, atol=1e-5)


def test_a_bundle_predicts_as_its_run_and_its_new_export():
    unpack("supervised", "bundle")
    bundle = open_bundle("bundle")
    classifier = inference.from_run("supervised")
    images, _ = open_test_split(classifier.config)
    expected, _ = classifier.probabilities_and_embeddings(images)
    np.testing.assert_allclose(bundle.probabilities_and_embeddings(images)[0], expected, atol=1e-5)
    cli.run(export_command.main, ["--workdir=supervised", "--out=new"])
    exported = open_bundle("new")
    np.testing.assert_allclose(
        exported.probabilities_and_embeddings(images)[0], expected, atol=1e-5
    )
    assert exported.classes == bundle.classes and exported.config == bundle.config


def test_a_pack_gives_the_same_images():
    unpack("pack")
    pixels = dict(np.load("pack/pixels.npz"))
    images = {}
    for part, source in open_splits("packed:pack").items():
        for i in range(len(source)):
            images[f"{part}/{source.labels[i]}/{source.name(i)}"] = source[i]["image"]
    assert images.keys() == pixels.keys() and len(images) == 8
    for name, image in images.items():
        np.testing.assert_array_equal(image, pixels[name])
    cli.run(data_command.main, ["verify", "pack"])


@pytest.mark.parametrize("spec", CONFIGS)
def test_a_config_has_the_values_that_it_had(spec, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    config = from_dict(CONFIGS[spec])
    validate(config)
    before = dict(leaves(config))
    now = dict(leaves(load(spec)))
    assert before.keys() == now.keys()
    differs = {key for key in now if before[key] != now[key]} - BEFORE.keys()
    # "max" was the default whatever the metric; now it follows from the metric.
    assert differs - {"checkpoint.mode"} == CHANGED.get(spec, set())


@pytest.mark.parametrize("spec", CONFIGS)
def test_no_key_of_a_config_is_lost(spec):
    def flatten(tree, prefix=""):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from flatten(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    now = json.loads(json.dumps(from_dict(CONFIGS[spec]).to_dict()))
    stored = dict(flatten(CONFIGS[spec]))
    assert stored.pop("data.per_class", 0) == 0  # another key has taken its place
    assert stored.items() <= dict(flatten(now)).items()


def test_a_number_of_images_for_each_class_is_kept():
    config = from_dict({"seed": 3, "data": {"per_class": 25}})
    assert (config.data.labels, config.data.labels_seed) == ("<=25/class", 3)
