"""Every config loads, documents its command, fits its data; its smoke run ends with a result."""

import ast
import json
import pathlib
import re

import pytest
from flax import traverse_util

from vision import cli, main, models, objectives
from vision.config import default
from vision.config.load import from_dict, load
from vision.config.validate import leaves, validate
from vision.data.tokenizer import TextShape
from vision.models.layers.streams import Streams
from vision.training.optimizer import make_optimizer, make_schedule
from vision.training.setup import image_form
from vision.training.state import StateSpec

REPOSITORY = pathlib.Path(__file__).parent.parent
FILES = sorted((REPOSITORY / "configs").glob("*.py"))
# side, channels, classes
SOURCES = {
    "mnist5k": (28, 1, 10),
    "digits": (8, 1, 10),
    "tfds:cifar10": (32, 3, 10),
    "tfds:fashion_mnist": (28, 1, 10),
}

SPECS = {}  # {what spec_of depends on: StateSpec}


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


class Teachers(dict):
    """ResNets for what an objective starts from trained models, on the same data."""

    def __init__(self, c, classes, image_shape):
        super().__init__()
        side, _, channels = image_shape
        teacher = default().model
        teacher.update(name="resnet", variant="cifar20")
        starts = objectives.define(c).starts
        attributes = [name for name, start in starts.items() if start != "model"]
        for attribute in attributes:
            self[attribute] = models.build(teacher, classes, side, channels, rngs=Streams(0))
        self.classes = dict.fromkeys(attributes, ())
        self.image_shapes = dict.fromkeys(attributes, image_shape)


def commands(path):
    """Returns the specs in the commands of a config's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    return re.findall(r"python -m vision\.(?:main|continual) --config (\S+)", docstring)


def specs():
    written = [spec for path in FILES for spec in commands(path)]
    depths = [f"configs/resnet_cifar10.py:{depth}" for depth in (32, 44, 110)]
    return sorted({*written, *depths, *(f"configs/{path.name}" for path in FILES)})


def test_there_are_configs():
    assert {"vit_mnist5k.py", "digits.py", "resnet_cifar10.py", "airbench_cifar10.py"} <= {
        path.name for path in FILES
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_docstring_says_how_to_run_it(path):
    assert any(spec.split(":")[0] == f"configs/{path.name}" for spec in commands(path))


@pytest.mark.parametrize("spec", specs())
def test_it_has_the_schema_and_survives_a_file(spec):
    for config in (load(spec), load(f"{spec}:smoke")):
        assert {key for key, _ in leaves(config) if ".options." not in key} == set(
            dict(leaves(default()))
        )
        assert config.is_locked
        validate(config)
        again = from_dict(json.loads(json.dumps(config.to_dict())))
        assert again.to_dict() == config.to_dict()
        assert {k: type(v) for k, v in leaves(again)} == {k: type(v) for k, v in leaves(config)}


@pytest.mark.parametrize("spec", specs())
def test_model_objective_and_optimizer_fit_the_data(spec):
    """Abstractly: only shapes are computed."""
    config = load(spec)
    side, channels, classes = SOURCES.get(
        config.data.source, (config.data.image_size, config.data.channels or 3, 7)
    )
    side = config.data.image_size or side
    config = with_fields(config)

    spec = spec_of(config, side, channels, classes)
    schedule = make_schedule(config.schedule, config.optimizer.learning_rate, 1000)
    assert (
        0
        < max(map(float, map(schedule, (0, 100, 400))))
        <= config.optimizer.learning_rate * (1 + 1e-6)
    )
    make_optimizer(config.optimizer, schedule, spec.abstract_params, 1000)
    head = traverse_util.flatten_dict(spec.abstract_params["model"]["head"])
    assert {x.shape[1] for path, x in head.items() if path[-1] == "kernel"} == {classes}
    assert (
        config.data.normalize != "mean_std"
        or len(config.data.mean) == len(config.data.std) == channels
    )


def spec_of(config, side, channels, classes):
    """Returns what config.model and config.objective are; configs of the same two share it."""
    form = image_form(config, side, channels)
    sections = [config[section].to_dict() for section in ("model", "objective", "text")]
    key = repr([sections, side, channels, classes, form])
    if key not in SPECS:

        def create():
            model = models.build(config.model, classes, side, channels, rngs=Streams(0))
            return objectives.build(
                config.objective,
                model,
                class_counts=[3] * classes,
                rngs=Streams(0),
                architectures=Teachers(config.objective, classes, (side, side, channels)),
                text=TextShape(300, config.text.context) if config.text.tokenizer else None,
                images=form,
            )

        SPECS[key] = StateSpec(create)
    return SPECS[key]


def with_fields(config):
    """Returns the config as it is once the texts and columns of its data are known."""
    options = config.model.options
    if config.model.name == "fusion":
        if config.text.tokenizer:
            options.text = (300, config.text.context)
        columns = filter(None, config.data.columns.split(","))
        options.numbers = tuple((name, 0.0, 1.0) for name in columns)
    return config


@pytest.mark.parametrize("name", ["digits"])  # the others: tests/slow/test_config_smokes.py
def test_a_smoke_run_ends_with_a_result(name, tmp_path, capsys):
    spec = f"configs/{name}.py:smoke"
    workdir = tmp_path / "run"
    cli.run(main.main, ["--config", spec, f"--workdir={workdir}", "--config.parallel.devices=1"])
    result = json.loads((workdir / "result.json").read_text())
    assert result["steps"] == 4 and result["ended"] == "finished" and 0 <= result["accuracy"] <= 1
    assert len(result["confusion"]) == len(result["classes"]) == 10
    assert sum(result["support"]) == result["split_sizes"]["test"] == 64
    config = load(spec)
    config.parallel.devices = 1
    config.checkpoint.mode = "max"  # what "auto" means for val/accuracy
    assert (
        from_dict(json.loads((workdir / "config.json").read_text())).to_dict() == config.to_dict()
    )
    assert "accuracy" in capsys.readouterr().out.splitlines()[-1]
