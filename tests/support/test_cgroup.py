"""The CPU limit of a container, from files as its kernel shows them."""

import math
import os
import pathlib
import subprocess
import sys

import pytest

from vision.support.cgroup import cpu_limit
from vision.support.processes import cores

V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate"
V1 = "31 23 0:27 {root} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct"
OTHER = "29 23 0:25 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset"


def write(directory, files):
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def system(directory, groups, mounts, files):
    """Writes /proc and the mounted groups below a directory."""
    write(directory, {"proc/self/cgroup": groups, "proc/self/mountinfo": "\n".join(mounts)})
    write(directory, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    return cpu_limit(directory)


# what a container sees: (groups, mounts, files, limit)
SECOND = {
    "a namespace of its own": ("0::/", [V2.format(root="/")], {"cpu.max": "150000 100000"}, 1.5),
    "no limit": ("0::/", [V2.format(root="/")], {"cpu.max": "max 100000"}, math.inf),
    "no file, as of the root": ("0::/", [V2.format(root="/")], {}, math.inf),
    "the group around it": (
        "0::/pods/web/main",
        [V2.format(root="/")],
        {"pods/web/cpu.max": "200000 100000", "pods/web/main/cpu.max": "max 100000"},
        2.0,
    ),
    "both": (
        "0::/pods/web",
        [V2.format(root="/")],
        {"pods/cpu.max": "800000 100000", "pods/web/cpu.max": "50000 100000"},
        0.5,
    ),
    "another group": (
        "0::/pods/web",
        [V2.format(root="/")],
        {"pods/other/cpu.max": "50000 100000"},
        math.inf,
    ),
    "the host's path": ("0::/pods/web", [V2.format(root="/pods/web")], {"cpu.max": "3 1"}, 3.0),
    "a path above": ("0::/../..", [V2.format(root="/")], {"cpu.max": "3 1"}, 3.0),
    "damaged": ("0::/", [V2.format(root="/"), "", "x - "], {"cpu.max": "lots of"}, math.inf),
    "zero": ("0::/\nnothing", [V2.format(root="/")], {"cpu.max": "100 0"}, math.inf),
}
FIRST = {
    "a limit": (
        "4:cpu,cpuacct:/docker/1a:2b",
        [OTHER, V1.format(root="/docker/1a:2b")],
        {"cpu,cpuacct/cpu.cfs_quota_us": "400000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        4.0,
    ),
    "none": (
        "4:cpu,cpuacct:/",
        [V1.format(root="/")],
        {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        math.inf,
    ),
    "both versions": (
        "4:cpu,cpuacct:/a\n0::/",
        [V1.format(root="/"), V2.format(root="/").replace("cgroup rw,nosuid", "cgroup/unified rw")],
        {"cpu,cpuacct/a/cpu.cfs_quota_us": "250", "cpu,cpuacct/a/cpu.cfs_period_us": "100"},
        2.5,
    ),
}


@pytest.mark.parametrize("case", [*SECOND, *FIRST])
def test_the_limit_is_the_least_of_all_groups(tmp_path, case):
    groups, mounts, files, limit = (SECOND | FIRST)[case]
    assert system(tmp_path, groups, mounts, files) == limit


def test_cores_are_whole_and_no_more_than_the_affinity(tmp_path):
    available = len(os.sched_getaffinity(0))
    for quota, expected in (("0.3", 1), ("1.9", 1), ("999", available), ("max", available)):
        text = quota if quota == "max" else str(int(float(quota) * 1_000))
        system(tmp_path, "0::/", [V2.format(root="/")], {"cpu.max": f"{text} 1000"})
        assert cores(tmp_path) == expected
    assert cores(tmp_path / "nothing") == available


def test_a_real_group():
    """Needs a group that this user may create."""
    group = next(iter(_new_groups()), None)
    if group is None:
        pytest.skip("no control group can be created here")
    program = (
        "import pathlib, sys; pathlib.Path(sys.argv[1], 'cgroup.procs').write_text('0');"
        "from vision.support.cgroup import cpu_limit; print(cpu_limit())"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, str(group)], capture_output=True, text=True, check=True
        )
        assert float(done.stdout) == 0.75
    finally:
        group.rmdir()


def _new_groups():
    """Yields a new group with a limit of 0.75 CPUs, if one can be made."""
    for top, files in (
        ("cpu", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "75000"}),
        ("cpu,cpuacct", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "75000"}),
        (".", {"cpu.max": "75000 100000"}),
    ):
        group = pathlib.Path("/sys/fs/cgroup", top, f"vision-test-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            for name, text in files.items():
                (group / name).write_text(text)
        except OSError:
            group.rmdir()
            continue
        yield group
