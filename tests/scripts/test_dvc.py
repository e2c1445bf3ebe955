"""What DVC is told: files that exist, parameters that are used, and a run's numbers as they are."""

import csv
import json
import re
import shlex

import pytest
import yaml
from absl import flags

from scripts.dvc import plots
from tests.conftest import REPOSITORY
from vision import cli
from vision.monitoring import collect

FOLDER = REPOSITORY / "scripts" / "dvc"


def test_a_run_becomes_tables(tiny_run, tmp_path):
    cli.run(plots.main, [str(tiny_run), str(tmp_path / "plots")])
    result = json.loads((tiny_run / "result.json").read_text())
    tables = {}
    for name in ("train", "val", "confusion"):
        with open(tmp_path / "plots" / f"{name}.csv") as file:
            tables[name] = list(csv.DictReader(file))
    right = [row["actual"] == row["predicted"] for row in tables["confusion"]]
    assert len(right) == result["split_sizes"]["test"] and sum(right) / len(right) == pytest.approx(
        result["accuracy"]
    )
    assert (
        json.loads((tmp_path / "plots" / "test.json").read_text())["accuracy"] == result["accuracy"]
    )
    lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    for split in ("train", "val"):
        expected = [
            (line["step"], line[f"{split}/loss"]) for line in lines if f"{split}/loss" in line
        ]
        assert [
            (int(row["step"]), float(row["loss"])) for row in tables[split]
        ] == expected and expected
    assert all(
        value for split in ("train", "val") for row in tables[split] for value in row.values()
    )


@pytest.mark.parametrize("words", [[], ["none", "out"]])
def test_a_mistake_is_named(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.run(plots.main, words)
    assert (
        ended.value.code == 2
        and capsys.readouterr().err.startswith("error: ")
        and not list(tmp_path.iterdir())
    )


@pytest.mark.parametrize("folder", [".", "circle"])
def test_the_pipeline_s_stages_hang_together(folder):
    text = (FOLDER / folder / "dvc.yaml").read_text()
    pipeline = yaml.safe_load(text)
    params = yaml.safe_load((FOLDER / folder / "params.yaml").read_text())
    used = {tuple(name.split(".")) for name in re.findall(r"\$\{([\w.]+)\}", text)}
    given = {
        (group, key) for group, keys in params.items() if isinstance(keys, dict) for key in keys
    } | {("python",)}
    assert used == given
    made = set()
    for stage in pipeline["stages"].values():
        for dependency in stage["deps"]:
            assert dependency in made or "$" in dependency or (REPOSITORY / dependency).exists(), (
                dependency
            )
        metrics = [name for metric in stage.get("metrics", ()) for name in metric]
        outs = [out if isinstance(out, str) else next(iter(out)) for out in stage["outs"]]
        made |= {*outs, *metrics}
        named = {next(iter(group)) for group in stage.get("params", ())}
        assert all((REPOSITORY / file).is_file() for file in named)
    for plot in pipeline.get("plots", ()):
        for axes in plot.values():
            assert {path.removeprefix("../../") for path in axes["x"]} <= made


@pytest.mark.parametrize("earlier", ["", "collections/round-1,collections/round-2"])
def test_a_round_of_the_circle_leaves_out_what_earlier_ones_collected(earlier):
    stages = yaml.safe_load((FOLDER / "circle" / "dvc.yaml").read_text())["stages"]
    params = yaml.safe_load((FOLDER / "circle" / "params.yaml").read_text())
    params["collect"]["earlier"] = earlier

    def value(match):
        part = params
        for key in match[1].split("."):
            part = part[key]
        return str(part)

    command = shlex.split(re.sub(r"\$\{([\w.]+)\}", value, stages["collect"]["cmd"]))
    values = flags.FlagValues()
    collect._flags(values)
    values(command[2:])
    assert values.earlier == earlier and values.seed == 1 and values.count == 200
