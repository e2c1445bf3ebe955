"""The checks of `vision doctor`, each of which survives what it finds broken.

Only the standard library is imported, because any package may be missing.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from vision.errors import brief
from vision.stages import stages
from vision.support.accelerator import has_nvidia_driver
from vision.support.extras import CHECKOUT, MODULES, is_missing, packages, packages_of, remedy
from vision.support.processes import bound, cores

OK = "ok"
NOTE = "note"  # something is missing, but training works
BAD = "bad"  # training does not work
MAIN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
OWN = ("dev", "bench")  # extras of who develops this package
DEVICE_TIMEOUT = 120  # seconds; importing JAX takes some 2 s, on a busy machine 20
LITTLE_DISK = 2.0  # GiB: a run of a small model is some 100 MB
LITTLE_MEMORY = 3.0
LITTLE_SHARED = 0.5
COMPILE_CACHE = "~/.cache/vision/xla"  # the default of the key compile_cache


class Check(NamedTuple):
    """What one check has shown.

    Attributes:
        section: heading under which it is printed.
        name: what was looked at.
        state: OK, NOTE or BAD.
        text: what it is like.
        remedy: what to do about it; "" if there is nothing to do.
    """

    section: str
    name: str
    state: str
    text: str
    remedy: str = ""


def examine() -> Iterator[Check]:
    """Yields the result of every check, as soon as it is known."""
    parts: tuple[Callable[[], Iterator[Check]], ...] = (
        _python,
        _packages,
        _devices,
        _extras,
        _stages,
        _caches,
        _room,
    )
    for part in parts:
        yield from part()


def _python() -> Iterator[Check]:
    version = platform.python_version()
    text = f"{version} on {platform.system()} {platform.machine()}, {sys.executable}"
    if sys.version_info >= (3, 14):
        yield Check("Python", "python", NOTE, text, "tested with Python 3.11, 3.12 and 3.13")
    else:
        yield Check("Python", "python", OK, text)
    where = f"checkout {CHECKOUT}" if _is_checkout() else f"installed in {CHECKOUT}"
    yield Check("Python", "vision", OK, f"{_version('vision') or 'not installed'}, {where}")


def _packages() -> Iterator[Check]:
    """Yields the versions of what training needs, compared with those that are tested."""
    names = packages("") or list(MAIN)
    missing = _lacking(names)
    pins = _pins()
    for name in MAIN:
        version = _version(name)
        if not version:
            continue
        pin = pins.get(name, version)
        state = OK if pin == version else NOTE
        text = version if pin == version else f"{version}, but {pin} is the tested version"
        hint = "" if pin == version else f"pip install {name}=={pin}"
        yield Check("Packages", name, state, text, hint)
    others = [name for name in names if name not in MAIN and name not in missing]
    if others:
        yield Check("Packages", "others", OK, f"{len(others)} more training packages are installed")
    if missing:
        command = "./scripts/setup" if _is_checkout() else remedy(missing)
        yield Check("Packages", "missing", BAD, ", ".join(missing), command)


def _error_in(lines: list[str]) -> str:
    """Returns what a command that failed says: its message, or else its last line."""
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else f"JAX cannot compute: {lines[-1]}"


def _devices() -> Iterator[Check]:
    """Yields what JAX computes on, as another process finds it."""
    command = [sys.executable, "-m", "vision.doctor.devices"]
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}
    try:
        done = subprocess.run(
            bound(command),
            capture_output=True,
            text=True,
            timeout=DEVICE_TIMEOUT,
            env=environment,
        )
        lines = done.stdout.splitlines() or [""]
        report = json.loads(lines[-1]) if not done.returncode else None
    except subprocess.TimeoutExpired:
        text = f"JAX computed nothing within {DEVICE_TIMEOUT} s"
        yield Check("Devices", "devices", BAD, text, "JAX_PLATFORMS=cpu avoids a hung driver")
        return
    except (OSError, ValueError) as error:
        yield Check("Devices", "devices", BAD, f"JAX cannot be tested: {brief(error)}")
        return
    if report is None:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        yield Check("Devices", "devices", BAD, _error_in(lines))
        return
    counted = {name: report["devices"].count(name) for name in report["devices"]}
    text = ", ".join(f"{count} x {name}" for name, count in counted.items())
    text += f"; a gradient after {report['seconds']} s, including the import of JAX"
    unused_gpu = report["backend"] == "cpu" and has_nvidia_driver()
    hint = "this machine has an NVIDIA driver: ./scripts/setup cuda12" if unused_gpu else ""
    yield Check("Devices", "devices", NOTE if unused_gpu else OK, text, hint)
    if report["onednn"]:
        is_fast = report["onednn"] == "with oneDNN"
        hint = "" if is_fast else "convolutions are slower: ./scripts/setup cpu"
        yield Check("Devices", "oneDNN", OK if is_fast else NOTE, report["onednn"], hint)


def _extras() -> Iterator[Check]:
    """Yields which extras are complete, and what the others lack."""
    if not packages(""):
        text = "unknown, because vision is not installed here"
        yield Check("Extras", "extras", NOTE, text, "pip install -e . in the checkout")
        return
    complete = []
    for extra in _provided():
        lacking = _lacking(packages(extra))
        if extra == "cuda12":
            lacking = [] if _version("jax-cuda12-plugin") else ["jax-cuda12-plugin"]
        if lacking:
            text = f"lacks {', '.join(lacking)}"
            yield Check("Extras", extra, NOTE, text, _short_remedy(lacking, (extra,)))
        else:
            complete.append(extra)
    yield Check("Extras", "complete", OK, ", ".join(complete) or "none")


def _stages() -> Iterator[Check]:
    """Yields the stages that would refuse to work, and why."""
    if not packages(""):
        return
    working = []
    for stage in stages():
        lacking = _lacking(packages_of(stage))
        if lacking:
            text = f"lacks {', '.join(lacking)}"
            yield Check("Stages", stage.name, NOTE, text, _short_remedy(lacking, stage.extras))
        else:
            working.append(stage.name)
    yield Check("Stages", "work", OK, ", ".join(working))


def _caches() -> Iterator[Check]:
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    places = {
        "compiled programs": COMPILE_CACHE,
        "TFDS": os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets",
        "hub": os.environ.get("HF_HUB_CACHE") or f"{home}/hub",
    }
    for name, place in places.items():
        path = pathlib.Path(place).expanduser()
        above = next(folder for folder in (path, *path.parents) if folder.exists())
        if not os.access(above, os.W_OK):
            yield Check("Caches", name, NOTE, f"{path}: cannot be written", f"chown {above}")
        elif not path.is_dir():
            yield Check("Caches", name, OK, f"{path}: empty")
        else:
            yield Check("Caches", name, OK, f"{path}: {_size(path) / 2**20:,.0f} MiB")


def _room() -> Iterator[Check]:
    free = shutil.disk_usage(".").free / 2**30
    hint = "remove old runs, or give a --workdir elsewhere" if free < LITTLE_DISK else ""
    text = f"{free:,.1f} GiB free in {os.getcwd()}"
    yield Check("Room", "disk", NOTE if hint else OK, text, hint)
    if not os.access(".", os.W_OK):
        yield Check("Room", "folder", NOTE, "cannot be written", "change to another folder")
    yield Check("Room", "cores", OK, str(cores()))
    memory = re.search(r"MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"))
    if memory:
        free = int(memory[1]) / 2**20
        hint = "lower --config.train.batch_size" if free < LITTLE_MEMORY else ""
        yield Check("Room", "memory", NOTE if hint else OK, f"{free:,.1f} GiB available", hint)
    if pathlib.Path("/dev/shm").is_dir():
        free = shutil.disk_usage("/dev/shm").free / 2**30
        hint = ""
        if free < LITTLE_SHARED:
            hint = "workers pass images through it: docker run --shm-size=2g, or data.workers=0"
        yield Check("Room", "/dev/shm", NOTE if hint else OK, f"{free:,.1f} GiB free", hint)


def _lacking(names: Sequence[str]) -> list[str]:
    """Returns those of some packages that are not installed, one for each module that is missing.

    A package without modules of its own, such as oneDNN's library, is known by its version.
    """
    lacking: dict[tuple[str, ...], str] = {}
    for name in names:
        if is_missing(name) and not _version(name):
            lacking.setdefault(MODULES.get(name, (name,)), name)
    return list(lacking.values())


def _is_checkout() -> bool:
    return (CHECKOUT / "pyproject.toml").is_file()


def _short_remedy(missing, extras):
    if _is_checkout():
        return f"./scripts/setup {' '.join(extras)}"
    return remedy(missing)


def _provided() -> list[str]:
    """Returns the names of the extras, without those of developers; [] without an installation."""
    try:
        names = importlib.metadata.metadata("vision").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [name for name in names if name not in OWN]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _pins() -> dict[str, str]:
    """Returns {package: version} of the checkout's constraints.txt; {} without one."""
    lines = _text(CHECKOUT / "constraints.txt").splitlines()
    pairs = [line.split("#")[0].split(";")[0].strip().split("==") for line in lines]
    return {pair[0].lower(): pair[1] for pair in pairs if len(pair) == 2}


def _text(path: pathlib.Path | str) -> str:
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""


def _size(folder: pathlib.Path) -> int:
    """Returns the bytes of all files below a folder; links are not followed."""
    total = 0
    for top, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.lstat(os.path.join(top, file)).st_size
            except OSError:
                continue
    return total
