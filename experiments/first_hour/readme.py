"""Runs README.md from top to bottom in a fresh clone, as somebody who has just found it.

    python -m experiments.first_hour.readme --photos photos --workdir ~/first_hour
    python -m experiments.first_hour.readme --photos photos --workdir ~/first_hour --only export
    python -m experiments.first_hour.readme --table         # only fill the table once more

The clone has no .venv, and the commands get an empty home directory (so no caches of compiled
programs or of pip), no PYTHONPATH and no activated environment until README activates one. They run
under a terminal of 100 columns. `FULL` names the trainings that run to their end; the others run
with `:smoke`, which the table says. The same call goes on where an earlier one has stopped, and
repeats what has failed; --only repeats commands with this in their text. Exit code 1 if a command
has failed.
"""

import argparse
import datetime
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

from experiments.first_hour.commands import Step, read_steps
from experiments.first_hour.machine import megabytes, processor
from experiments.first_hour.photos import read_photos
from experiments.first_hour.silence import observe
from experiments.readme import fill
from experiments.table import read_rows, write_rows
from vision import cli
from vision.errors import RunError, UserError
from vision.support import progress

HERE = pathlib.Path(__file__).parent
REPOSITORY = HERE.parent.parent
RESULTS = HERE / "readme.csv"
COLUMNS = (
    *("section", "command", "ran", "exit_code", "seconds", "cpu_seconds", "longest_gap"),
    *("before_gap", "disk_mb", "load", "device", "date", "commit"),
)
# Besides ./scripts/train, which names no config. configs/incremental.py needs the image size of the
# run that it continues, which `:smoke` would change.
FULL = ("train photos", "my_idea", "configs/digits.py", "configs/incremental.py")
NOT_RUN = {
    "pip install": "the packages of ./scripts/setup dev in another environment",
    "fixmatch_fashion_mnist": "downloads Fashion-MNIST",
    "skin.csv": "needs a table with ages and sites, which photos do not make",
    " WORD": "a placeholder",
    "./scripts/test": "the tests run by themselves",
}
TIMEOUT = 86_400  # seconds of a command, however busy the machine is
ANSWERED = 1800  # seconds until a server must answer
NEW_CLASS = 12  # copies of photos that stand for new ones
WINDOW = 1000  # rows that vision.monitoring.drift compares by default: a log needs as many
SERVER = """
{command} &
server=$!
answered=1
for ((second = 0; second < {most}; second++)); do
  python -m vision.serving.client http://127.0.0.1:8080 {photos} 2>/dev/null && answered=0 && break
  kill -0 $server || break
  sleep 1
done
kill $server
wait $server && exit $answered
"""
GAN = "python -m vision.main --config configs/gan_folder.py:photos:smoke --workdir runs/gan"
LOGGING = "python -m vision.serving --models models/ --prediction-log predictions"
# {what README's commands read and none of them writes: the command that makes it}
PREPARATIONS = {"runs/gan": GAN, "predictions": LOGGING}


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--photos", type=pathlib.Path, help="folder of a folder for each class")
    p.add_argument("--captions", type=pathlib.Path, help="openclipart.parquet")
    p.add_argument("--workdir", type=pathlib.Path, help="a new folder; 5 GB")
    p.add_argument("--only", default="", help="commands with this in their text")
    p.add_argument("--table", action="store_true", help="fill the table, run nothing")
    a = p.parse_args(argv)
    if not a.table:
        if a.photos is None or a.workdir is None:
            raise UserError("give --photos and --workdir, or --table")
        read_photos(a.photos)
        reader = Reader(a.workdir.absolute(), a.photos.absolute(), a.captions)
        for step in read_steps((reader.checkout / "README.md").read_text()):
            if reader.has_done(step) and not a.only:
                continue
            row = reader.follow(step, a.only)
            if row is not None:
                write(row)
    rows = read_rows(RESULTS)
    write_table(rows)
    failed = [row["command"] for row in rows if row["exit_code"] not in ("", "0")]
    if failed:
        raise RunError("failed: " + "; ".join(failed))


