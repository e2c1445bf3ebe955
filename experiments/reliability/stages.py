"""The commands that are killed, starved and interrupted, and how their results are compared."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable

import pyarrow.parquet as pq

from scripts.same_bits import outcome

REPOSITORY = pathlib.Path(__file__).parents[2]
CONFIG = "experiments/reliability/config.py"
LIMIT = 300  # seconds that a command may take
IMAGES = 180  # of the steel photographs


@dataclasses.dataclass(frozen=True)
class Stage:
    """A command, and what it writes.

    Attributes:
        name: of the row in the table.
        command: maps the directory to write to (str) to the command.
        fingerprint: maps the directory to what two runs must have in common.
        environment: further variables.
        prepare: fills the directory before the first call.
    """

    name: str
    command: Callable[[str], list[str]]
    fingerprint: Callable[[pathlib.Path], object]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    prepare: Callable[[pathlib.Path], object] | None = None


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit status.
        text: what it printed to stderr, the end of it.
        seconds: wall time.
    """

    code: int
    text: str
    seconds: float

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.text


def python(module, *arguments):
    return [sys.executable, "-m", module, *arguments]


def start(stage_environment, command):
    """Starts a command in a session of its own, so that all of it can be killed."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | stage_environment
    environment.pop("XLA_FLAGS", None)
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def wait(process, limit=LIMIT):
    """Returns how a process ended; it is killed after `limit` seconds."""
    began = time.monotonic()
    try:
        _, text = process.communicate(timeout=limit)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        _, text = process.communicate()
        code = -999
    return Ended(code, text[-6000:], time.monotonic() - began)


def finish(stage, out):
    """Runs a stage's command to its end."""
    began = time.monotonic()
    ended = wait(start(stage.environment, stage.command(str(out))))
    return dataclasses.replace(ended, seconds=time.monotonic() - began)


def finish_undisturbed(stage, out):
    """Runs a stage's command to its end in a new directory, with all that it needs compiled."""
    for _ in range(2):  # the first call may have to compile
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        if stage.prepare:
            stage.prepare(out)
        ended = finish(stage, out)
        if ended.code:
            raise SystemExit(f"{stage.name} fails without an interruption: {ended.text}")
    return ended


def is_gone(session, seconds):
    """Whether all processes of a session end within some seconds."""
    ends = time.monotonic() + seconds
    while _is_alive(session):
        if time.monotonic() > ends:
            return False
        time.sleep(0.1)
    return True


def _is_alive(session):
    """Whether a process of a session is left, other than zombies."""
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            return True
    return False


def listing(out):
    """Returns the sorted names of all files of a directory; a checkpoint's arrays count as one."""
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    # Orbax gives its files of arrays random names.
    return sorted({re.sub(r"(checkpoints/\d+/state)/.*", r"\1", name) for name in names})


def run_fingerprint(out):
    """Returns numbers and checksums of a run directory."""
    return outcome(out)


def pruned_fingerprint(out):
    """Returns the checksums of a pruned run's weights, and its shapes."""
    checksums = {
        str(file.relative_to(out)): json.loads(file.read_text())["arrays"]
        for file in out.glob("checkpoints/*/record/metadata")
    }
    return checksums | {"config": json.loads((out / "config.json").read_text())["model"]}


def files_fingerprint(out, ignored=()):
    """Returns {name: SHA-256} of a directory's files; of JSON without dates, times and `out`."""
    digests = {}
    for name in listing(out):
        if name.endswith(tuple(ignored)):
            continue
        content = (out / name).read_bytes()
        if name.endswith(".json"):
            text = json.dumps(_timeless(json.loads(content)), sort_keys=True)
            content = text.replace(str(out), "OUT").encode()
        if name.endswith(".parquet"):
            content = str(pq.read_table(out / name).to_pydict()).encode()
        digests[name] = hashlib.sha256(content).hexdigest()
    return digests


def _timeless(value):
    if isinstance(value, dict):
        return {
            k: _timeless(v)
            for k, v in value.items()
            if not any(word in k for word in ("date", "seconds", "sha256", "created", "per_second"))
        }
    if isinstance(value, list):
        return [_timeless(v) for v in value]
    return value


def unpack_steel(tar, folder):
    """Sorts part of the steel photographs into class folders, once."""
    if folder.is_dir():
        return
    temporary = folder.with_name(folder.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    with tarfile.open(tar) as archive:
        members = [m for m in archive.getmembers() if m.name.lower().endswith(".jpg")]
        for member in members[:: len(members) // IMAGES]:
            name = pathlib.Path(member.name).name
            place = temporary / name.rsplit("_", 1)[0] / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(archive.extractfile(member).read())
    temporary.rename(folder)


def prepare(work, tar):
    """Makes what the stages read: photographs, a pack of them, and a finished run."""
    work.mkdir(parents=True, exist_ok=True)
    photos = work / "photos"
    unpack_steel(tar, photos)
    ready = {
        work / "pack" / "manifest.json": python(
            "vision.data", "pack", f"folder:{photos}", str(work / "pack")
        ),
        work / "trained" / "result.json": train(f"loaded:{photos}", work / "trained"),
        work / "bundle" / "bundle.json": python(
            "vision.export", "--workdir", str(work / "trained"), "--out", str(work / "bundle")
        ),
    }
    for file, command in ready.items():
        if not file.is_file():
            ended = wait(start({}, command))
            if ended.code:
                raise SystemExit(f"preparing {file} failed: {ended.text}")


def train(kind, out):
    return python("vision.main", "--config", f"{CONFIG}:{kind}", "--workdir", str(out))


def stages(work):
    """Returns {name: Stage} of every command that writes."""
    photos = work / "photos"
    run = work / "trained"
    pack = python("vision.data", "pack", f"folder:{photos}")
    pack_flags = ["--shard-mib", "1", "--workers", "2"]
    local = [str(REPOSITORY / "scripts/launch/local"), "2", f"{CONFIG}:resident"]
    prune = python("vision.compression.prune", "--workdir", str(run), "--ratio", "0.3")
    audit = python("vision.audit", "--data", f"folder:{photos}", "--apply")
    evaluation = python("vision.evaluation", "--workdir", str(run))
    evaluation.append("--config.evaluation.corruptions=false")
    volatile = (".html", ".tsv")
    everything = [
        Stage("train, resident", lambda out: train("resident", out), run_fingerprint),
        Stage("train, loaded", lambda out: train(f"loaded:{photos}", out), run_fingerprint),
        Stage("train, packed", lambda out: train(f"packed:{work / 'pack'}", out), run_fingerprint),
        Stage("train, 2 processes", lambda out: [*local, "--workdir", out], run_fingerprint),
        Stage("pack", lambda out: [*pack, out, *pack_flags], files_fingerprint),
        Stage(
            "audit",
            lambda out: [*audit, "--out", out],
            lambda out: files_fingerprint(out, volatile),
        ),
        Stage(
            "export",
            lambda out: python("vision.export", "--workdir", str(run), "--out", out),
            files_fingerprint,
        ),
        Stage(
            "export over a bundle",
            lambda out: python("vision.export", "--workdir", str(run), "--out", out),
            files_fingerprint,
            prepare=lambda out: shutil.copytree(work / "bundle", out),
        ),
        Stage("prune", lambda out: [*prune, "--out", out], pruned_fingerprint),
        Stage(
            "evaluation",
            lambda out: [*evaluation, "--out", out],
            lambda out: files_fingerprint(out, volatile),
        ),
    ]
    return {stage.name: stage for stage in everything}
