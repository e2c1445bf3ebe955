"""Training and inference in PyTorch, for `torch_worker.py`: a model on uint8 images."""

import torch

from experiments.speed import torch_models

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Classifier:
    """A model that normalizes its images, uint8 (B, H, W, C), and returns logits (B, classes).

    Attributes:
        model: the `nn.Module`.
        parameters: number of its parameters.
    """

    def __init__(self, spec, device):
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")  # TF32 if there is any, as on JAX's side
        build = torch_models.build_timm if spec["against"] == "timm" else torch_models.build
        model = build(spec["model"], spec["variant"], spec["classes"], spec["image_size"])
        self._layout = torch.contiguous_format
        if spec["model"] != "vit" and spec["layout"] == "channels_last":
            self._layout = torch.channels_last
        self.model = model.to(device).to(memory_format=self._layout)
        self.parameters = sum(p.numel() for p in model.parameters())
        self._mean, self._std = (
            torch.tensor(v, device=device).reshape(1, 3, 1, 1) for v in (MEAN, STD)
        )

    def __call__(self, images):
        x = (images.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        return self.model(x.contiguous(memory_format=self._layout))


class Trainer:
    """A model, its optimizer, and a training step on uint8 images (B, H, W, C) and labels (B,)."""

    def __init__(self, spec, device):
        self._device = device
        self._bfloat16 = spec["dtype"] == "bfloat16"
        self._classifier = Classifier(spec, device)
        self._model = self._classifier.model
        self._model.train()
        self.parameters = self._classifier.parameters
        self._optimizer = make_optimizer(spec, self._model, device)
        self._loss = compiled(self._forward, spec)
        self._measures = compiled(self._measure, spec)

    def __call__(self, images, labels):
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = self._loss(images, labels)
        loss.backward()
        self._optimizer.step()

    def evaluate(self, batches):
        """Returns (mean loss, accuracy) over batches of images and labels; trains on afterwards."""
        self._model.eval()
        sums = 0
        count = 0
        with torch.inference_mode(), self._autocast():
            for images, labels in batches:
                sums = sums + self._measures(images, labels)
                count += len(labels)
        self._model.train()
        return tuple((sums / count).tolist())

    def _autocast(self):
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16)

    def _forward(self, images, labels):
        return torch.nn.functional.cross_entropy(self._classifier(images), labels)

    def _measure(self, images, labels):
        """Returns the sums over a batch of the losses and of the correct answers: (2,)."""
        logits = self._classifier(images)
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        return torch.stack([loss, (logits.argmax(1) == labels).sum().float()])


def compiled(function, spec):
    """Returns the function as the specification's `against` wants it: compiled, or as it is."""
    if spec["against"] not in ("compile", "timm"):
        return function
    mode = spec["compile_mode"]
    return torch.compile(function, mode=None if mode == "default" else mode)


def make_optimizer(spec, model, device):
    """Returns the optimizer of the specification, fused on a GPU."""
    fused = {"fused": True} if device.type == "cuda" else {}
    if spec["optimizer"] == "sgd":
        return torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, **fused)
    return torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05, **fused)
