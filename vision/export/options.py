"""What to export a classifier as, and which choices fit together."""

import dataclasses
from collections.abc import Sequence

from vision.errors import UserError, check_choice, check_count, check_range
from vision.export import web

FORMATS = ("onnx", "tflite", "stablehlo", "saved_model", "coreml", "safetensors", "web")
PRECISIONS = ("float32", "float16", "int8")
# the formats whose int8 is calibrated with images, and the modules that make it
QUANTIZERS = {"onnx": "vision.compression.int8", "tflite": "vision.export.tflite_int8"}
REDUCED = (*QUANTIZERS, "coreml")  # Core ML's own `write` takes the precision
SINGLE = ("coreml", "web")  # they take one image at a time


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What to export a classifier as.

    Attributes:
        formats: some of `FORMATS`; afterwards each once, in the order of `FORMATS`, those that
            `vision.bundle.directory.open_bundle` can run first.
        precision: "float32"; for ONNX, TFLite, Core ML and the page also "float16" and "int8".
        batch: images in a batch; 0 means any number, if the format allows it. Core ML takes an
            image at a time.
        heatmap: whether model.onnx also returns heat maps; see `vision.export.heat`.
        rgb: whether a gray model's graph takes three channels; see `vision.export.preparation`.
        resize_inside: side of the images that the graph takes and resizes itself, pixels; 0 for
            the model's own size, which the caller resizes to.
        splits: whether the bundle lists the names of the run's images, splits.csv.gz.
        web_runtime: one of `vision.export.web.RUNTIMES`, what the page of "web" runs the model
            with; the format that it reads is added to `formats`.
        web_packages: a folder with the runtime's npm packages; "" to download them.

    Raises:
        UserError: the options are unknown or do not fit together.
    """

    formats: Sequence[str] = ("onnx",)
    precision: str = "float32"
    batch: int = 0
    heatmap: bool = False
    splits: bool = True
    rgb: bool = False
    resize_inside: int = 0
    web_runtime: str = next(iter(web.RUNTIMES))
    web_packages: str = ""

    def __post_init__(self) -> None:
        for name in self.formats:
            check_choice("--format", name, FORMATS)
        if web.FOLDER in self.formats:
            self._add_web()
        formats = tuple(name for name in FORMATS if name in self.formats)
        object.__setattr__(self, "formats", formats)
        self._check_precision()
        self._check_batch()
        self._check_graph()

    def _add_web(self):
        """Adds the format that the page of "web" reads."""
        check_choice("--web-runtime", self.web_runtime, web.RUNTIMES)
        object.__setattr__(self, "formats", (*self.formats, web.RUNTIMES[self.web_runtime]))

    def _check_precision(self):
        check_choice("--precision", self.precision, PRECISIONS)
        float_only = [name for name in self.formats if name not in (*REDUCED, web.FOLDER)]
        if self.precision != "float32" and float_only:
            raise UserError(
                f"--precision {self.precision} is only for --format "
                f"{', '.join((*REDUCED, web.FOLDER))}: export {float_only[0]} separately"
            )

    def _check_batch(self):
        rule = "at least 1, or 0 for any number of images"
        check_range("--batch", self.batch, self.batch >= 0, rule)
        check_count("--batch", self.batch, 0, 65_536)
        for name in SINGLE:
            if self.batch > 1 and name in self.formats:
                raise UserError(
                    f"--batch {self.batch}: --format {name} takes one image at a time; leave out "
                    "--batch"
                )

    def _check_graph(self):
        """Checks what changes the graph's inputs and outputs."""
        if self.heatmap and "onnx" not in self.formats:
            raise UserError("--heatmap needs --format onnx: add it")
        check_range("--resize-inside", self.resize_inside, self.resize_inside >= 0, "at least 0")
        if self.resize_inside and self.heatmap:
            raise UserError("--heatmap shows the model's own crop: leave out --resize-inside")
        inside = "--rgb" if self.rgb else "--resize-inside" if self.resize_inside else ""
        if inside and "safetensors" in self.formats:
            raise UserError(
                f"{inside} changes a graph, and safetensors has none: leave one of them out"
            )
