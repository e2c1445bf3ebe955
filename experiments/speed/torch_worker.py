"""PyTorch's side of a benchmark, in a process of its own and in any environment that has torch.

The protocol is lines of JSON: the first line on stdin is the specification of what to build
(`spec`), and the answer is {"ready": facts} or {"missing": reason}; then {"steps": n} is answered
by {"seconds": s, ...}. It imports nothing of this project but the files beside it, which need only
torch.
"""

import itertools
import json
import os
import resource
import sys
import time

import numpy as np


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr

    def reply(**values):
        print(json.dumps(values), file=answers, flush=True)

    spec = json.loads(sys.stdin.readline())
    try:
        import torch

        job = JOBS[spec["kind"]](spec)
    except (ImportError, ValueError) as error:
        return reply(missing=str(error))
    reply(ready={"torch": torch.__version__, "device": job.device} | job.facts)
    for line in sys.stdin:
        reply(seconds=job.run(json.loads(line)["steps"]), peak_bytes=job.peak_bytes())


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

    def _to_device(self, batch):
        return [part.to(self._device, non_blocking=True) for part in batch]

    def _wait(self):
        if self._device.type == "cuda":
            self._torch.cuda.synchronize()


class StepJob(Job):
    """Training steps on images on the device: batches drawn from all of them, or one batch
    repeated."""

    def __init__(self, spec):
        super().__init__()
        from experiments.speed.torch_trainer import Trainer

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

    def _begin(self, dataset, spec):
        self._loader = data_loader(dataset, spec, self._device, shuffle=True, drop_last=True)
        self._ahead = 2 * spec["workers"]  # DataLoader's prefetch_factor
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


def data_loader(dataset, spec, device, **options):
    """Returns a `DataLoader` with the specification's batch size and workers, which persist."""
    from torch.utils.data import DataLoader

    workers = spec["workers"]
    return DataLoader(
        dataset,
        spec["batch"],
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        **options,
    )


def random_images(spec, count):
    """Returns (images, uint8 (count, H, W, C); labels (count,)), random."""
    rng = np.random.default_rng(0)
    size = spec["image_size"]
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    return images, rng.integers(0, spec["classes"], count)


class LoaderJob(_Prefetched):
    """The standard loop: workers pad, crop and flip uint8 images in RAM; the GPU normalizes."""

    def __init__(self, spec):
        super().__init__()
        from experiments.speed.torch_trainer import Trainer

        self._trainer = Trainer(spec, self._device)
        self.facts = {"parameters": self._trainer.parameters}
        self._begin(Augmented(*random_images(spec, spec["images"])), spec)

    def _step(self):
        self._trainer(*self._to_device(next(self._batches)))


class EpochJob(Job):
    """An epoch of the standard loop, as `LoaderJob`, and the loss and accuracy of the validation
    images, which other workers read."""

    def __init__(self, spec):
        super().__init__()
        from torch.utils.data import TensorDataset

        from experiments.speed.torch_trainer import Trainer

        self._trainer = Trainer(spec, self._device)
        self.facts = {"parameters": self._trainer.parameters}
        train = Augmented(*random_images(spec, spec["images"]))
        val = TensorDataset(*map(self._torch.from_numpy, random_images(spec, spec["val_images"])))
        self._train = data_loader(train, spec, self._device, shuffle=True, drop_last=True)
        self._val = data_loader(val, spec, self._device)

    def run(self, steps):
        """Returns the seconds of an epoch that ends after `steps` steps, and of its validation."""
        start = time.perf_counter()
        for batch in itertools.islice(self._train, steps):
            self._trainer(*self._to_device(batch))
        self._trainer.evaluate(map(self._to_device, self._val))
        self._wait()
        return time.perf_counter() - start


class InferenceJob(Job):
    """Answers to a batch of images in the host's memory: probabilities, on the host again."""

    def __init__(self, spec):
        super().__init__()
        from experiments.speed.torch_trainer import Classifier, compiled

        classifier = Classifier(spec, self._device)
        classifier.model.eval()
        self.facts = {"parameters": classifier.parameters}
        self._forward = compiled(classifier, spec)
        self._images, _ = random_images(spec, spec["batch"])

    def _step(self):
        with self._torch.inference_mode():
            images = self._torch.from_numpy(self._images).to(self._device)
            return self._forward(images).softmax(1).cpu().numpy()


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


JOBS = {
    "step": StepJob,
    "loader": LoaderJob,
    "epoch": EpochJob,
    "inference": InferenceJob,
    "input": InputJob,
}

if __name__ == "__main__":
    main()
