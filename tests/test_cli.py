"""The command line: overrides of every type, arguments of configs, one line per mistake."""

import functools
import json
import pathlib
import re

import pytest

from tests.support.commands import refusal
from vision.config import default
from vision.config.flags import parse
from vision.config.load import from_dict, load
from vision.config.schema import all_keys
from vision.config.validate import leaves, validate
from vision.errors import UserError

DIGITS = "configs/digits.py"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(pathlib.Path(__file__).parent.parent)


def config_of(*argv, spec=DIGITS):
    return parse(["--config", spec, *argv], "usage")[0]


@pytest.fixture
def refused(capsys):
    """Returns a function that runs a command line, which must fail, and returns its message."""
    return functools.partial(refusal, lambda given: validate(parse(given, "usage")[0]), capsys)


@pytest.fixture
def written(tmp_path):
    """Returns a function that writes a config file and returns its path."""

    def write(text, name="mine.py"):
        (tmp_path / name).write_text("from vision.config import default\n" + text)
        return str(tmp_path / name)

    return write


def body(line):
    return f"def get_config():\n    c = default()\n    {line}\n    return c\n"


# Overrides


@pytest.mark.parametrize(
    "argument, key, value",
    [
        ("--config.train.steps=7", "train.steps", 7),
        ("--config.optimizer.learning_rate=3e-4", "optimizer.learning_rate", 3e-4),
        ("--config.train.epochs=3", "train.epochs", 3.0),
        ("--config.augment.flip_horizontal=true", "augment.flip_horizontal", True),
        ("--config.augment.flip_horizontal", "augment.flip_horizontal", True),
        ("--config.augment.affine=False", "augment.affine", False),
        ("--noconfig.augment.affine", "augment.affine", False),
        ("--config.data.source=folder:my photos", "data.source", "folder:my photos"),
        ("--config.model.variant=Ti/4", "model.variant", "Ti/4"),
        ("--config.augment.scale=(0.9,1.1)", "augment.scale", (0.9, 1.1)),
        ("--config.data.fractions=(0.5, 0.25, 0.25)", "data.fractions", (0.5, 0.25, 0.25)),
        ("--config.schedule.boundaries=(0.3,)", "schedule.boundaries", (0.3,)),
        ("--config.data.mean=()", "data.mean", ()),
        ("--config.model.dropout=0.1", "model.dropout", 0.1),
        ("--config.model.batch_norm_groups=4", "model.batch_norm_groups", 4),
        ("--config.model.positions=sincos", "model.positions", "sincos"),
        ("--config.model.pool=None", "model.pool", None),
        ("--config.model.options.width=32", "model.options.width", 32),
        ("--config.model.options.depths=(1, 2)", "model.options.depths", (1, 2)),
        ("--config.model.options.kind=deep", "model.options.kind", "deep"),
        ("--config.model.options.url=a=b", "model.options.url", "a=b"),
        ("--config.objective.options.threshold=0.9", "objective.options.threshold", 0.9),
        ("--config.strong.randaugment_layers=2", "strong.randaugment_layers", 2),
        ("--config.data.unlabeled=rest", "data.unlabeled", "rest"),
        ("--config.seed=-1", "seed", -1),
    ],
)
def test_overrides_have_the_schemas_types(argument, key, value):
    before = dict(leaves(config_of()))
    after = dict(leaves(config_of(argument)))
    assert after[key] == value and type(after[key]) is type(value)
    assert {k: v for k, v in after.items() if k != key} == {
        k: v for k, v in before.items() if k != key
    }


def test_overrides_may_stand_apart_from_their_values_and_before_the_config():
    config, _ = parse(
        ["--config.train.steps", "7", f"--config={DIGITS}", "--config.seed", "3"], "usage"
    )
    assert (config.train.steps, config.seed) == (7, 3)


def test_a_commands_own_flags():
    from absl import flags

    def define(values):
        flags.DEFINE_string("workdir", "", "where", flag_values=values)
        flags.DEFINE_bool("quick", False, "less", flag_values=values)

    argv = ["--config", DIGITS, "--workdir", "runs/x", "--config.train.steps=3", "--quick"]
    config, values = parse(argv, "usage", define)
    assert (values.workdir, values.quick, config.train.steps) == ("runs/x", True, 3)
    config, values = parse(["--config", DIGITS], "usage", define)
    assert (values.workdir, values.quick) == ("", False)  # nothing is left from the parse before


