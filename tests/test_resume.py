"""A run that was interrupted ends as one that was not: the same bits, the same numbers, no step
twice."""

import json
import os
import pathlib
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.conftest import AS_USERS_DO
from vision import cli, main
from vision.config import default
from vision.training.log import RunLog

pytestmark = pytest.mark.long


def make_config(kind):
    """16 steps with everything that is random or remembered: each kind would go wrong where one
    thing is forgotten."""
    c = default()
    c.data.source = "digits"
    c.data.limit = 60
    c.train.steps = 16
    c.train.batch_size = 16
    c.train.eval_every = 5
    c.checkpoint.every = 4
    c.log.every = 3
    c.log.tensorboard = False
    c.augment.affine = True
    c.augment.mixup = 0.4
    c.optimizer.ema = 0.9
    c.parallel.devices = 1
    c.parallel.xla_options = AS_USERS_DO  # or resident and loaded data differ in the last bit
    if kind == "resnet":
        c.model.name = "tests.support.tiny_resnet"
        c.optimizer.name = "sgd"
        c.optimizer.learning_rate = 0.05
    else:
        c.model.name = "vit"
        c.model.variant = "mu/2"
        c.model.dropout = 0.2
        c.model.stochastic_depth = 0.1
    if kind == "plateau":
        c.schedule.name = "plateau"
        c.schedule.patience = 1
        c.schedule.factor = 0.5
        c.optimizer.learning_rate = 0.3
        c.train.eval_every = 2
    return c


def arrays(workdir, step):
    """{name: array} of a checkpoint: parameters, statistics, optimizer, moving average."""
    with pytest.warns(UserWarning, match="[Ss]harding"):
        tree = ocp.PyTreeCheckpointer().restore(
            workdir.absolute() / "checkpoints" / str(step) / "state"
        )
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def assert_same_run(ours, theirs, step, extra=()):
    """The same bits at `step`, and the same lines but for speeds and the `extra` steps at which one
    was interrupted."""
    a = arrays(ours, step)
    b = arrays(theirs, step)
    assert a.keys() == b.keys()
    assert any("opt" in name for name in a) and any("ema" in name for name in a)
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].tobytes() == b[name].tobytes(), name
    logged = lines(ours)
    expected = lines(theirs)
    assert [key for key in logged if key not in extra] == list(expected)
    for key, values in expected.items():
        if all(logged[key].get(name) == value for name, value in values.items()):
            continue
        # The line after an interruption is a mean over fewer steps.
        assert key[1] == "train" and any(step < key[0] for step, _ in extra)
        assert logged[key]["train/learning_rate"] == values["train/learning_rate"]


def lines(workdir):
    """{(step, "train" or "val"): {name: value}}; fails on a step that comes twice or out of
    order."""
    logged = {}
    for text in (workdir / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        step = line.pop("step")
        key = (step, next(iter(line)).split("/")[0])
        assert key not in logged and step >= max((s for s, _ in logged), default=0)
        logged[key] = {
            name: value for name, value in line.items() if name != "train/images_per_second"
        }
    return logged


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Maps a kind to the directory of its run without an interruption."""
    runs = {}

    def get(kind):
        if kind not in runs:
            runs[kind] = tmp_path_factory.mktemp(kind) / "run"
            assert main.run(make_config(kind), runs[kind])["ended"] == "finished"
        return runs[kind]

    return get


@pytest.fixture
def send(monkeypatch):
    """`send(number, step)`: this process gets that signal once, when the step is done."""

    def arm(number, at):
        advance = RunLog.advance

        def advance_and_send(log, step):
            advance(log, step)
            if step == at:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(RunLog, "advance", advance_and_send)

    yield arm
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("kind", "number", "step"),
    [("resnet", signal.SIGTERM, 7), ("plateau", signal.SIGINT, 9), ("vit", signal.SIGTERM, 10)],
)
def test_interrupted_and_resumed(
    tmp_path, uninterrupted, send, monkeypatch, capsys, kind, number, step
):
    """Saved and ended without an error at whatever step it was, 10 being that of an evaluation."""
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    send(number, step)
    workdir = tmp_path / "run"
    assert main.run(make_config(kind), workdir) is None
    assert f"interrupted at step {step}: saved" in capsys.readouterr().out
    assert (workdir / "checkpoints" / str(step)).is_dir()
    assert not (workdir / "result.json").exists()
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    monkeypatch.undo()
    result = main.run(make_config(kind), workdir)
    assert f"resumed {workdir} at step {step}/16" in capsys.readouterr().err
    assert_same_run(
        workdir, uninterrupted(kind), 16, extra={(step, "train")} - set(lines(uninterrupted(kind)))
    )
    before = json.loads((uninterrupted(kind) / "result.json").read_text())
    for key in ("ended", "steps", "best_step", "loss", "confusion"):
        assert result[key] == before[key]


def test_plateau_was_reached(uninterrupted):
    """Or the test above would not have tested it."""
    rates = {
        values["train/learning_rate"]
        for key, values in lines(uninterrupted("plateau")).items()
        if key[1] == "train"
    }
    assert len(rates) > 2


def test_signal_at_the_last_step_leaves_its_validation_to_the_next_call(
    tmp_path, uninterrupted, send, monkeypatch
):
    send(signal.SIGTERM, 16)
    assert main.run(make_config("vit"), tmp_path / "run") is None
    monkeypatch.undo()
    assert main.run(make_config("vit"), tmp_path / "run")["ended"] == "finished"
    assert_same_run(tmp_path / "run", uninterrupted("vit"), 16)


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_resumes_before_a_damaged_checkpoint(
    tmp_path, uninterrupted, send, monkeypatch, capsys, damage
):
    """Training goes on from the one before, comes by the damaged step again, and ends with the same
    bits."""
    send(signal.SIGTERM, 14)
    workdir = tmp_path / "run"
    main.run(make_config("vit"), workdir)
    monkeypatch.undo()
    file = max(
        (workdir / "checkpoints" / "14" / "state").rglob("*"),
        key=lambda p: p.stat().st_size * p.is_file(),
    )
    if damage == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    main.run(make_config("vit"), workdir)
    said = capsys.readouterr().err
    assert "checkpoint 14 is damaged" in said and "at step 12/16" in said
    assert_same_run(workdir, uninterrupted("vit"), 16)


def test_on_other_workers_and_logs(tmp_path, uninterrupted, send, monkeypatch):
    """What workdir.py allows to change on a resume changes no bit: here loaded instead of resident
    data."""
    send(signal.SIGTERM, 8)
    workdir = tmp_path / "run"
    main.run(make_config("vit"), workdir)
    monkeypatch.undo()
    c = make_config("vit")
    c.data.resident_gib = 0.0
    c.data.workers = 0
    c.compile_cache = ""
    main.run(c, workdir)
    assert_same_run(workdir, uninterrupted("vit"), 16)


def test_error_of_a_config_leaves_the_run_alone(uninterrupted, capsys):
    workdir = uninterrupted("vit")
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    config = pathlib.Path(__file__).parent.parent / "configs" / "vit_mnist5k.py"
    with pytest.raises(SystemExit) as exit_:
        cli.run(main.main, ["--config", str(config), "--workdir", str(workdir)])
    assert exit_.value.code == 2
    assert "data.source is 'digits' there, 'mnist5k' here" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before
