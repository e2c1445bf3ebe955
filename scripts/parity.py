"""Compares every published architecture with timm's, at full size, with the same random weights.

    python -m scripts.parity --torch-python PATH [--only resnet] [--variants 50,101]

PATH is an interpreter with torch and timm. Each of an architecture's timm weights (its `WEIGHTS`)
is built there with random numbers, saved, loaded here through `vision.models.weights.names`, and
run on the same images. Prints a line for each, and exits with 1 if any differs in its number of
parameters, or in its logits by more than 1e-4 of the largest.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision.models import select_accepted
from vision.models.layers.streams import Streams
from vision.models.weights.names import translate
from vision.support.modules import find, names

TORCH = """
import sys, numpy as np, timm, torch
name, size, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch.manual_seed(0)
extra = {"img_size": size} if "swin" in name else {}
net = timm.create_model(name, pretrained=False, **extra).eval()
for key, value in net.state_dict().items():
    if key.endswith("running_var"):
        value.uniform_(0.8, 1.2)
    elif key.endswith("running_mean"):
        value.normal_(0, 0.1)
    elif value.is_floating_point() and value.ndim > 1 and "weight" in key:
        value.normal_(0, (2 / value[0].numel()) ** 0.5)
images = torch.randn(2, 3, size, size)
with torch.no_grad():
    logits = net(images)
weights = {"weights/" + k: v.numpy() for k, v in net.state_dict().items()}
parameters = sum(p.numel() for p in net.parameters())
np.savez(folder + "/reference.npz", images=images.permute(0, 2, 3, 1).numpy(),
         logits=logits.numpy(), parameters=parameters, **weights)
"""
TOLERANCE = 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", required=True, help="an interpreter with torch and timm")
    parser.add_argument("--only", default="", help="architectures, separated by commas")
    parser.add_argument("--variants", default="", help="variants, separated by commas")
    flags = parser.parse_args()
    architectures = flags.only.split(",") if flags.only else names("vision.models")
    variants = flags.variants.split(",") if flags.variants else []
    worst = 0.0
    for architecture in architectures:
        module = find("model", architecture, "vision.models")
        for spec, weights in _published(module, variants):
            worst = max(worst, compare(flags.torch_python, module, spec, weights))
    sys.exit(worst > TOLERANCE)


def _published(module, variants):
    """Yields (spec, weights) of a module's timm weights, one for each distinct network."""
    seen = set()
    for spec, weights in getattr(module, "WEIGHTS", {}).items():
        network = (weights.variant, weights.size, str(weights.options))
        chosen = not variants or weights.variant in variants
        if spec.startswith("hf:timm/") and network not in seen and chosen:
            seen.add(network)
            yield spec, weights


def compare(python, module, spec, weights):
    """Prints how timm's network and ours differ.

    Returns:
        The largest difference of the logits, as a share of the largest logit; infinite if the
        numbers of parameters differ.
    """
    name = spec.removeprefix("hf:timm/")
    reference = _run_timm(python, name, weights.size)
    if reference is None:
        return float("inf")
    logits, parameters = _run_ours(module, weights, reference)
    largest = np.abs(reference["logits"]).max()
    difference = float(np.abs(logits - reference["logits"]).max() / largest)
    same = parameters == reference["parameters"]
    sign = "=" if same else f"but {int(reference['parameters']):,}"
    print(f"{module.__name__.rpartition('.')[2]} {weights.variant} {name}: ", end="")
    print(f"{parameters:,} parameters {sign} there; logits differ by {difference:.1e}", flush=True)
    return difference if same else float("inf")


def _run_timm(python, name, size):
    """Returns the arrays that `TORCH` saves; None, after printing why, if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-c", TORCH, name, str(size), folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1]}", flush=True)
            return None
        with np.load(pathlib.Path(folder) / "reference.npz") as file:
            return dict(file)


def _run_ours(module, weights, reference):
    """Returns (logits, number of parameters) of our network with the reference's weights."""

    def create():
        offered = {"dtype": jnp.float32, "image_size": weights.size, "channels": 3}
        options = select_accepted(module.build, offered) | weights.options
        return module.build(weights.variant, weights.classes, rngs=Streams(0), **options)

    model = nnx.eval_shape(create)
    graph, params, rngs, rest = nnx.split(model, nnx.Param, nnx.RngState, ...)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    arrays = {
        key.removeprefix("weights/"): array
        for key, array in reference.items()
        if key.startswith("weights/")
    }
    variables = [*nnx.to_flat_state(params), *nnx.to_flat_state(rest)]
    named = {".".join(map(str, path)): variable for path, variable in variables}
    translated = translate(module, {key: v.shape for key, v in named.items()}, arrays)
    for key, variable in named.items():
        variable.set_value(jnp.asarray(translated[key]))
    model = nnx.merge(graph, params, rngs, rest)
    model.eval()
    return jax.jit(lambda x: model(x))(reference["images"]), parameters


if __name__ == "__main__":
    main()
