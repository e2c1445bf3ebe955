"""One CSV file of images, titles and columns: trained, evaluated, exported, served."""

import base64
import contextlib
import csv
import json
import shutil
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.support.live_server import serve
from vision import cli, main, predict
from vision.compression import prune, quantize
from vision.evaluation import __main__ as evaluation
from vision.export import __main__ as export
from vision.run.weights import run_weights

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ROWS = 400


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The digits, in noise, with a title and an age that often say which one it is."""
    folder = tmp_path_factory.mktemp("digits")
    random = np.random.RandomState(0)
    digits = load_digits()
    with (folder / "digits.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "title", "age", "ward"])
        for i in range(ROWS):
            label = int(digits.target[i])
            pixels = digits.images[i] * 255 / 16 + random.normal(0, 60, (8, 8))
            pixels = cv2.resize(pixels.clip(0, 255).astype(np.uint8), (16, 16))
            cv2.imwrite(str(folder / f"{i}.png"), pixels)
            title = f"a {WORDS[label]} here" if random.rand() < 0.7 else "a digit"
            age = round(3 * label + random.randn(), 2)
            cells = [title, age, "xyz"[label % 3]]
            cells = ["" if random.rand() < 0.1 else cell for cell in cells]
            writer.writerow([f"{i}.png", WORDS[label], *cells])
    return folder / "digits.csv"


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "fused"
    train(table, workdir)
    return workdir


def train(table, workdir, *flags):
    spec = f"configs/fusion_csv.py:{table}?text=title&empty=keep:age,ward:attention"
    sizes = ["data.image_size=16", "train.epochs=12.0", "train.batch_size=32", "log.progress=False"]
    networks = ["image=cnn:mu", "tower=transformer:mu-mean", "width=32"]
    options = [f"model.options.{network}" for network in networks]
    changes = [f"--config.{change}" for change in (*sizes, *options, *flags)]
    cli.run(main.main, ["--config", spec, f"--workdir={workdir}", *changes])


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "fused"
    cli.run(export.main, [f"--workdir={run}", f"--out={out}"])
    return out


def result(run):
    return json.loads((run / "result.json").read_text())


def test_all_of_it_is_better_than_noise_alone(run):
    assert result(run)["accuracy"] > 0.8


def test_the_run_says_what_its_columns_hold(run):
    options = json.loads((run / "config.json").read_text())["model"]["options"]
    ((name, mean, _),) = options["numbers"]
    assert name == "age" and 11 < mean < 16
    assert options["categories"] == [["ward", ["x", "y", "z"]]]
    assert options["text"][1] == 32 and (run / "tokenizer.json").is_file()


def test_a_finished_run_is_recognized(run, table, capsys):
    train(table, run)
    assert "finished already" in capsys.readouterr().out


def test_the_image_network_starts_from_a_run_of_its_own(table, tmp_path):
    spec = f"csv:{table}?text=title&empty=keep"
    plain = ["model.name=cnn", "model.variant=mu"]
    train_plain(spec, tmp_path / "plain", plain)
    start = f"model.pretrained={tmp_path / 'plain'}"
    train(table, tmp_path / "fused", start, "optimizer.learning_rate=0.0", "train.epochs=1.0")
    _, _, arrays = run_weights(tmp_path / "plain")
    _, _, fused = run_weights(tmp_path / "fused")
    shared = [name for name in arrays if name.endswith("kernel") and "head" not in name]
    assert len(shared) >= 3
    for name in shared:
        np.testing.assert_array_equal(arrays[name], fused[f"parts.0.network.{name}"])


def train_plain(source, workdir, changes):
    sizes = ["data.image_size=16", "train.epochs=1.0", "log.progress=False"]
    argv = [f"--config.{change}" for change in (*sizes, f"data.source={source}", *changes)]
    cli.run(main.main, ["--config", "configs/resnet_mnist5k.py", f"--workdir={workdir}", *argv])


def test_bundle_and_run_are_evaluated_alike(run, bundle, tmp_path, capsys):
    numbers = []
    for flag in (f"--workdir={run}", f"--bundle={bundle}"):
        out = tmp_path / flag[2:5]
        cli.run(evaluation.main, [flag, f"--out={out}", "--config.evaluation.corruptions=False"])
        metrics = json.loads((out / "metrics.json").read_text())["metrics"]
        numbers.append(metrics["accuracy"]["value"])
    assert numbers[0] == pytest.approx(numbers[1]) == pytest.approx(result(run)["accuracy"])


def test_in_half_precision_too(run, tmp_path, capsys):
    out = tmp_path / "half"
    cli.run(export.main, [f"--workdir={run}", "--precision=float16", f"--out={out}"])
    assert "0.0% change class" in capsys.readouterr().out


def test_a_source_without_the_text_is_refused(run, table, tmp_path, capsys):
    for command in (evaluation.main, export.main):
        argv = [f"--workdir={run}", f"--data=csv:{table}", f"--out={tmp_path / 'x'}"]
        assert "have no captions: name a column" in error(capsys, command, argv)


def test_a_table_is_classified_by_run_and_bundle(run, bundle, table, tmp_path, capsys):
    lines = table.read_text().splitlines()[:6]
    shutil.copy(table, table.with_name("all.csv"))
    new = table.with_name("new.csv")
    new.write_text("\n".join(line.replace(",label,", ",kind,") for line in lines))
    answers = []
    for flag in (f"--workdir={run}", f"--bundle={bundle}"):
        cli.run(predict.main, [flag, f"--table={new}", "--format=csv", "--top=1"])
        answers.append(capsys.readouterr().out)
    (first, second) = (list(csv.reader(answer.splitlines())) for answer in answers)
    assert len(first) == 6 and [row[:2] for row in first] == [row[:2] for row in second]
    new.write_text("\n".join(line.rpartition(",")[0] for line in lines))
    assert "has no column 'ward'" in error(capsys, predict.main, [flag, f"--table={new}"])


def test_what_takes_images_alone_refuses(run, bundle, table, tmp_path, capsys):
    refused = [
        (predict.main, [f"--bundle={bundle}", str(table.with_name("1.png"))], "give --table"),
        (
            export.main,
            [f"--workdir={run}", "--format=tflite", f"--out={tmp_path / 'b'}"],
            "takes only images",
        ),
        (prune.main, [f"--workdir={run}", f"--out={tmp_path / 'p'}"], "pruning needs a model"),
        (quantize.main, [f"--bundle={bundle}", f"--out={tmp_path / 'q'}"], "INT8 needs a model"),
    ]
    for command, argv, message in refused:
        assert message in error(capsys, command, argv)
    assert not (tmp_path / "b").exists()


def error(capsys, command, argv):
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.run(command, argv)
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") <= 3
    return text


def test_mixup_and_columns_do_not_mix(table, tmp_path, capsys):
    for change, message in [
        ("augment.mixup=0.2", "mixes labels"),
        ("objective.name=simclr", "only images"),
        ("model.name=cnn", "takes only images"),
        ("data.columns=age,nothing", "no column 'nothing'"),
    ]:
        with pytest.raises(SystemExit) as ended:
            train(table, tmp_path / "refused", change)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_served_with_all_of_its_inputs(bundle, table, tmp_path):
    shutil.copytree(bundle, tmp_path / "models/fused/1")
    image = base64.b64encode(table.with_name("1.png").read_bytes()).decode()
    inputs = [
        tensor("image", "BYTES", image),
        tensor("text", "BYTES", "a one here"),
        tensor("age", "FP32", 3.0),
        tensor("ward", "BYTES", "y"),
    ]
    with serve(tmp_path / "models") as live:
        ask = f"{live.url}/v2/models/fused"
        described = json.loads(urllib.request.urlopen(ask).read())["inputs"]
        assert [entry["name"] for entry in described[2:]] == ["text", "age", "ward"]
        status, answer = post(f"{ask}/infer", inputs)
        assert status == 200 and answer["outputs"][0]["data"][0] == "one"
        missing = [inputs[0], *(tensor(t["name"], t["datatype"], None) for t in inputs[1:])]
        assert post(f"{ask}/infer", missing)[0] == 200
        for some, message in [
            (inputs[:3], "input 'ward' is missing"),
            ([*inputs, tensor("zip", "BYTES", "1")], "no input 'zip'"),
            ([*inputs[:2], tensor("age", "BYTES", "old"), inputs[3]], "must be a number"),
            (inputs[1:], "exactly one input of images"),
        ]:
            status, answer = post(f"{ask}/infer", some)
            assert status == 400 and message in answer["error"]
        upload = urllib.request.Request(f"{live.url}/classify/fused", base64.b64decode(image))
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(upload)
        assert "input 'text' is missing" in refused.value.read().decode()


def tensor(name, datatype, value):
    return {"name": name, "datatype": datatype, "shape": [1], "data": [value]}


def post(url, inputs):
    body = json.dumps({"inputs": inputs, "outputs": [{"name": "labels"}]}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with contextlib.ExitStack() as stack:
        try:
            response = stack.enter_context(urllib.request.urlopen(request))
        except urllib.error.HTTPError as refused:
            response = refused
        return response.status, json.loads(response.read())
