"""Classes of a finished run are renamed, merged and split: what each number and file becomes."""

import hashlib
import importlib.util
import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx, traverse_util
from PIL import Image

from vision import cli, main, models, predict
from vision.compression import prune
from vision.config import default
from vision.config.load import read_config
from vision.data.division import read_division
from vision.data.sources import open_splits
from vision.errors import UserError
from vision.evaluation import __main__ as evaluation
from vision.export import __main__ as export
from vision.inference import from_run, softmax
from vision.models import surgery
from vision.models.layers.streams import Streams
from vision.models.surgery.transfer import prepare
from vision.run import classes
from vision.run.calibration import Calibration, read_calibration, write_calibration
from vision.run.checkpoints import open_checkpoints
from vision.run.class_changes import read_changes
from vision.run.initial import initial_weights
from vision.run.weights import run_weights
from vision.support.files import write_json

pytestmark = pytest.mark.long

DIGITS = tuple("0123456789")
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), np.uint8)
MERGE = ["--merge=odd=1,3,5", "--merge=2=2,8", "--rename=0=zero"]
MERGED = ("zero", "odd", "2", "4", "6", "7", "9")
MERGED_SOURCE = "digits?rename=0:zero,1:odd,2:2,3:odd,5:odd,8:2"
MEMBERS = ([0], [1, 3, 5], [2, 8], [4], [6], [7], [9])


def change(run, out, *flags):
    cli.run(classes.main, [f"--workdir={run}", f"--out={out}", *flags])
    return out


def probabilities(run):
    """Returns what a run's model says about `IMAGES`, without its temperature."""
    return softmax(from_run(run)(IMAGES)[0])


def sums(before, members):
    return np.stack([before[:, columns].sum(1) for columns in members], 1)


def read(path):
    return json.loads(path.read_text())


def digests(directory):
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def merged(tiny_run, tmp_path_factory):
    return change(tiny_run, tmp_path_factory.mktemp("merged") / "run", *MERGE)