def test_arguments_reach_get_config(written):
    assert load("configs/resnet_cifar10.py:56").model.variant == "cifar56"
    config = load("configs/vit_imagenet.py:B/16:300")
    assert (config.model.variant, config.train.epochs) == ("B/16", 300.0)
    path = written(
        "def get_config(a='x', b='y'):\n    c = default()\n"
        "    c.data.source = a + b\n    return c\n"
    )
    assert [load(path + tail).data.source for tail in ("", ":1", ":1:2", ":1:smoke")] == [
        "xy",
        "1y",
        "12",
        "1y",
    ]


def test_smoke_shrinks_and_overrides_come_after():
    config = config_of(spec="configs/resnet_cifar10.py:56:smoke")
    assert (config.model.variant, config.train.steps, config.train.batch_size) == ("cifar56", 4, 8)
    assert config_of("--config.train.steps=9", spec="configs/digits.py:smoke").train.steps == 9
    assert load("configs/vit_imagenet.py:smoke").data.image_size == 64


def test_help_prints_the_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(["--help"], "How to use it")
    assert ended.value.code == 0 and "How to use it" in capsys.readouterr().out


def test_from_dict_keeps_options_and_gained_keys():
    config = config_of(
        "--config.model.options.width=32",
        "--config.model.options.sizes=(1, 2)",
        "--config.model.dropout=0.1",
        "--config.objective.options.threshold=0.9",
    )
    stored = json.loads(json.dumps(config.to_dict()))
    assert from_dict(stored).to_dict() == config.to_dict()
    del stored["train"]["accumulate"], stored["early_stopping"]  # as before the schema had them
    stored["train"]["forgotten"] = 3  # as before it lost this one
    assert from_dict(stored).to_dict() == config.to_dict()
    with pytest.raises(AttributeError):
        from_dict(stored).train.forgotten = 4  # the schema is locked


# Mistakes on the command line


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--config.model.nmae=vit", "no key 'model.nmae' (did you mean 'model.name'?)"),
        ("--config.modle.name=vit", "no key 'modle.name' (did you mean 'model.name'?)"),
        ("--config.train.stps", "no key 'train.stps' (did you mean 'train.steps'?)"),
        ("--config.steps=3", "no key 'steps' (did you mean 'train.steps'?)"),
        ("--config.train.steps.x=3", "no key 'train.steps.x' (did you mean 'train.steps'?)"),
        ("--noconfig.augment.afine", "no key 'augment.afine' (did you mean 'augment.affine'?)"),
        ("--config.qqqq=1", "no key 'qqqq': `python -m vision.config` lists them all"),
        ("--config.=3", "no key ''"),
        ("--config.model=vit", "'model' is a group of keys: set one of"),
        ("--config.train.steps=many", "--config.train.steps must be an integer, got many"),
        ("--config.train.steps=1.5", "must be an integer, got 1.5"),
        ("--config.train.epochs=x", "must be a number, got x"),
        ("--config.augment.affine=maybe", "must be true or false, got maybe"),
        ("--config.model.dropout=some", "--config.model.dropout must be a number, got some"),
        ("--config.train.steps=None", "must be an integer, got None"),
        ("--config.model.batch_norm_groups=1.5", "must be an integer, got 1.5"),
        ("--config.data.fractions=(0.5,", "must be a tuple of numbers"),
        ("--config.data.fractions=half", "data.fractions must be finite numbers, got ('half',)"),
        ("--config.augment.scale=('a', 1)", "augment.scale must be finite numbers, got ('a', 1)"),
        ("--config.model.options.width", "give an option as --config.model.options.NAME=VALUE"),
        ("--config.model.options=3", "give an option as --config.model.options.NAME=VALUE"),
        (
            "--config.objective.options=3",
            "give an option as --config.objective.options.NAME=VALUE",
        ),
        ("--nope", "Unknown command line flag 'nope'"),
        ("--configs.seed=3", "Unknown command line flag"),
        ("stray", "unexpected argument 'stray'"),
        ("--config.data.source", "--config.data.source"),
        (f"--config={DIGITS}", "--config is given twice"),
    ],
)
def test_a_wrong_argument(argument, message, refused):
    assert message in refused("--config", DIGITS, argument)


