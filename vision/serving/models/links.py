"""Links in the way to models: releases that a link switches, and the files of another container.

KServe's "model cars" are containers beside the server's that hold a model. Each makes a link to its
files as the server sees them: `/mnt/models -> /proc/42/root/models`. It leads nowhere until that
container runs, and what it leads to has no path without links.
"""

import os
import pathlib
import re

# Where a process sees the files of another container, if both share a process namespace. Who can
# make such a link in the models' directory could also copy the files into it.
OTHER_ROOT = re.compile(r"/proc/[0-9]+/root(/|$)")
MAX_LINKS = 8  # one after the other


def awaited(root: pathlib.Path | str) -> str:
    """Returns why there are no models yet, if a link to them leads nowhere; "" otherwise."""
    for path in (*reversed(pathlib.Path(os.path.abspath(root)).parents), root):
        if os.path.islink(path) and not os.path.exists(path):
            return describe_link(path)
    try:
        paths = [pathlib.Path(entry) for entry in os.scandir(root) if entry.name[0] != "."]
    except OSError:
        return ""
    waiting = [path for path in paths if leads_elsewhere(path) and not os.path.exists(path)]
    if waiting and not any(os.path.isdir(path) for path in paths):
        return describe_link(waiting[0])
    return ""


def resolved(root: pathlib.Path | str) -> pathlib.Path:
    """Returns a directory without the links on its way, so that a link that moves does not mix two
    releases in one scan.

    The system call that reads a link to another process's root only says "/". Such a path is left
    as it is.
    """
    real = os.path.realpath(root)
    try:
        return pathlib.Path(real if os.path.samefile(real, root) else root)
    except OSError:
        return pathlib.Path(root)


def describe_link(path: pathlib.Path | str) -> str:
    """Returns the target of a link that leads nowhere, and why it does."""
    try:
        os.stat(path)
        reason = "which leads nowhere"
    except OSError as error:
        reason = f"which gives: {error.strerror}"
    return f"{path} is a link to {os.readlink(path)}, {reason}"


def is_inside(path: pathlib.Path, root: pathlib.Path) -> bool:
    """Whether a directory is below another one, wherever links lead to.

    It climbs by "..", which the system resolves without links and in every mount namespace.
    """
    top = os.stat(root)
    below = None
    climbed = os.fspath(path)
    while True:
        climbed = os.path.join(climbed, os.pardir)
        try:
            above = os.stat(climbed)
        except OSError:  # it was removed, or is deeper than a path may be long
            return False
        if os.path.samestat(above, top):
            return True
        if below is not None and os.path.samestat(above, below):  # the root
            return False
        below = above


def leads_elsewhere(path: pathlib.Path | str) -> bool:
    """Whether a path is a link to the files of another container in this pod."""
    for _ in range(MAX_LINKS):
        try:
            target = os.readlink(path)
        except OSError:  # no link
            return False
        if OTHER_ROOT.match(target):
            return True
        path = os.path.join(os.path.dirname(path), target)
    return False
