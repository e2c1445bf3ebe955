"""Starts a run as several processes of this machine, each with fake devices of its own."""

import os
import pathlib
import socket
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parents[2]


def start(count, arguments, devices=1):
    """Starts `count` processes of `vision.main`; returns them, with their output joined in
    `stdout`."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    shared = (
        f"--config.parallel.coordinator=localhost:{port}",
        f"--config.parallel.processes={count}",
    )
    return [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "vision.main",
                *arguments,
                *shared,
                f"--config.parallel.process={i}",
            ],
            cwd=REPOSITORY,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(count)
    ]


def finish(processes, timeout=240):
    """Waits for all; returns [(exit code, output)]. None outlives the call."""
    try:
        return [
            (p.returncode, out) for p in processes for out in [p.communicate(timeout=timeout)[0]]
        ]
    finally:
        for p in processes:
            p.kill()
