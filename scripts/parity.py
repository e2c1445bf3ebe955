"""Every published architecture against timm, at full size: parameters, and logits with the same
random weights.

    python -m scripts.parity --torch-python PATH [--only resnet] [--variants 50,101]

PATH is an interpreter with torch and timm. Each of an architecture's timm weights (its `WEIGHTS`)
is built there with random numbers, saved, loaded here through `vision.models.weights.names`, and
run on the same images. Prints a line each and exits with 1 where the parameters' numbers differ, or
the logits by more than 1e-4 of the largest.
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
np.savez(folder + "/reference.npz", images=images.permute(0, 2, 3, 1).numpy(), logits=logits.numpy(),
         parameters=parameters, **weights)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--variants", default="")
    a = parser.parse_args()
    worst = 0
    for architecture in names("vision.models") if not a.only else a.only.split(","):
        module = find("model", architecture, "vision.models")
        seen = set()
        for spec, weights in getattr(module, "WEIGHTS", {}).items():
            key = (weights.variant, weights.size, str(weights.options))
            chosen = not a.variants or weights.variant in a.variants.split(",")
            if not spec.startswith("hf:timm/") or key in seen or not chosen:
                continue
            seen.add(key)
            worst = max(worst, compare(a.torch_python, module, spec, weights))
    sys.exit(worst > 1e-4)


def compare(python, module, spec, weights):
    """Returns the largest difference of the logits, as a share of the largest logit; infinite for
    other parameters."""
    name = spec.removeprefix("hf:timm/")
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-c", TORCH, name, str(weights.size), folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1]}", flush=True)
            return float("inf")
        with np.load(pathlib.Path(folder) / "reference.npz") as file:
            reference = dict(file)

    def create():
        options = {
            "dtype": jnp.float32,
            "image_size": weights.size,
            "channels": 3,
        } | weights.options
        return module.build(weights.variant, weights.classes, rngs=Streams(0), **options)

    model = nnx.eval_shape(create)
    graph, params, rngs, rest = nnx.split(model, nnx.Param, nnx.RngState, ...)
    ours = sum(v.size for v in jax.tree.leaves(params))
    arrays = {
        k.removeprefix("weights/"): v for k, v in reference.items() if k.startswith("weights/")
    }
    named = {
        ".".join(map(str, p)): v for p, v in [*nnx.to_flat_state(params), *nnx.to_flat_state(rest)]
    }
    found = translate(module, {k: v.shape for k, v in named.items()}, arrays)
    for key, variable in named.items():
        variable.set_value(jnp.asarray(found[key]))
    model = nnx.merge(graph, params, rngs, rest)
    model.eval()
    logits = jax.jit(lambda x: model(x))(reference["images"])
    difference = float(
        np.abs(logits - reference["logits"]).max() / np.abs(reference["logits"]).max()
    )
    same = "=" if ours == reference["parameters"] else f"but {int(reference['parameters']):,}"
    print(f"{module.__name__.rpartition('.')[2]} {weights.variant} {name}: ", end="")
    print(f"{ours:,} parameters {same} there; logits differ by {difference:.1e}", flush=True)
    return difference if same == "=" else float("inf")


if __name__ == "__main__":
    main()
