"""Commands on disks that are too small: by bytes and by inodes, in tmpfs mounts. Needs root.

python -m experiments.reliability.run --only disks
"""

import math
import pathlib
import subprocess

from experiments.reliability.stages import finish, finish_undisturbed, listing

SIZES = {"train, resident": 30, "pack": 5, "evaluation": 5, "export": 4}
INODES = {"train, resident": 20, "pack": 4, "evaluation": 4, "export": 3}
PAGE = 4096
GRACE = 10.0  # seconds that a failure may take beyond one and a half undisturbed calls


def run(work, stages):
    """Yields a row per limit: how the command failed, and whether the next one set it right."""
    disk = work / "disk"
    disk.mkdir(exist_ok=True)
    for name, count in SIZES.items():
        stage = stages[name]
        need, inodes, reference, seconds = _needs(work, stage)
        sizes = [_between(2 * PAGE, need, i, count) // PAGE * PAGE for i in range(count)]
        limits = [("bytes", size, f"size={size}") for size in sizes]
        counts = sorted({_between(3, inodes, i, INODES[name]) for i in range(INODES[name])})
        limits += [("inodes", number, f"size=1g,nr_inodes={number}") for number in counts]
        for unit, limit, options in limits:
            yield _starve(stage, disk, unit, limit, options, reference, seconds)


def _between(low, high, i, count):
    """Returns the i-th of `count` whole numbers from low to high, closer together when small."""
    share = i / max(1, count - 1)
    return round(low * math.pow(high / low, share))


def _needs(work, stage):
    """Returns (bytes, inodes, (fingerprint, listing), seconds) of an undisturbed call."""
    out = work / "references" / "disk"
    ended = finish_undisturbed(stage, out)
    files = [p for p in out.rglob("*") if p.is_file()]
    size = sum(-(-p.stat().st_size // PAGE) * PAGE for p in files)
    inodes = len(list(out.rglob("*"))) + 2
    return size, inodes, (stage.fingerprint(out), listing(out)), ended.seconds


def _starve(stage, disk, unit, limit, options, reference, seconds):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=True)
    out = disk / "out"
    problems = []
    try:
        ended = finish(stage, out)
        problems += _problems_of_failure(ended, seconds)
        more = ["mount", "-o", "remount,size=1g,nr_inodes=100k", str(disk)]
        subprocess.run(more, check=True)
        again = finish(stage, out)
        if again.code:
            problems.append(f"the next call ended with {again.code}: {again.text[-300:]}")
        elif (stage.fingerprint(out), listing(out)) != reference:
            left = sorted(set(listing(out)) ^ set(reference[1]))
            problems.append(f"other bits, or other files: {left[:3]}")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    return {
        "stage": stage.name,
        "unit": unit,
        "limit": limit,
        "exit": ended.code,
        "ok": not problems,
        "seconds": round(ended.seconds, 1),
        "message": ended.text.strip().splitlines()[-1][:200] if ended.code and ended.text else "",
        "problem": "; ".join(problems).replace("\n", " "),
    }


def _problems_of_failure(ended, seconds):
    problems = []
    if ended.has_traceback:
        problems.append(f"a traceback: {ended.text[-300:]}")
    if ended.code not in (0, 1, 2):
        problems.append(f"exit status {ended.code}")
    if ended.code and "error:" not in ended.text:
        problems.append("no message")
    if ended.seconds > 1.5 * seconds + GRACE:
        problems.append(f"took {ended.seconds:.0f} s, without the limit {seconds:.0f}")
    return problems


def is_possible(work: pathlib.Path) -> bool:
    """Whether this process may mount a tmpfs."""
    probe = work / "disk"
    probe.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(probe)]
    if subprocess.run(mount, capture_output=True).returncode:
        return False
    subprocess.run(["umount", "-l", str(probe)], check=True)
    return True
