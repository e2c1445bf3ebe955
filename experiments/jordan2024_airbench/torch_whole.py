"""A whole run of the author's code: run by `theirs.py`, in an environment with torch.

    PATH experiments/jordan2024_airbench/torch_whole.py airbench94.py images.npz SEED FOLDER

It needs torch and NumPy. FOLDER gets state.pt after each pass over the images, from which the same
command goes on, and result.json in the end.
"""

import json
import os
import pathlib
import sys
import time

import torch_side  # first: it says so if torch is missing

# isort: split
import numpy as np
import torch

STATE = "state.pt"
# Two lines of its `main`, so that a run which was stopped goes on. Nothing else is changed.
LOOP = "    for epoch in range({}ceil(epochs)):\n"
REPORT = "        print_training_details(locals(), is_final_entry=False)\n"
EDITS = (
    (LOOP.format(""), "    first, current_steps = resume(locals())\n" + LOOP.format("first, ")),
    (REPORT, REPORT + "        save(locals())\n"),
)


class Normalize:
    """Stands for torchvision's."""

    def __init__(self, mean, std):
        self.mean = mean.view(1, -1, 1, 1)
        self.std = std.view(1, -1, 1, 1)

    def __call__(self, images):
        return (images - self.mean) / self.std


class Part:
    """What a run needs to go on after a pass over the images, in a file.

    Attributes:
        seconds: what the passes have taken, also those before a stop.
        one_view: accuracy after the last pass, without views.
        start: the random numbers' state before the first pass.
    """

    def __init__(self, file):
        self.file = file
        self.seconds = 0.0
        self.one_view = None
        self.since = time.monotonic()
        self.start = None

    def resume(self, run):
        """Returns (the pass to begin with, steps made), given the locals of the author's `main`."""
        self.start = torch.get_rng_state()
        if not self.file.is_file():
            return 0, 0
        saved = torch.load(self.file, weights_only=False)
        for name in ("model", "optimizer", "scheduler"):
            run[name].load_state_dict(saved[name])
        run["lookahead_state"].net_ema = saved["lookahead"]
        self.seconds = saved["seconds"]
        self.one_view = saved["one_view"]
        self.start = saved["start"]
        # The first pass draws which images are flipped, for all of them.
        torch.set_rng_state(self.start)
        loader = run["train_loader"]
        next(iter(loader))
        loader.epoch = saved["passes"]
        torch.set_rng_state(saved["random"])
        return saved["passes"], saved["steps"]

    def save(self, run):
        """Writes the file, given the locals of the author's `main`."""
        now = time.monotonic()
        self.seconds += now - self.since
        self.since = now
        self.one_view = run["val_acc"]
        state = {name: run[name].state_dict() for name in ("model", "optimizer", "scheduler")}
        state["lookahead"] = run["lookahead_state"].net_ema
        state["seconds"] = self.seconds
        state["one_view"] = self.one_view
        state["start"] = self.start
        state["random"] = torch.get_rng_state()
        state["passes"] = run["epoch"] + 1
        state["steps"] = run["current_steps"]
        unfinished = self.file.with_suffix(".tmp")
        torch.save(state, unfinished)
        os.replace(unfinished, self.file)
        print(f"pass {run['epoch'] + 1}: {100 * run['val_acc']:.2f} % without views", flush=True)


def edited(source):
    """Returns the author's source with `EDITS`."""
    for old, new in EDITS:
        if source.count(old) != 1:
            sys.exit(f"error: the author's file does not have once: {old.strip()}")
        source = source.replace(old, new)
    return source


def run(file, arrays, seed, folder):
    """Runs the author's code, whole, in float32. Returns what result.json has."""
    copy = folder / "airbench94_edited.py"
    copy.write_text(edited(file.read_text()))
    splits = {}
    for split in ("train", "test"):
        tensors = {name: torch.tensor(arrays[f"{split}/{name}"]) for name in ("images", "labels")}
        splits[split] = tensors | {"labels": tensors["labels"].long(), "classes": range(10)}
    theirs = torch_side.load(copy, "float")
    theirs.T.Normalize = Normalize
    # The author's loader reads train.pt and test.pt to device 0, if they exist.
    theirs.os = torch_side.Proxy(os, path=torch_side.Proxy(os.path, exists=lambda _: True))
    theirs.torch.device = lambda _: torch.device("cpu")
    theirs.torch.load = lambda path, **_: splits[pathlib.Path(path).stem]
    part = Part(folder / STATE)
    theirs.resume = part.resume
    theirs.save = part.save
    torch.manual_seed(seed)
    accuracy = theirs.main(seed)
    return {
        "accuracy": accuracy,
        "one_view": part.one_view,
        "minutes": part.seconds / 60,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.split("+")[0],
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    file, source, seed, folder = sys.argv[1:]
    folder = pathlib.Path(folder).resolve()
    try:
        result = run(pathlib.Path(file).resolve(), np.load(source), int(seed), folder)
    except KeyboardInterrupt:
        sys.exit(130)
    (folder / "result.json").write_text(json.dumps(result))