def test_names_change_and_nothing_else(tiny_run, tmp_path, capsys):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    step = run_weights(run)[1]["step"]
    (run / "evaluation").mkdir()
    write_calibration(run / "evaluation", Calibration(1.5, step, "digits"))
    before = digests(run)
    out = change(run, tmp_path / "new", "--rename=2=a%2Cb", "--rename", "1=2", "--rename=3=1")
    assert digests(run) == before
    assert "rename: 2 -> a,b" in capsys.readouterr().out
    names = ["0", "2", "a,b", "1", *DIGITS[4:]]
    for ours, theirs in zip(from_run(out)(IMAGES), from_run(run)(IMAGES), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    source = "digits?rename=1:2,2:a%2Cb,3:1"
    assert read_calibration(out / "evaluation") == Calibration(1.5, step, source)
    assert from_run(out).temperature == 1.5
    data = read(out / "data.json")
    assert data["classes"] == names
    same = read(run / "data.json")
    assert data == same | {"classes": names, "splits": data["splits"]}
    ours = read_division(out / "splits.csv.gz")
    for split, members in read_division(run / "splits.csv.gz").items():
        assert ours[split].names.tolist() == members.names.tolist()
        assert ours[split].labels.tolist() == [names[int(label)] for label in members.labels]
        assert ours[split].digest() == data["splits"][split]["sha256"]
    result = read(out / "result.json")
    config = read(out / "config.json")
    assert result == read(run / "result.json") | {"classes": names, "config": config}
    assert config["data"]["source"] == source and config["model"]["head_groups"] == []
    cli.run(main.main, [f"--workdir={out}"])
    assert "finished already: test: loss" in capsys.readouterr().out


def test_a_merged_class_has_the_sum(tiny_run, merged, capsys):
    ours = probabilities(merged)
    np.testing.assert_allclose(ours, sums(probabilities(tiny_run), MEMBERS), atol=1e-7)
    classifier = from_run(merged)
    assert classifier.classes == MERGED
    alone = [c for c, members in enumerate(MEMBERS) if len(members) == 1]
    logits = from_run(tiny_run)(IMAGES)[0]
    np.testing.assert_array_equal(
        classifier(IMAGES)[0][:, alone], logits[:, [MEMBERS[c][0] for c in alone]]
    )
    config, data, _ = run_weights(merged)
    assert config.data.source == MERGED_SOURCE
    assert config.model.head_groups == (0, 1, 1, 1, 2, 2, 3, 4, 5, 6)
    old = read(tiny_run / "data.json")
    assert data["class_counts"] == [sum(old["class_counts"][m] for m in c) for c in MEMBERS]
    assert data["split_sizes"] == old["split_sizes"]
    result = read(merged / "result.json")
    assert result["classes"] == list(MERGED) and not {"accuracy", "confusion"} & set(result)
    cli.run(main.main, [f"--workdir={merged}"])
    assert "finished already: test: not measured yet" in capsys.readouterr().out


def test_a_merged_run_is_evaluated_on_its_images(tiny_run, merged, tmp_path):
    flags = ("corruptions", "views", "explain", "temperature", "slices")
    argv = [f"--config.evaluation.{flag}=False" for flag in flags]
    argv += ["--config.evaluation.map=none", "--config.evaluation.probe=0"]
    argv += ["--config.evaluation.bootstrap=0", f"--out={tmp_path}"]
    cli.run(evaluation.main, [f"--workdir={merged}", *argv])
    old = from_run(tiny_run)
    members = read_division(tiny_run / "splits.csv.gz")["test"]
    rows = [int(name[4:-1]) for name in members.names]
    images = open_splits("digits")["all"].images[rows]
    truth = [next(c for c, m in enumerate(MEMBERS) if int(x) in m) for x in members.labels]
    predicted = sums(softmax(old(images)[0]), MEMBERS).argmax(1)
    c = old.config.data
    drawn = np.arange(len(rows))
    if c.limit:
        drawn = np.sort(np.random.RandomState(old.config.seed).permutation(len(rows))[: c.limit])
    expected = (predicted == truth)[drawn].mean()
    metrics = read(tmp_path / "metrics.json")["metrics"]
    assert metrics["accuracy"]["value"] == pytest.approx(expected, abs=1e-9)


def test_a_merged_run_predicts_and_exports(tiny_run, merged, tmp_path, capsys):
    pytest.importorskip("jax2onnx")
    Image.fromarray(IMAGES[0, ..., 0]).save(tmp_path / "x.png")
    bundle = tmp_path / "bundle"
    formats = "onnx,stablehlo" + (",tflite" if importlib.util.find_spec("ai_edge_litert") else "")
    cli.run(export.main, [f"--workdir={merged}", f"--out={bundle}", f"--format={formats}"])
    exported = read(bundle / "bundle.json")["quality"]["exported"]
    assert len(exported) == len(formats.split(","))
    assert all(file["largest_difference"] < 1e-5 for file in exported.values())
    old = from_run(tiny_run)
    expected = sums(softmax(old(IMAGES[:1])[0]), MEMBERS)[0]
    for model in (f"--workdir={merged}", f"--bundle={bundle}"):
        capsys.readouterr()
        cli.run(predict.main, [model, "--format=json", "--top=7", str(tmp_path / "x.png")])
        (line,) = capsys.readouterr().out.splitlines()
        shown = {entry["class"]: entry["probability"] for entry in json.loads(line)["top"]}
        np.testing.assert_allclose([shown[name] for name in MERGED], expected, atol=1e-5)


REFUSED = {
    "tflite int8": (["--format=tflite", "--precision=int8"], "cannot sum the probabilities"),
    "safetensors": (["--format=safetensors"], "merged classes .* has no counterpart in timm"),
    "heat map": (["--format=onnx", "--heatmap"], "those of merged classes .* are not"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_sum(merged, tmp_path, capsys, case):
    pytest.importorskip("jax2onnx")
    flags, message = REFUSED[case]
    with pytest.raises(SystemExit):
        cli.run(export.main, [f"--workdir={merged}", f"--out={tmp_path}/b", *flags])
    err = capsys.readouterr().err
    assert np.array([part in err for part in message.split(" .* ")]).all()
    assert not (tmp_path / "b").exists()


def test_a_split_class_is_shared(tiny_run, tmp_path, capsys):
    out = change(tiny_run, tmp_path / "new", "--split=4=4a,4b,4c")
    ours = probabilities(out)
    before = probabilities(tiny_run)
    np.testing.assert_allclose(ours[:, 4:7], before[:, [4, 4, 4]] / 3, atol=1e-7)
    np.testing.assert_allclose(ours[:, [0, 7, 11]], before[:, [0, 5, 9]], atol=1e-7)
    text = capsys.readouterr().out
    assert "4a, 4b, 4c each get 1/3 of the probability of '4'" in text
    assert "still call these images '4'" in text
    config, data, _ = run_weights(out)
    assert config.data.source == "digits" and config.model.head_groups == ()
    assert data["classes"][3:8] == ["3", "4a", "4b", "4c", "5"]
    assert data["class_counts"][4:7] == [0, 0, 0]
    assert set(read_division(out / "splits.csv.gz")["train"].labels) == set(DIGITS)
    with pytest.raises(SystemExit):
        cli.run(evaluation.main, [f"--workdir={out}"])
    assert "classes that the model does not have: 4." in capsys.readouterr().err


def test_a_result_can_change_again(tiny_run, merged, tmp_path):
    """Of a merged class that is split, each part has all members; sources keep their own names."""
    argv = ("--split=odd=odder,oddest", "--merge=even=2,4,6", "--rename=zero=0")
    out = change(merged, tmp_path / "new", *argv)
    before = sums(probabilities(tiny_run), MEMBERS)
    expected = sums(before, ([0], [1], [1], [2, 3, 4], [5], [6])) * [1, 0.5, 0.5, 1, 1, 1]
    np.testing.assert_allclose(probabilities(out), expected, atol=1e-7)
    config, data, _ = run_weights(out)
    assert data["classes"] == ["0", "odder", "oddest", "even", "7", "9"]
    assert config.data.source == "digits?rename=1:odd,2:even,3:odd,5:odd,8:even,4:even,6:even"
    source = open_splits(config.data.source)["all"]
    assert source.classes == ("0", "odd", "even", "7", "9")


def fabricate(tiny_run, out, changed, trained=lambda c, model: None):
    """Writes a finished run like the tiny one, with other keys and a random model."""
    shutil.copytree(tiny_run, out, ignore=shutil.ignore_patterns("checkpoints", "evaluation"))
    config, _ = read_config(out / "config.json")
    config.update_from_flattened_dict(changed)
    write_json(out / "config.json", config.to_dict())
    rngs = Streams(1)
    model = models.build(config.model, 10, 8, 1, rngs)
    prepare(config.transfer, model, rngs)
    trained(config, model)
    state = {"params": {}, "rest": {"model": {}}}
    flat = {("model", *k.split(".")): v for k, v in surgery.arrays(model).items()}
    state["params"] = traverse_util.unflatten_dict(flat)
    with open_checkpoints(out, config) as checkpoints:
        checkpoints.save(4, jax.tree.map(jax.numpy.asarray, state), {})
    return out


def nonzero(c, model):
    """Gives low-rank updates and biases numbers."""
    random = np.random.default_rng(3)
    for name, variable in surgery.variables(model).items():
        if ".up." in name or name.endswith("bias"):
            variable.set_value(random.normal(size=variable.shape).astype(np.float32))


HEADS = {
    "cosine": {"model.head": "cosine"},
    "two tokens": {"model.distilled": True},
    "low rank": {"transfer.mode": "lora"},
    "bfloat16": {"model.dtype": "bfloat16"},
}


@pytest.mark.parametrize("case", HEADS)
def test_every_head(tiny_run, tmp_path, case):
    run = fabricate(tiny_run, tmp_path / "run", HEADS[case], nonzero)
    before = probabilities(run)
    split = change(run, tmp_path / "split", "--split=4=4a,4b")
    ours = probabilities(split)
    np.testing.assert_allclose(ours[:, 4:6], before[:, [4, 4]] / 2, atol=1e-5)
    np.testing.assert_allclose(ours[:, 6:], before[:, 5:], atol=1e-5)
    both = change(split, tmp_path / "both", "--merge=4=4b,9", "--rename=4a=9")
    expected = np.delete(ours, 10, 1)
    expected[:, 5] += ours[:, 10]
    np.testing.assert_allclose(probabilities(both), expected, atol=1e-5)
    config = from_run(both).config
    assert bool(config.model.head_shares) == (case == "cosine")
    assert config.transfer.mode == "full"


def test_a_pruned_run(tiny_run, tmp_path):
    cli.run(prune.main, [f"--workdir={tiny_run}", f"--out={tmp_path}/small", "--ratio=0.2"])
    shutil.copy(tiny_run / "result.json", tmp_path / "small")
    out = change(tmp_path / "small", tmp_path / "new", *MERGE, "--split=9=9a,9b")
    expected = sums(probabilities(tmp_path / "small"), (*MEMBERS, [9]))
    expected[:, -2:] /= 2
    np.testing.assert_allclose(probabilities(out), expected, atol=1e-7)
    # and what was merged can be pruned further
    cli.run(prune.main, [f"--workdir={out}", f"--out={tmp_path}/less", "--ratio=0.1"])
    assert (
        surgery.count(from_run(tmp_path / "less").model)[0] < surgery.count(from_run(out).model)[0]
    )


def test_a_training_starts_with_the_head(merged, tmp_path):
    """If the config has the keys of the head; otherwise with all but the head."""
    config, data, arrays = run_weights(merged)
    config.model.pretrained = str(merged)

    class Data:
        classes = MERGED
        image_size = 8
        channels = 1

    start = initial_weights(config, Data, tmp_path / "none")
    assert start.keys() == arrays.keys()
    np.testing.assert_array_equal(start["head.inner.bias"], arrays["head.inner.bias"])
    config.model.head_groups = ()
    start = initial_weights(config, Data, tmp_path / "none")
    assert start.keys() == {name for name in arrays if not name.startswith("head.")}
    config.model.head_groups = (0, 1, 1)
    with pytest.raises(UserError, match="must name each of the 7 classes, 0 to 6"):
        initial_weights(config, Data, tmp_path / "none")


def test_an_auxiliary_head_sums_too():
    c = default().model
    c.name = "inception"
    c.variant = "v3"
    c.options.auxiliary = True
    c.head_groups = (0, 1, 1, 2)
    model = nnx.eval_shape(lambda: models.build(c, 3, 299, 3, Streams(0)))
    shapes = {name: v.shape[-1] for name, v in surgery.variables(model).items()}
    assert shapes["head.inner.kernel"] == shapes["auxiliary.head.inner.kernel"] == 4
    assert model.auxiliary.head.out_features == model.head.out_features == 3


def test_an_own_list_of_weights_is_dropped(tiny_run, tmp_path):
    weights = {"objective.class_weights": str([1.0] * 10)}
    run = fabricate(tiny_run, tmp_path / "run", weights)
    assert from_run(change(run, tmp_path / "a", *MERGE)).config.objective.class_weights == "none"
    renamed = change(run, tmp_path / "b", "--rename=0=zero")
    assert from_run(renamed).config.objective.class_weights == weights["objective.class_weights"]


BAD = {
    "nothing": ([], "nothing to change: give one or more of --rename OLD=NEW"),
    "unknown": (["--rename=zero=0"], "--rename: there is no class 'zero'; classes are 0, 1"),
    "nearest": (["--merge=x=1,22"], "there is no class '22' (did you mean '2'?)"),
    "twice": (["--merge=x=1,2", "--rename=2=two"], "the class '2' is named twice"),
    "twice in one": (["--merge=x=1,1"], "the class '1' is named twice"),
    "a single class": (["--merge=x=1"], "names a single class, but needs two or more"),
    "one part": (["--split=1=x"], "names a single class, but needs two or more"),
    "no name": (["--rename=1="], "must be OLD=NEW"),
    "no sign": (["--merge=1,2"], "must be NEW=OLD,OLD"),
    "two names": (["--rename=1=a,b"], "must be OLD=NEW"),
    "taken": (["--rename=1=2"], "two classes would be called '2'"),
    "a part taken": (["--split=1=a,2"], "two classes would be called '2'"),
    "split name": (["--split=1=a,b", "--rename=2=1"], "the data still use"),
    "one left": (["--merge=x=" + ",".join(DIGITS)], "only the class 'x' would be left"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be(tiny_run, tmp_path, capsys, case):
    flags, message = BAD[case]
    with pytest.raises(SystemExit) as ended:
        change(tiny_run, tmp_path / "new", *flags)
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_runs_and_places_that_cannot_be(tiny_run, tmp_path, capsys):
    def refused(message, run, out, *flags):
        with pytest.raises(SystemExit) as ended:
            change(run, out, *(flags or ["--rename=0=zero"]))
        assert ended.value.code == 2 and message in capsys.readouterr().err

    (tmp_path / "there").mkdir()
    refused("there exists already: name a new directory", tiny_run, tmp_path / "there")
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "result.json").unlink()
    refused("is not finished", run, tmp_path / "new")
    refused("is not a run directory", tmp_path / "none", tmp_path / "new")
    name = {"model.name": "tests.run.headless", "model.pool": None, "model.positions": None}
    headless = fabricate(tiny_run, tmp_path / "headless", name)
    refused("has no class head", headless, tmp_path / "new")
    refused("has no class head", headless, tmp_path / "new", *MERGE)
    shutil.rmtree(run / "checkpoints")
    shutil.copy(tiny_run / "result.json", run)
    refused("has no checkpoints yet", run, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(SystemExit):
        cli.run(classes.main, ["--out=x"])
    assert "which run? Give --workdir RUN" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.run(classes.main, [f"--workdir={tiny_run}"])
    assert "where to? Give --out DIRECTORY" in capsys.readouterr().err


def test_a_source_that_lists_its_classes_keeps_them():
    """`?classes=` is about the source's own names, and stays as it is."""
    flags = {"rename": ["b=B"], "merge": ["x=c,d"], "split": []}
    changes = read_changes(("a", "b", "c", "d"), flags)
    assert changes.source("folder:p?classes=a,b,c,d&level=1") == (
        "folder:p?classes=a,b,c,d&level=1&rename=b:B,c:x,d:x"
    )
    back = read_changes(("a", "B", "x"), {"rename": ["B=b"], "merge": [], "split": []})
    assert back.source("folder:p?rename=b:B,c:x,d:x") == "folder:p?rename=c:x,d:x"
    last = read_changes(("a", "b", "x"), {"merge": ["a=a,x"]})
    assert last.source("folder:p?rename=c:x,d:x") == "folder:p?rename=c:a,d:a,a:a"