def test_a_flag_that_swallows_the_next_one(refused):
    error = refused("--config", DIGITS, "--config.data.source", "--config.seed=3")
    assert error == "--config.data.source needs a value, but '--config.seed=3' follows"


@pytest.mark.parametrize(
    "argv, message",
    [
        ((), "Give --config FILE"),
        (("--config.seed=3",), "give --config FILE"),
        (("--config",), "--config needs a file"),
        (
            ("--config", "configs/vit_mnist.py"),
            "no config file 'configs/vit_mnist.py'; did you mean 'configs/vit_mnist5k.py'?",
        ),
        (("--config", "configs/vit_mnist5k"), "did you mean 'configs/vit_mnist5k.py'?"),
        (("--config=config/vit_mnist5k.py",), "did you mean 'configs/vit_mnist5k.py'?"),
        (("--config", "configs"), "no config file 'configs'"),
        (("--config=",), "no config file ''"),
        (
            ("--config", "configs/digits.py:foo"),
            "configs/digits.py: get_config() cannot be called with 'foo'",
        ),
        (
            ("--config", "configs/resnet_cifar10.py:1:2"),
            "get_config(depth='20') cannot be called with '1', '2'",
        ),
    ],
)
def test_no_such_config(argv, message, refused):
    assert message in refused(*argv)


def values_out_of_range():
    """Returns [(key, value outside of its range)]."""
    outside = {
        "learning_rate weight_decay clip_norm momentum b1 b2 ema": ("optimizer", "-0.1"),
        "momentum b1 b2 ema ": ("optimizer", "1.0"),
        "eps": ("optimizer", "0"),
        "boundaries": ("schedule", "(0.75,0.5)"),
        "boundaries ": ("schedule", "(0.5,1.5)"),
        "boundaries  ": ("schedule", "(0.5,0.5)"),
        "warmup final": ("schedule", "1.5"),
        "warmup final timescale factor": ("schedule", "-0.5"),
        "patience": ("schedule", "0"),
        "steps batch_size eval_batch_size accumulate eval_every epochs": ("train", "-1"),
        "batch_size accumulate": ("train", "0"),
        "limit workers resident_gib image_size max_unreadable crop_fraction": ("data", "-1"),
        "crop_fraction max_unreadable": ("data", "2"),
        "random_crop_area": ("data", "(0.0,1.0)"),
        "random_crop_area ": ("data", "(0.5,)"),
        "label_smoothing effective_number_beta": ("objective", "1.0"),
        "label_smoothing effective_number_beta focal_gamma logit_adjustment": ("objective", "-0.5"),
        "every keep_latest keep_best": ("checkpoint", "-1"),
        "keep_latest keep_best": ("checkpoint", "0"),
        "patience ": ("early_stopping", "0"),
        "min_delta": ("early_stopping", "-1"),
        "every": ("log", "0"),
        "images": ("log", "-1"),
        "devices": ("parallel", "-1"),
        "pad_crop randaugment_layers mixup cutmix translate brightness": ("augment", "-1"),
        "translate brightness contrast saturation random_erasing hue": ("augment", "1.1"),
        "rotate": ("augment", "181"),
        "shear": ("augment", "45"),
        "randaugment_magnitude": ("augment", "31"),
        "crop_area crop_ratio scale": ("augment", "(0.9,0.8)"),
        "crop_area  erasing_area": ("augment", "(0.1,1.1)"),
        "crop_ratio ": ("augment", "(1.0,)"),
        "scale ": ("augment", "(0.0,1.0)"),
        "unlabeled_ratio": ("data", "0"),
        "hue ": ("strong", "0.6"),
    }
    return [
        (f"{group}.{key}", value)
        for keys, (group, value) in outside.items()
        for key in keys.split()
    ]


