"""What the tables of this experiment say of the machine: its processor, and the size of folders."""

import os
import pathlib
import re
import subprocess


def processor() -> str:
    """Returns the number of cores and the processor's name."""
    names = re.findall(r"^model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return f"{os.cpu_count()} cores, {names[0] if names else 'unknown processor'}"


def megabytes(folder: pathlib.Path) -> int:
    """Returns the disk space of a folder in 10^6 bytes."""
    words = ["du", "--summarize", "--block-size=1000000", str(folder)]
    return int(subprocess.run(words, capture_output=True, text=True).stdout.split()[0])
