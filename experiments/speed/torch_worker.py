"""PyTorch's side of a benchmark, in a process of its own and in any environment that has torch.

The protocol is lines of JSON: the first line on stdin is the specification of what to build
(`spec`), and the answer is {"ready": facts} or {"missing": reason}; then {"steps": n} is answered
by {"seconds": s, ...}. It imports nothing of this project except `torch_models.py`, which needs
only torch.
"""

import json
import os
import resource
import sys
import time

import numpy as np

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr

    def reply(**values):
        print(json.dumps(values), file=answers, flush=True)

    spec = json.loads(sys.stdin.readline())
    try:
        import torch

        job = {"step": StepJob, "loader": LoaderJob, "input": InputJob}[spec["kind"]](spec)
    except (ImportError, ValueError) as error:
        return reply(missing=str(error))
    reply(ready={"torch": torch.__version__, "device": job.device} | job.facts)
    for line in sys.stdin:
        reply(seconds=job.run(json.loads(line)["steps"]), peak_bytes=job.peak_bytes())


class Trainer:
    """A model, its optimizer, and a training step on uint8 images (B, H, W, C) and labels (B,)."""

    def __init__(self, spec, device):
        import torch

        from experiments.speed import torch_models

        self._torch = torch
        self._device = device
        self._bfloat16 = spec["dtype"] == "bfloat16"
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")  # TF32 if there is any, as on JAX's side
        build = torch_models.build_timm if spec["against"] == "timm" else torch_models.build
        model = build(spec["model"], spec["variant"], spec["classes"], spec["image_size"]).to(
            device
        )
        self._layout = torch.contiguous_format
        if spec["model"] != "vit" and spec["layout"] == "channels_last":
            self._layout = torch.channels_last
        model = model.to(memory_format=self._layout)
        model.train()
        self.parameters = sum(p.numel() for p in model.parameters())
        self._mean, self._std = (
            torch.tensor(v, device=device).reshape(1, 3, 1, 1) for v in (MEAN, STD)
        )
        self._optimizer = _optimizer(torch, spec, model, device)
        self._model = model
        self._loss = self._forward
        if spec["against"] in ("compile", "timm"):
            mode = spec["compile_mode"]
            self._loss = torch.compile(self._forward, mode=None if mode == "default" else mode)

    def __call__(self, images, labels):
        self._optimizer.zero_grad(set_to_none=True)
        with self._torch.autocast(self._device.type, self._torch.bfloat16, enabled=self._bfloat16):
            loss = self._loss(images, labels)
        loss.backward()
        self._optimizer.step()

    def _forward(self, images, labels):
        x = (images.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        x = x.contiguous(memory_format=self._layout)
        return self._torch.nn.functional.cross_entropy(self._model(x), labels)


def _optimizer(torch, spec, model, device):
    fused = {"fused": True} if device.type == "cuda" else {}
    if spec["optimizer"] == "sgd":
        return torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, **fused)
    return torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05, **fused)


class Job:
    """Base class of the jobs: the device, waiting for it, and its memory."""

    def __init__(self):
        import torch

        self._torch = torch
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        on_gpu = self._device.type == "cuda"
        self.device = (
            torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads"
        )
        self.facts = {}

    def run(self, steps):
        """Returns the seconds that `steps` steps take."""
        self._wait()
        start = time.perf_counter()
        for _ in range(steps):
            self._step()
        self._wait()
        return time.perf_counter() - start

    def peak_bytes(self):
        """Returns the GPU's peak memory; on a CPU that of the process, including PyTorch."""
        if self._device.type == "cuda":
            return self._torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _wait(self):
        if self._device.type == "cuda":
            self._torch.cuda.synchronize()


class StepJob(Job):
    """Training steps on images on the device: batches drawn from all of them, or one batch
    repeated."""

    def __init__(self, spec):
        super().__init__()
        torch = self._torch
        size = spec["image_size"]
        batch = spec["batch"]
        self._trainer = Trainer(spec, self._device)
        self.facts = {"parameters": self._trainer.parameters}
        count = spec["images"] if spec["data"] == "resident" else batch
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(
            0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8
        )
        labels = torch.randint(0, spec["classes"], (count,), generator=generator)
        self._images = images.to(self._device)
        self._labels = labels.to(self._device)
        indices = [
            torch.randint(0, count, (batch,), generator=generator).to(self._device)
            for _ in range(8)
        ]
        self._indices = indices if spec["data"] == "resident" else None
        self._count = 0

    def _step(self):
        if self._indices is None:
            return self._trainer(self._images, self._labels)
        index = self._indices[self._count % len(self._indices)]
        self._count += 1
        self._trainer(self._images[index], self._labels[index])


