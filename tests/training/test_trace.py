"""A profile that TensorBoard opens."""

import gzip
import json

import pytest

from tests.training.runs import run, tiny

pytestmark = pytest.mark.long


def test_profile_holds_the_training_steps(tmp_path, capsys):
    run(tiny(profile=True, train__steps=20, train__eval_every=20), tmp_path)
    assert "traced steps 6 to 15: tensorboard --logdir" in capsys.readouterr().err
    place = next((tmp_path / "tensorboard" / "plugins" / "profile").iterdir())
    assert list(place.glob("*.xplane.pb"))
    events = json.loads(gzip.decompress(next(place.glob("*.trace.json.gz")).read_bytes()))[
        "traceEvents"
    ]
    names = " ".join(event.get("name", "") for event in events)
    assert "_update" in names
    spans = [e for e in events if e.get("ph") == "X"]
    traced = max(e["ts"] + e["dur"] for e in spans) - min(e["ts"] for e in spans)
    runs = [
        e
        for e in spans
        if e["name"].startswith("jit__update") or "ThunkExecutor::Execute" in e["name"]
    ]
    print(traced, len(runs), sorted({e["name"] for e in spans})[:80])


@pytest.mark.parametrize("steps", [4, 8])
def test_a_run_shorter_than_the_profile_says_so_or_writes_what_there_is(tmp_path, capsys, steps):
    run(tiny(profile=True, train__steps=steps), tmp_path)
    written = list((tmp_path / "tensorboard" / "plugins" / "profile").glob("*/*.xplane.pb"))
    shown = capsys.readouterr().err
    assert bool(written) == (steps == 8) == ("traced steps 6" in shown)
    assert ("no profile: the run ended before call 6" in shown) == (steps == 4)
