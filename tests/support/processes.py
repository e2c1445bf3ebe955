"""Starts a run as several processes of this machine, each with fake devices of its own."""

import os
import pathlib
import socket
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parents[2]


def environment_of(devices):
    """Returns the environment of a process with so many fake devices, which compiles as these tests
    do; of a flag that is there twice, XLA takes the last."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def start(count, arguments, devices=1, module="vision.main"):
    """Starts `count` processes of a command, and returns them.

    Each writes stdout and stderr to one pipe, `stdout`.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", module, *arguments),
        f"--config.parallel.coordinator=localhost:{port}",
        f"--config.parallel.processes={count}",
    ]
    return [
        subprocess.Popen(
            [*command, f"--config.parallel.process={i}"],
            cwd=REPOSITORY,
            env=environment_of(devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(count)
    ]


def finish(processes, timeout=240):
    """Waits for all processes, and returns [(exit code, output)]; kills those that take longer."""
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
        return [(p.returncode, output) for p, output in zip(processes, outputs, strict=True)]
    finally:
        for process in processes:
            process.kill()
