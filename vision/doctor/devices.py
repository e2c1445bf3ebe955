"""Imports JAX and takes a gradient, in a process of its own: a broken driver may hang or kill it.

python -m vision.doctor.devices    # one line of JSON
"""

import json
import time
from collections.abc import Sequence

from vision import cli


def main(_argv: Sequence[str]) -> None:
    """Prints {"devices", "backend", "onednn", "seconds"} as JSON; fails if the gradient does."""
    began = time.perf_counter()
    import jax
    import jax.numpy as jnp

    from vision import cpu
    from vision.support.devices import open_devices

    devices = [f"{device.platform}: {device.device_kind}" for device in open_devices()]
    cpu.choose("auto")

    def loss(kernel, images):
        maps = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(maps).mean()

    gradient = jax.jit(jax.grad(loss))(jnp.ones((3, 3, 3, 16)), jnp.ones((8, 32, 32, 3)))
    if not bool(jnp.isfinite(gradient).all()):
        raise RuntimeError("the gradient of a convolution is not finite")
    onednn = cpu.describe(len(devices)).removeprefix(", ")
    seconds = time.perf_counter() - began
    report = {"devices": devices, "backend": jax.default_backend(), "onednn": onednn}
    print(json.dumps(report | {"seconds": round(seconds, 1)}))


if __name__ == "__main__":
    cli.run(main)
