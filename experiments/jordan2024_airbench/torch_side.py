"""The author's code on our weights and batches: run by `compare.py`, in an environment with torch.

    PATH experiments/jordan2024_airbench/torch_side.py airbench94.py ours.npz theirs.npz

It needs torch and NumPy, and runs the file as it is, on a CPU in float64.
"""

import contextlib
import importlib.util
import sys
import types

try:
    import numpy as np
    import torch
except ImportError as error:
    sys.exit(f"error: {sys.executable} has no {error.name}: give another --torch-python")

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
MODULES = {"whiten": "0", "groups.0": "2", "groups.1": "3", "groups.2": "4", "head": "7"}
VARIABLES = {"kernel": "weight", "mean": "running_mean", "var": "running_var"}


class Done(Exception):
    """Enough updates are made."""


class Proxy:
    """A module with some other attributes, for one who imports it."""

    def __init__(self, module, **others):
        self._module = module
        vars(self).update(others)

    def __getattr__(self, name):
        return getattr(self._module, name)


class Event:
    """Stands for a CUDA event: no time is measured."""

    def __init__(self, **_):
        pass

    def record(self):
        pass

    def elapsed_time(self, _):
        return 0.0


def load(file, precision="double"):
    """Imports the author's file, so that it computes on the CPU, in float64 or in "float" (32)."""
    torchvision = types.ModuleType("torchvision")
    torchvision.transforms = types.ModuleType("torchvision.transforms")
    sys.modules["torchvision"] = torchvision
    sys.modules["torchvision.transforms"] = torchvision.transforms
    spec = importlib.util.spec_from_file_location("theirs", file)
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    for kind in (torch.Tensor, torch.nn.Module):
        convert = getattr(kind, precision)
        kind.half = convert
        kind.float = convert
        kind.cuda = lambda self, *_, **__: self
    cuda = types.SimpleNamespace(Event=Event, synchronize=lambda: None)
    dtype = getattr(torch, precision)
    theirs.torch = Proxy(torch, half=dtype, float=dtype, cuda=cuda)
    return theirs


def to_torch(name, array):
    """Returns (its name, tensor) of one of our variables."""
    for ours, index in MODULES.items():
        if name.startswith(f"{ours}."):
            name = name.replace(f"{ours}.", f"{index}.", 1)
    *path, last = name.split(".")
    if last == "kernel":
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    tensor = torch.tensor(np.ascontiguousarray(array), dtype=torch.float64)
    return ".".join([*path, VARIABLES.get(last, last)]), tensor


def to_numpy(name, array, state):
    """Returns the array of one of our variables as theirs has it, in our order of axes."""
    value = np.array(state[to_torch(name, array)[0]])
    if name.endswith("kernel"):
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return value


def run(theirs, ours, updates):
    """Returns {name: array} after some updates: weights, losses, difference of the whitening."""
    pixels = torch.tensor(ours["images"]).permute(0, 3, 1, 2).double() / 255
    labels = torch.tensor(ours["labels"]).long()
    mean = torch.tensor(np.reshape(MEAN, (1, 3, 1, 1)))
    std = torch.tensor(np.reshape(STD, (1, 3, 1, 1)))
    order = iter(ours["order"])
    start = {name[2:]: ours[name] for name in ours.files if name.startswith("w/")}
    results = {}
    losses = []
    initialize = theirs.init_whitening_conv
    make_net = theirs.make_net
    models = []

    class Loader:
        def __init__(self, *_, train=True, **__):
            self.train = train
            self.images = pixels
            self.labels = labels

        def normalize(self, images):
            return (images - mean) / std

        def __len__(self):
            return int(ours["batches"])

        def __iter__(self):
            for _ in range(len(self)):
                if self.train and len(losses) == updates:
                    results.update(snapshot())  # the next loss changes the statistics already
                rows = next(order) if self.train else ours["order"][0]
                yield self.normalize(pixels[rows]), labels[rows]

    def snapshot():
        state = models[0].state_dict()
        return {f"f/{name}": to_numpy(name, array, state) for name, array in start.items()}

    def make():
        model = make_net()
        state = model.state_dict()
        for name, array in start.items():
            theirs_name, tensor = to_torch(name, array)
            state[theirs_name].copy_(tensor)
        models.append(model)
        return model

    def whiten(layer, images):
        """Compares the whitening with ours, and keeps ours: a filter's sign is arbitrary."""
        weights = layer.weight.data.clone()
        initialize(layer, images)
        half = len(weights) // 2
        mine = weights[:half].reshape(half, -1)
        other = layer.weight.data[:half].reshape(half, -1)
        signs = torch.sign((mine * other).sum(1, keepdim=True))
        results["whitening"] = ((other * signs - mine).abs().max() / mine.abs().max()).numpy()
        layer.weight.data.copy_(weights)

    class Loss(torch.nn.CrossEntropyLoss):
        def forward(self, outputs, targets):
            values = super().forward(outputs, targets)
            losses.append(values.mean().item())
            if len(losses) > updates:
                raise Done
            return values

    theirs.CifarLoader = Loader
    theirs.make_net = make
    theirs.init_whitening_conv = whiten
    theirs.nn = Proxy(torch.nn, CrossEntropyLoss=Loss)
    hyperparameters = theirs.hyp
    size = int(ours["order"].shape[1])
    scale = 1024 / size  # theirs are for a sum over 1,024 images
    hyperparameters["opt"]["train_epochs"] = float(ours["epochs"])
    hyperparameters["opt"]["batch_size"] = size
    hyperparameters["opt"]["lr"] *= scale
    hyperparameters["opt"]["weight_decay"] *= scale
    hyperparameters["net"]["widths"] = {"block1": 4, "block2": 8, "block3": 8}
    torch.set_num_threads(1)
    with contextlib.suppress(Done):
        theirs.main(0)
    return results | {"losses": np.array(losses)}


if __name__ == "__main__":
    file, source, target = sys.argv[1:]
    arrays = np.load(source)
    np.savez(target, **run(load(file), arrays, int(arrays["updates"])))
