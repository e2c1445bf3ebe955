"""How much of the CPU a container may use: the limits of Linux's control groups.

The kernel stops a process that exceeds its quota until the next period, so threads beyond it only
make all of them wait. The number of cores does not show it: a pod limited to 2 CPUs sees all 64.
See cgroups(7), "cpu.max" in the kernel's cgroup-v2.rst, and sched-bwc.rst for the first version.
"""

import math
import os
import pathlib
from collections.abc import Iterator


def cpu_limit(root: pathlib.Path | str = "/") -> float:
    """Returns how many CPUs this process's control groups allow it; infinity if any number.

    A group inside another is limited by both.

    Args:
        root: the directory that stands for the root of the file system.
    """
    root = pathlib.Path(root)
    try:
        groups = (root / "proc/self/cgroup").read_text("utf-8", "replace").splitlines()
        mounts = (root / "proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        return math.inf
    paths = {}
    for line in groups:
        _, controllers, path = f"{line}::".split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path.rstrip(":")
    limits = [math.inf]
    for line in mounts:
        for top, path in _mounted(line, paths):
            limits += _limits(root / top.lstrip("/"), path)
    return min(limits)


def _mounted(line: str, paths: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yields (mount point, path of this process's group below it) of a line of mountinfo.

    Args:
        line: the line.
        paths: {controller, "" for the second version: path of this process's group}.
    """
    fields, _, kind = line.partition(" - ")
    words = fields.split()
    kind_words = kind.split()
    if len(words) < 5 or not kind_words:
        return
    if kind_words[0] == "cgroup2":
        path = paths.get("")
    elif kind_words[0] == "cgroup" and "cpu" in kind_words[-1].split(","):
        path = paths.get("cpu")
    else:
        return
    if not path:
        return
    mount_root = words[3]
    # Without a namespace of its own, a container sees the host's path, but only its part mounted.
    relative = os.path.relpath(path, mount_root)
    yield words[4], "." if relative.startswith("..") else relative


def _limits(top: pathlib.Path, path: str) -> Iterator[float]:
    """Yields the limits of a group and of those around it."""
    group = top / path
    while True:
        for quota, period in (_read_second(group), _read_first(group)):
            if quota > 0 and period > 0:
                yield quota / period
        if group == top:
            return
        group = group.parent


def _read_second(group):
    """Returns (quota, period) of a group of the second version; (0, 0) if it has none."""
    words = _text(group / "cpu.max").split()
    return (_number(words[0]), _number(words[1])) if len(words) == 2 else (0, 0)


def _read_first(group):
    """Returns (quota, period) of a group of the first version; (0, 0) if it has none."""
    quota = _number(_text(group / "cpu.cfs_quota_us"))
    return quota, _number(_text(group / "cpu.cfs_period_us"))


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(text):
    """Returns a positive integer; 0 for "max", "-1" and everything else."""
    return int(text) if text.isdecimal() and text.isascii() else 0
