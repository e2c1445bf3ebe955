"""failed.json: written for an error, not for Ctrl-C."""

from vision.errors import RunError
from vision.run.failure import clear_failure, note_failure, read_failure
from vision.support.signals import Interrupted


def test_only_errors_are_failures(tmp_path):
    for end in (None, KeyboardInterrupt(), Interrupted()):
        note_failure(tmp_path, end, 3)
        assert read_failure(tmp_path) is None
    note_failure(tmp_path, RunError("the loss is no longer finite\nlook here"), 3)
    assert read_failure(tmp_path)["reason"] == "the loss is no longer finite look here"
    assert read_failure(tmp_path)["step"] == 3
    clear_failure(tmp_path)
    clear_failure(tmp_path)
    assert read_failure(tmp_path) is None
