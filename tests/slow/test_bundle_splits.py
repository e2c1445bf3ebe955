"""A bundle knows the images of its run: every later stage uses exactly those."""

import json
import pathlib

import pandas as pd
import pytest

from tests.support.photo_run import draw, here, original
from vision import cli
from vision.bundle.directory import open_bundle
from vision.compression import quantize, report
from vision.evaluation import __main__ as evaluation
from vision.export import __main__ as export

__all__ = ["here", "original"]  # fixtures
QUICK = ("corruptions=false", "views=false", "probe=0", "map=none", "bootstrap=2", "slices=false")


def evaluate(out, *flags):
    """Returns the names of the images that were evaluated, below the folder."""
    quick = [f"--config.evaluation.{key}" for key in QUICK]
    cli.run(evaluation.main, [f"--out={out}", *quick, *flags])
    rows = pd.read_parquet(out / "predictions.parquet")
    return {"/".join(pathlib.Path(name).parts[-2:]) for name in rows["name"]}


def test_a_bundle_knows_the_images_of_its_run(here, capsys):
    """Evaluation, quantization and the report of a bundle use those that the run had."""
    for out, flag in (("bundle", "--splits"), ("unlisted", "--nosplits")):
        cli.run(export.main, ["--workdir=run", f"--out={out}", flag])
    assert not pathlib.Path("unlisted/splits.csv.gz").exists()
    expected = set(here["test"].names)
    removed = [here["train"].names[0], here["test"].names[-1]]
    for name in removed:
        pathlib.Path("photos", name).unlink()
    for number in range(100, 110):
        draw(pathlib.Path("photos"), "cat", number)
    capsys.readouterr()
    assert evaluate(pathlib.Path("e"), "--bundle=bundle") == expected - set(removed)
    missing = f"1 of test missing: {removed[1]}"
    assert missing in capsys.readouterr().out
    assert not evaluate(pathlib.Path("u"), "--bundle=unlisted") <= expected
    made = ["--bundle=bundle", "--out=small", "--max-drop=100", "--images=16"]
    capsys.readouterr()
    cli.run(quantize.main, made)
    assert missing in capsys.readouterr().out
    assert open_bundle("small").past.agrees(here)
    quality = json.loads(pathlib.Path("small/bundle.json").read_text())["quality"]
    assert quality["images"] == len(expected - set(removed))
    cli.run(report.main, ["bundle", "small", "unlisted", "--out=report"])
    output = capsys.readouterr().out
    assert f"since training of small began, {missing}" in output
    assert "unlisted and bundle are measured on different images" in output
    rows = json.loads(pathlib.Path("report/report.json").read_text())["models"]
    assert ["change" in row for row in rows] == [True, True, False]
    pathlib.Path("small/splits.csv.gz").write_bytes(b"other")
    with pytest.raises(SystemExit):
        evaluate(pathlib.Path("x"), "--bundle=small")
    assert "has changed since it was exported" in capsys.readouterr().err