class _Prefetched(Job):
    """Endless batches of a `DataLoader`.

    Its workers prefetch, so those batches are consumed before the clock starts, and after it stops
    the workers get the time to refill their queue: they must not run during the other side's turn.
    """

    def _begin(self, dataset, spec, **options):
        from torch.utils.data import DataLoader

        workers = spec["workers"]
        self._loader = DataLoader(
            dataset,
            spec["batch"],
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            pin_memory=self._device.type == "cuda",
            persistent_workers=workers > 0,
            **options,
        )
        self._ahead = 2 * workers  # DataLoader's prefetch_factor
        self._batches = self._endless()

    def run(self, steps):
        start = time.perf_counter()
        for _ in range(self._ahead):
            self._step()
        self._wait()
        filled = time.perf_counter() - start
        seconds = super().run(steps)
        time.sleep(min(10.0, 2 * filled))
        return seconds

    def _endless(self):
        while True:
            yield from self._loader


class LoaderJob(_Prefetched):
    """The standard loop: workers pad, crop and flip uint8 images in RAM; the GPU normalizes."""

    def __init__(self, spec):
        super().__init__()
        self._trainer = Trainer(spec, self._device)
        self.facts = {"parameters": self._trainer.parameters}
        rng = np.random.default_rng(0)
        images = rng.integers(
            0, 256, (spec["images"], spec["image_size"], spec["image_size"], 3), np.uint8
        )
        labels = rng.integers(0, spec["classes"], spec["images"])
        self._begin(Augmented(images, labels), spec)

    def _step(self):
        images, labels = next(self._batches)
        self._trainer(
            images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)
        )


class Augmented:
    """A map-style dataset that pads by 4, crops at random, and flips with probability 1/2."""

    def __init__(self, images, labels):
        self._images = images
        self._labels = labels

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        image = np.pad(self._images[index], ((4, 4), (4, 4), (0, 0)))
        side = len(image) - 8
        top = np.random.randint(9)
        left = np.random.randint(9)
        flip = np.random.randint(2)
        image = image[top : top + side, left : left + side]
        return np.ascontiguousarray(image[:, ::-1] if flip else image), int(self._labels[index])


class InputJob(_Prefetched):
    """JPEG files, decoded by PIL, and cropped and resized as by torchvision's RandomResizedCrop."""

    def __init__(self, spec):
        super().__init__()
        self._begin(Files(spec["files"], spec["image_size"]), spec)

    def _step(self):
        next(self._batches).to(self._device, non_blocking=True)


class Files:
    """A map-style dataset of image files: uint8 (size, size, 3)."""

    def __init__(self, files, size):
        import PIL.Image

        self._image = PIL.Image
        self._files = files
        self._size = size

    def __len__(self):
        return len(self._files)

    def __getitem__(self, index):
        with self._image.open(self._files[index]) as file:
            image = file.convert("RGB")
        box = random_box(image.height, image.width, np.random)
        return np.array(
            image.resize((self._size, self._size), self._image.Resampling.BILINEAR, box=box)
        )


def random_box(height, width, random):
    """Returns a random (left, top, right, bottom) with 8 to 100 % of the area and an aspect ratio
    of 3/4 to 4/3 (arXiv:1409.4842)."""
    for _ in range(10):
        pixels = height * width * random.uniform(0.08, 1.0)
        ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        box_width = round((pixels * ratio) ** 0.5)
        box_height = round((pixels / ratio) ** 0.5)
        if 0 < box_width <= width and 0 < box_height <= height:
            left = int(random.uniform(0, width - box_width + 1))
            top = int(random.uniform(0, height - box_height + 1))
            return left, top, left + box_width, top + box_height
    side = min(height, width)
    left = (width - side) // 2
    top = (height - side) // 2
    return left, top, left + side, top + side


if __name__ == "__main__":
    main()