@pytest.mark.parametrize("key, value", values_out_of_range())
def test_a_number_out_of_its_range(key, value, refused):
    error = refused("--config", DIGITS, f"--config.{key}={value}")
    assert re.match(
        rf"{key} must be (at least|above|in|\(low, high\)|\(\) or|shares) .*, got ", error
    )


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_no_finite_number(value, refused):
    assert "must be a finite number" in refused(
        "--config", DIGITS, f"--config.optimizer.learning_rate={value}"
    )
    assert "must be finite numbers" in refused(
        "--config", DIGITS, f"--config.data.mean=(0.5,{value})"
    )


def test_every_range_allows_the_default_and_names_the_key():
    for name, key in all_keys().items():
        key.check(name, key.default)
    with pytest.raises(UserError, match=r"^train.batch_size must be at least 1, got 0$"):
        all_keys()["train.batch_size"].check("train.batch_size", 0)


def test_the_defaults_and_the_edges_are_in_range():
    validate(default())
    edges = [
        "optimizer.learning_rate=0",
        "schedule.boundaries=(0.0,1.0)",
        "data.random_crop_area=(1.0,1.0)",
    ]
    edges += ["schedule.warmup=1", "data.crop_fraction=1"]
    validate(config_of(*(f"--config.{edge}" for edge in edges)))


# Mistakes in a config file


@pytest.mark.parametrize(
    "text, message",
    [
        (body("c.model.nmae = 'vit'"), "mine.py:4: no key 'nmae' (did you mean 'model.name'?)"),
        (body("c.trian.steps = 3"), "mine.py:4: no key 'trian' (did you mean 'train'?)"),
        (body("c.train['stepz'] = 3"), "mine.py:4: no key 'stepz' (did you mean 'train.steps'?)"),
        (body("c.update({'seeed': 3})"), "mine.py:4: no key 'seeed' (did you mean 'seed'?)"),
        (body("c.train.steps = 'many'"), "mine.py:4: 'steps' must be an integer, got many"),
        (body("c.train.steps = 1e5"), "mine.py:4: 'steps' must be an integer, got 100000.0"),
        (body("c.data.mean = 0.5"), "mine.py:4: 'mean' must be a tuple of numbers, got 0.5"),
        (body("c.model.dropout = 'some'"), "mine.py:4: 'dropout' must be a number, got some"),
        (body("c.augment.affine = 1"), "mine.py:4: 'affine' must be true or false, got 1"),
        (body("c.model = 'vit'"), "mine.py:4: 'model' must be a group of keys, got vit"),
        (body("c.train.epochs = None"), "train.epochs must have a value, got None"),
        (body("c.data.mean = ('a',)"), "data.mean must be finite numbers, got ('a',)"),
        (body("c.optimizer.ema = 1.0"), "optimizer.ema must be in [0, 1), got 1.0"),
        (body("c.unlock(); c.mine = 3"), "must return the ConfigDict of vision.config.default()"),
        (body("c.seed = 1 / 0"), "mine.py:4: ZeroDivisionError: division by zero"),
        ("def get_config(:\n", "mine.py:2: invalid syntax"),
        (
            "import no_such_module\n",
            "mine.py:2: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("", "mine.py has no get_config(arg=None)"),
        ("get_config = 3\n", "mine.py has no get_config(arg=None)"),
        (
            "def get_config():\n    return {}\n",
            "must return the ConfigDict of vision.config.default()",
        ),
        ("def get_config():\n    return default().train\n", "must return the ConfigDict"),
        (
            "def get_config(depth):\n    return default()\n",
            "get_config(depth) cannot be called with no argument",
        ),
    ],
)
def test_a_wrong_config_file(text, message, written, refused):
    assert message in refused("--config", written(text))


def test_a_config_that_is_no_text(tmp_path, refused):
    (tmp_path / "mine.py").write_bytes(b"\xff\xfe\x00")
    assert "mine.py:1: " in refused("--config", str(tmp_path / "mine.py"))


def test_a_wrong_argument_of_a_config(written, refused):
    path = written(
        "def get_config(steps):\n    c = default()\n    c.train.steps = int(steps)\n    return c\n"
    )
    assert "mine.py:4: ValueError: invalid literal for int()" in refused("--config", f"{path}:many")


def test_a_configs_own_user_error_passes(written, refused):
    text = (
        "from vision.errors import UserError\n"
        "def get_config():\n    raise UserError('choose a depth')\n"
    )
    assert refused("--config", written(text)) == "choose a depth"