class Reader:
    """Somebody who follows README in a clone of their own.

    Attributes:
        checkout: the clone.
    """

    def __init__(self, workdir: pathlib.Path, photos: pathlib.Path, captions: pathlib.Path | None):
        self.checkout = workdir / "vision"
        self._workdir = workdir
        self._active = ""
        self._environment = _plain_environment(workdir / "home")
        (workdir / "home").mkdir(parents=True, exist_ok=True)
        if not self.checkout.is_dir():
            self._clone(photos, captions)

    def _clone(self, photos, captions):
        """Makes the checkout with the photos, or nothing if it is stopped."""
        hidden = self._workdir / ".vision"
        shutil.rmtree(hidden, ignore_errors=True)
        subprocess.run(["git", "clone", "--quiet", f"file://{REPOSITORY}", str(hidden)], check=True)
        shutil.copytree(photos, hidden / "photos")
        pictures = read_photos(photos)
        shutil.copy(pictures[0], hidden / "new.jpg")
        new_class = hidden / "new_photos" / "new"
        new_class.mkdir(parents=True)
        for picture in pictures[:NEW_CLASS]:
            shutil.copy(picture, new_class)
        if captions is not None:
            shutil.copy(captions, hidden / "openclipart.parquet")
        hidden.rename(self.checkout)

    def has_done(self, step: Step) -> bool:
        """Returns whether a command has ended well in this clone: another one lacks its results."""
        file = self._workdir / "done"
        return file.is_file() and step.text in file.read_text().splitlines()

    def follow(self, step: Step, only: str) -> dict[str, object] | None:
        """Writes the file or runs the command of a step.

        Returns:
            The row of the results, or None if there is nothing to report.
        """
        if step.path:
            file = self.checkout / step.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(step.text)
            return None
        if step.text.startswith("source "):
            self._active = f"{step.text} && "
            return None
        if only not in step.text:
            return None
        row = {"section": step.section, "command": step.text}
        reason = next((why for words, why in NOT_RUN.items() if words in step.text), "")
        if "openclipart" in step.text and not (self.checkout / "openclipart.parquet").exists():
            reason = "needs --captions"
        if reason:
            return row | {"ran": f"not run: {reason}"}
        failed = self._prepare(step.text)
        if failed:
            return row | failed
        shown = shortened(step.text)
        measured = self._run(shown)
        if not measured["exit_code"]:
            with (self._workdir / "done").open("a") as file:
                print(step.text, file=file)
        return row | measured | {"ran": "" if shown == step.text else shown}

    def _prepare(self, command: str) -> dict[str, object]:
        """Makes what a command reads and no command of README writes.

        Returns:
            What is recorded of the preparation if it failed, else {}.
        """
        for name, preparation in PREPARATIONS.items():
            done = self._workdir / "prepared" / name
            if name not in command or done.exists():
                continue
            # What a stopped call has left is not all that the command needs.
            shutil.rmtree(self.checkout / name, ignore_errors=True)
            measured = self._run(preparation)
            if measured["exit_code"]:
                return measured | {"ran": f"{preparation} (before {command})"}
            done.parent.mkdir(parents=True, exist_ok=True)
            done.touch()
        return {}

    def _run(self, command: str) -> dict[str, object]:
        print("$", command, flush=True)
        load = os.getloadavg()[0]
        before = megabytes(self._workdir)
        with progress.waiting("running it"):
            seen = self._observe(command)
        (self._workdir / "log").open("a").write(f"$ {command}\n{seen.output}\n")
        if seen.exit_code:
            print(seen.output[-4000:], flush=True)
        return {
            "exit_code": seen.exit_code,
            "seconds": round(seen.seconds, 1),
            "cpu_seconds": round(seen.cpu_seconds, 1),
            "longest_gap": round(seen.longest_gap, 1),
            "before_gap": _last_line(seen.before_gap.replace(str(self._workdir), "~")),
            "disk_mb": megabytes(self._workdir) - before,
            "load": round(load, 1),
            "device": processor(),
            "date": datetime.date.today().isoformat(),
            "commit": self._commit(),
        }

    def _observe(self, command):
        text = command
        if "vision.serving" in command:
            shown = " ".join(["photos/*/*.jpg"] * self._rounds(command))
            text = SERVER.format(command=command, most=ANSWERED, photos=shown)
        script = f"{self._active}true\n{text}"
        return observe(
            ["bash", "-c", script],
            terminal=True,
            timeout=TIMEOUT,
            cwd=self.checkout,
            env=self._environment,
        )

    def _rounds(self, command):
        """Returns how often a server gets all photos: a log needs a window of drift."""
        if "--prediction-log" not in command:
            return 1
        return -(-WINDOW // len(list(self.checkout.glob("photos/*/*.jpg"))))

    def _commit(self):
        words = ["git", "-C", str(self.checkout), "rev-parse", "--short", "HEAD"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def shortened(command: str) -> str:
    """Returns a command whose training ends within seconds, unless `FULL` names it."""
    if any(words in command for words in FULL) and "search" not in command:
        return command
    command = re.sub(r"--trials \d+", "--trials 2", command)
    return re.sub(r"(?<=\s)(configs/\w+\.py[^\s]*)", r"\1:smoke", command)


def _plain_environment(home):
    """Returns the environment of a new user: pip's settings of this machine, and little else."""
    paths = os.environ["PATH"].split(os.pathsep)
    own = os.path.dirname(sys.executable)
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    path = os.pathsep.join(path for path in paths if path != own)
    return kept | {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", "TERM": "xterm"}


def _last_line(text):
    """Returns what is left of a line once a terminal has obeyed its control characters."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).strip()[-100:]


def write(row: dict[str, object]) -> None:
    """Puts a row into readme.csv, in the place of the one of the same command."""
    rows: list[dict[str, object]] = [dict(old) for old in read_rows(RESULTS)]
    places = [i for i, old in enumerate(rows) if old["command"] == row["command"]]
    if places:
        rows[places[0]] = row
    else:
        rows.append(row)
    write_rows(RESULTS, COLUMNS, rows)


def write_table(rows: list[dict[str, str]]) -> None:
    """Fills the table of README.md beside this file."""
    lines = [
        "| command | exit code | CPU s | s | longest silence, s | after | disk, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        command = f"`{row['ran'] or row['command']}`"
        if row["ran"].startswith("not run"):
            lines.append(f"| `{row['command']}` | {row['ran']} | | | | | |")
            continue
        after = re.sub(r"\s*\|[█▏▎▍▌▋▊▉ ]*\|?$", "", row["before_gap"])  # a progress bar
        after = after.replace("|", "\\|") or "the beginning"
        numbers = (row["cpu_seconds"], row["seconds"], row["longest_gap"], after, row["disk_mb"])
        lines.append(f"| {command} | {row['exit_code']} | " + " | ".join(numbers) + " |")
    fill(HERE / "README.md", lines, "readme")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    cli.run(main)
