"""Programs whose output nobody takes: it is closed, its reader has ended, its disk is full."""

import os
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent
PRINTS = "from vision import cli\n"
PRINTS += "def main(argv):\n    print('x' * 200_000)\n    open(argv[0], 'w').close()\n"


def shell(command, *arguments, **options):
    """Runs a shell command in which "$@" is this Python with the arguments."""
    line = ["bash", "-o", "pipefail", "-c", command, "bash", sys.executable, *arguments]
    return subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    "redirect", ['"$@" >&- 2>&-', '"$@" > /dev/full 2> /dev/full', '"$@" 2>&1 | head -c 1', '"$@"']
)
def test_a_command_whose_results_are_files_goes_on(redirect, tmp_path):
    code = PRINTS + "cli.run(main, outlives_output=True)"
    done = shell(redirect, "-c", code, str(tmp_path / "result"))
    assert done.returncode == 0 and done.stderr == "" and (tmp_path / "result").exists()


@pytest.mark.parametrize(
    "redirect, expected",
    [
        ('"$@" > /dev/full', "error: cannot write the output: No space left on device"),
        ('"$@" | head -c 1', ""),
        ('"$@" 2>&-', ""),
    ],
)
def test_another_command_ends_in_one_line(redirect, expected, tmp_path):
    done = shell(redirect, "-c", PRINTS + "cli.run(main)", str(tmp_path / "result"))
    assert done.stderr.startswith(expected) and len(done.stderr.splitlines()) == bool(expected)
    assert done.returncode == (0 if "2>&-" in redirect else 1)


def test_files_do_not_take_the_place_of_a_closed_stream(tmp_path):
    """Or what libraries print would end up in them."""
    code = "import os, sys\nfrom vision import cli\n"
    code += "def main(argv):\n    f = open(argv[0], 'w'); os.write(2, b'noise'); tqdm_needs = "
    code += "sys.stderr.isatty()\ncli.run(main)"
    done = shell('"$@" 2>&- <&-', "-c", code, str(tmp_path / "metrics"))
    assert done.returncode == 0 and (tmp_path / "metrics").read_text() == ""


def test_a_removed_working_directory_is_one_line(tmp_path):
    (tmp_path / "gone").mkdir()
    remove = f'cd "{tmp_path}/gone" && rmdir ../gone && "$@"'
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = shell(remove, "-m", "vision.data", "info", "digits", env=environment)
    assert done.returncode == 2 and done.stderr.startswith("error: the working directory was")


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        ("raise RunError('full')", 1, "error: full\n"),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", 143, ""),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", 130, ""),
    ],
)
def test_a_command_that_ends_early_does_not_wait_for_threads(end, code, message):
    program = "import os, signal, threading, time\nfrom vision import cli\n"
    program += "from vision.errors import RunError\ncli.LONGEST_END = 0.5\n"
    program += "def main(argv):\n    threading.Thread(target=time.sleep, args=(60,)).start()\n"
    program += f"    {end}\ncli.run(main)"
    done = shell('"$@"', "-c", program, timeout=30)
    assert done.returncode == code and done.stderr == message


def test_a_full_disk_behind_a_library_is_one_line(tmp_path):
    code = "from vision import cli\ndef main(argv):\n    try:\n"
    code += "        open('/dev/full', 'w').write('x')\n"
    code += "    except OSError as error:\n        raise ValueError('a page\\n' * 50) from error\n"
    code += "    with open('/dev/full', 'w') as f:\n        f.write('x')\ncli.run(main)"
    done = shell('"$@"', "-c", code)
    line = "error: cannot write the output: No space left on device; free some space and run"
    assert done.returncode == 1 and done.stderr.startswith(line)
