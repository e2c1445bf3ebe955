"""How commands end: exit codes, tracebacks, Ctrl-C, and names that are not text."""

import os
import subprocess
import sys

import pytest

from vision import cli
from vision.errors import RunError, UserError


@pytest.mark.parametrize("error, code", [(UserError("yours"), 2), (RunError("its"), 1)])
@pytest.mark.parametrize("show", [False, True])
def test_exit_codes_and_traceback(error, code, show, capsys):
    def command(argv):
        assert argv == ["a"]
        raise error

    with pytest.raises(SystemExit) as ended:
        cli.run(command, ["a", "--traceback"] if show else ["a"])
    err = capsys.readouterr().err
    assert ended.value.code == code and err.splitlines()[-1] == f"error: {error}"
    assert ("Traceback (most recent call last)" in err) == show


def test_an_error_of_the_code_is_not_hidden():
    def command(argv):
        raise KeyError("a fault of ours")

    with pytest.raises(KeyError):
        cli.run(command, [])


def test_control_c_ends_with_130():
    def command(argv):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        cli.run(command, [])
    assert ended.value.code == 130


def test_a_name_that_is_no_text_is_shown(tmp_path):
    """File names are bytes, for example of a Latin-1 archive; stdout may accept only UTF-8."""
    code = (
        "import os; from vision import cli\n"
        "cli.run(lambda _: print(os.fsdecode(b'caf\\xe9.jpg')), [])"
    )
    env = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "caf\\udce9.jpg\n", done.stderr
