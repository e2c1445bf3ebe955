"""A profile that TensorBoard opens."""

import gzip
import json

from tests.training.test_loop import run, tiny


def test_profile_holds_the_training_steps(tmp_path, capsys):
    run(tiny(profile=True, train__steps=20, train__eval_every=20), tmp_path)
    assert "traced steps 6 to 15: tensorboard --logdir" in capsys.readouterr().err
    place = next((tmp_path / "tensorboard" / "plugins" / "profile").iterdir())
    assert list(place.glob("*.xplane.pb"))
    events = json.loads(gzip.decompress(next(place.glob("*.trace.json.gz")).read_bytes()))["traceEvents"]
    names = " ".join(event.get("name", "") for event in events)
    assert "_update" in names


def test_a_run_shorter_than_the_profile_writes_what_there_is(tmp_path):
    run(tiny(profile=True, train__steps=8), tmp_path)
    assert list((tmp_path / "tensorboard" / "plugins" / "profile").glob("*/*.xplane.pb"))
