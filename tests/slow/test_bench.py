"""Each benchmark from its command line, as small as it gets, and PyTorch's models where torch is
installed."""

import subprocess
import sys

import pytest

from scripts.bench import common, prediction_log

TINY = ("--variant", "mu/8", "--batch", "8")


def run(script, *arguments):
    """Runs a benchmark; returns its last line."""
    command = [sys.executable, "-m", f"scripts.bench.{script}", *map(str, arguments)]
    done = subprocess.run(command, cwd=common.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_the_loop_against_its_own_step(tmp_path):
    path = tmp_path / "train.csv"
    few = ("--images", 64, "--rounds", 2, "--steps", 8, "--warmup", 2, "--steps-per-dispatch", 2)
    last = run("train", *TINY, *few, "--against", "step", "--csv", path)
    (row,) = common.read_rows(path)
    assert last == f"ratio: {float(row['ratio']):.2f}"
    assert float(row["theirs_images_per_second"]) > 0


def test_options_against_the_defaults(tmp_path):
    few = ("--images", 16, "--rounds", 2, "--steps", 2)
    options = ("--xla-options", "xla_cpu_enable_fast_math=true")
    assert run("train", *TINY, *few, *options, "--against", "defaults", "--csv", "").startswith(
        "ratio: "
    )


def test_input_reads_real_photos(shared_data, tmp_path):
    path = tmp_path / "input.csv"
    few = ("--rounds", 1, "--batches", 2, "--batch", 8, "--image-size", 64, "--workers", 1)
    assert run(
        "input", "--data", shared_data / "imagenet_samples.tar", *few, "--csv", path
    ).startswith("ratio: ")
    rows = {row["what"]: row for row in common.read_rows(path)}
    bare = [f"{what} against bare decode" for what in ("feed", "feed of a pack")]
    assert list(rows) == ["decode", "feed", *bare] and {row["files"] for row in rows.values()} == {
        "200"
    }
    assert float(rows["decode"]["ratio"]) > 0.5  # the same libraries on both sides
    assert all(float(rows[what]["ratio"]) > 0 for what in bare)


@pytest.fixture(scope="module")
def bundle(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "bundle"
    command = [sys.executable, "-m", "vision.export", f"--workdir={tiny_run}", f"--out={out}"]
    subprocess.run(command, check=True)
    return out


def test_the_server_beside_the_bare_model(bundle, tmp_path):
    path = tmp_path / "load.csv"
    few = ("--seconds", 0.3, "--rounds", 1, "--clients", "1,4")
    run("serving", bundle, *few, "--csv", path)
    rows = common.read_rows(path)
    assert [row["clients"] for row in rows] == ["1", "4"]
    assert all(float(row["ratio"]) > 0 and row["failed"] == "0" for row in rows)


def test_what_the_prediction_log_costs(bundle, tmp_path):
    path = tmp_path / "prediction_log.csv"
    few = ("--seconds", 0.3, "--rounds", 2, "--turns", 1)
    last = run("prediction_log", bundle, *few, "--csv", path)
    assert last.startswith("throughput with the numbers over that without, by cpu_us: ")
    rows = common.read_rows(path)
    assert [row["server"] for row in rows] == [*prediction_log.SIDES]
    assert all(float(row["cpu_us"]) > 0 for row in rows)


def test_startup_measures_cold_and_warm(tmp_path):
    path = tmp_path / "startup.csv"
    last = run(
        "startup", "--config", "configs/vit_mnist5k.py:mu/7:smoke", "--runs", 1, "--csv", path
    )
    assert last.startswith("first step: ")
    cold, warm = common.read_rows(path)
    assert float(warm["compile_s"]) < float(cold["compile_s"])


def test_scaling_cuts_the_state(tmp_path):
    path = tmp_path / "scaling.csv"
    last = run("scaling", *TINY, "--devices", "2", "--rounds", 1, "--steps", 1, "--csv", path)
    assert 0.5 <= float(last.removeprefix("state: ")) < 1
    measured = [(row["batches"], row["state"]) for row in common.read_rows(path)]
    assert measured == [
        (batches, state) for batches in ("weak", "strong") for state in ("dp", "fsdp")
    ]


def test_airbench_runs_its_seeds(tmp_path):
    path = tmp_path / "airbench.csv"
    tiny = ("--config.model.variant=mu", "--config.data.source=mnist5k", "--config.data.channels=3")
    last = run(
        "airbench",
        "--config",
        "configs/airbench_cifar10.py:94:smoke",
        *tiny,
        "--seeds=2",
        f"--csv={path}",
    )
    assert last.startswith("airbench: ")
    assert [row["seed"] for row in common.read_rows(path)] == ["0", "1"]


def test_roofline_says_what_limits(tmp_path):
    path = tmp_path / "roofline.csv"
    run("roofline", "--only", "Ti", "--csv", path)
    assert [row["limit"] for row in common.read_rows(path)] == ["bytes", "FLOPs"]


@pytest.mark.parametrize(
    "model,variant,size", [("vit", "mu/8", 32), ("resnet", "cifar20", 16), ("resnet", "50", 32)]
)
def test_torch_has_the_same_model(model, variant, size):
    """Against eager PyTorch; that the parameters are as many is checked by the script."""
    pytest.importorskip("torch")
    few = ("--batch", 2, "--images", 4, "--rounds", 1, "--steps", 1, "--warmup", 1)
    flags = ("--model", model, "--variant", variant, "--image-size", size)
    assert run("train", *flags, *few, "--against", "torch", "--csv", "").startswith("ratio: ")


def test_an_epoch_and_answers_against_torch(tmp_path):
    pytest.importorskip("torch")
    model = ("--model", "resnet", "--variant", "cifar20", "--image-size", 16, "--rounds", 1)
    few = ("--batch", 4, "--images", 8, "--warmup", 1, "--workers", 1, "--loader-step", "torch")
    path = tmp_path / "train.csv"
    last = run("train", *model, *few, "--against", "epoch", "--csv", path)
    (row,) = common.read_rows(path)
    assert last.startswith("ratio: ") and (row["steps"], row["val_images"]) == ("2", "1")
    few = ("--classes", 10, "--batch", 2, "--seconds", 0, "--against", "onnx,torch")
    last = run("inference", *model, *few, "--csv", "")
    assert last.startswith("ratio to onnx: ") and ", ratio to torch: " in last


def test_a_suite_lists_its_commands_and_survives_a_row_that_cannot_run():
    script = common.ROOT / "scripts" / "bench" / "cpu.sh"
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([script, "--list"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "-m scripts.bench.train" in done.stdout, done.stderr
    only = [script, "--only", "ResNet-20, 32 px: torch", "--torch-python", "nowhere"]
    done = subprocess.run(only, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "skipped: error: --torch-python nowhere" in done.stdout
