"""What a run writes: metrics.jsonl without gaps or repeats, TensorBoard events, the picture of a
batch."""

import json
import os

import numpy as np
import pytest

from vision.config import default
from vision.training.log import RunLog, grid


def open_log(workdir, start=0, **changes):
    c = default().log
    c.tensorboard = False
    c.update(changes)
    return RunLog(workdir, c, start, steps=10)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def read_events(workdir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(
        str(workdir / "tensorboard"), size_guidance={"scalars": 0, "images": 0}
    ).Reload()


def numbers(step):
    return {"loss": 1 / step, "learning_rate": 0.1, "images_per_second": 1.0}


TAILS = ["", '{"step": 4, "train/lo', '{"step": 4}', "\x00\x00\x00", "3\n", "[]\n", '{"a": 1}\n']


def test_what_goes_wrong_while_writing_is_raised(tmp_path):
    """Such as a full disk: at the next flush, and nothing is written after it."""
    log = open_log(tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._file._handle)
    os.close(full)
    log.train(1, numbers(1))
    log.train(2, numbers(2))
    with pytest.raises(OSError, match="No space left on device") as caught:
        log.flush()
    assert caught.value.filename == str(tmp_path / "metrics.jsonl")
    log.close()
    assert lines(tmp_path) == []


@pytest.mark.parametrize("tail", TAILS)
def test_lines_after_the_checkpoint_are_dropped(tmp_path, tail):
    """As are half-written ones, and what a crash of the machine leaves."""
    log = open_log(tmp_path)
    for step in (1, 2, 3):
        log.train(step, numbers(step))
    log.evaluation(3, {"val/loss": 2.0})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(tail)
    log = open_log(tmp_path, start=2)
    log.train(3, numbers(3))
    log.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    assert lines(tmp_path)[0] == {"step": 1} | {
        f"train/{name}": value for name, value in numbers(1).items()
    }


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\xff\xfe\n')
    open_log(tmp_path, start=5).close()
    assert lines(tmp_path) == [{"step": 1}]


def test_a_damaged_line_costs_no_other(tmp_path, capsys):
    content = b'{"step": 1}\n\x00\x00{"st\n{"step": true}\n[[[\n{"step": 2}\n{"step": 3}'
    (tmp_path / "metrics.jsonl").write_bytes(content)
    open_log(tmp_path, start=3).close()
    assert lines(tmp_path) == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert "metrics.jsonl: 3 damaged lines are left out" in capsys.readouterr().err


@pytest.mark.parametrize(("repeats", "left"), [(False, 4), (True, 3)])
def test_an_evaluation_that_is_repeated_has_one_line(tmp_path, repeats, left):
    values = [{"step": 1, "val/loss": 3}, {"step": 2, "loss": 2}, {"step": 2}]
    values.insert(2, {"step": 2, "val/loss": 2.5})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(v) + "\n" for v in values))
    RunLog(tmp_path, default().log, 2, 10, repeats=repeats).close()
    assert len(lines(tmp_path)) == left
    assert ({"step": 2, "val/loss": 2.5} in lines(tmp_path)) is not repeats


def test_values_that_are_no_numbers_are_valid_json(tmp_path):
    log = open_log(tmp_path)
    log.evaluation(1, {"val/loss": float("nan"), "val/accuracy": 0.5})
    log.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "step": 1,
        "val/loss": None,
        "val/accuracy": 0.5,
    }


def test_each_line_is_on_the_disk_after_a_flush(tmp_path):
    """A kill may come at any moment after a checkpoint, before which the loop flushes."""
    log = open_log(tmp_path)
    log.train(1, numbers(1))
    log.flush()
    assert len(lines(tmp_path)) == 1
    log.close()


def test_inactive_hosts_write_and_show_nothing(tmp_path, capsys):
    log = RunLog(tmp_path, default().log, 0, 10, active=False)
    log.print_line("hello")
    log.train(1, numbers(1))
    log.evaluation(1, {"val/loss": 1.0})
    log.images(1, np.zeros((1, 2, 2, 1)))
    log.text("name", "text")
    log.advance(1)
    log.close()
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("progress", [True, False])
def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys, progress):
    log = open_log(tmp_path, progress=progress)
    for step in range(1, 100):
        log.advance(step)
        log.train(step, numbers(step))  # one line each ten seconds at most: so none here
    log.evaluation(99, {"val/loss": 1.0, "val/accuracy": 0.5})
    log.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == ("step 99/10: val loss 1.0000, accuracy 0.5000\n" if progress else "")


def test_tensorboard_reads_what_was_written(tmp_path):
    log = open_log(tmp_path, tensorboard=True)
    log.text("parameters", "kernel | 3\nbias | 4")
    log.images(0, np.full((5, 4, 6, 1), 128.0))
    for step in (1, 2):
        log.train(step, numbers(step))
    log.close()
    events = read_events(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
    picture = events.Images("train/augmented")[0]
    assert (picture.height, picture.width) == (2 * 6, 3 * 8)
    text = events.Tensors("parameters/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "kernel | 3" in text and "bias | 4" in text


def test_tensorboard_forgets_what_a_resumed_run_does_again(tmp_path):
    """The steps after the checkpoint come once, from the second process; those up to it stay."""
    log = open_log(tmp_path, tensorboard=True)
    for step in (1, 2, 3, 4):
        log.scalars(step, {"val/loss": float(step)})
    log.close()
    log = open_log(tmp_path, start=2, tensorboard=True)
    for step in (3, 4):
        log.scalars(step, {"val/loss": 10.0 * step})
    log.close()
    losses = [(e.step, e.value) for e in read_events(tmp_path).Scalars("val/loss")]
    assert losses == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]


def test_tensorboard_forgets_a_run_that_had_no_checkpoint(tmp_path):
    for value in (1.0, 2.0):
        log = open_log(tmp_path, tensorboard=True)
        log.scalars(1, {"val/loss": value})
        log.close()
        (file,) = (tmp_path / "tensorboard").glob("*.0")
        # two processes do not start in the same second
        file.rename(file.with_name(f"{file.name}-{value:.0f}"))
    assert [e.value for e in read_events(tmp_path).Scalars("val/loss")] == [2.0]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 4, 6, 3), (6, 8, 3)),
        ((2, 4, 6, 1), (6, 16, 3)),
        ((5, 4, 4, 3), (12, 18, 3)),
        ((16, 8, 8, 1), (40, 40, 3)),
    ],
)
def test_grid(shape, expected):
    images = np.random.RandomState(0).uniform(-20, 300, shape)
    picture = grid(images)
    assert picture.shape == expected and picture.dtype == np.uint8
    height, width = shape[1:3]
    shown = np.broadcast_to(np.clip(np.rint(images[0]), 0, 255), (height, width, 3))
    np.testing.assert_array_equal(picture[1 : 1 + height, 1 : 1 + width], shown)
    assert (picture[0] == 255).all() and (picture[:, 0] == 255).all()
