"""What the shapes of unknown weights tell: the number of classes, channels, the images' size."""

import dataclasses
import math

from flax import nnx
from ml_collections import ConfigDict

from vision.errors import UserError
from vision.models import build
from vision.models.layers.streams import Streams
from vision.models.surgery import variables
from vision.models.weights.files import locate, read
from vision.models.weights.names import file_name, find_scheme
from vision.support.modules import find

SIZE = 224  # pixels, for models whose variables do not depend on it


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes that a model needs to be built; 0 for those that the weights do not tell.

    Attributes:
        classes: number of logits.
        channels: of the images.
        image_size: side of the images, pixels; told only by learned positions.
    """

    classes: int = 0
    channels: int = 0
    image_size: int = 0


def read_sizes(c: ConfigDict, heads: tuple[str, ...]) -> Sizes:
    """Returns the sizes of the model that wrote the file which `config.model.pretrained` names.

    Args:
        c: config.model.
        heads: prefixes of the head's variables.

    Raises:
        UserError: the file cannot be read, or does not fit the model.
    """
    module = find("model", c.name, "vision.models")
    if not hasattr(module, "NAMES"):
        return Sizes()
    try:
        model = nnx.eval_shape(lambda: build(c, 1000, SIZE, 3, Streams(0)))
    except UserError:  # such as a patch that does not divide the size
        return Sizes()
    arrays = read(locate(c.pretrained))
    shapes = {name: variable.shape for name, variable in variables(model).items()}
    try:
        scheme, named = find_scheme(module, shapes, arrays)
    except UserError as error:
        raise UserError(f"model.pretrained = '{c.pretrained}': {error}") from error
    rules = module.NAMES[scheme]
    sources = {name: file_name(name, rules) for name in shapes}
    stored = {name: named[source] for name, source in sources.items() if source in named}
    biases = [name for name in stored if name.startswith(heads) and name.endswith("bias")]
    kernels = [n for n, a in stored.items() if n.endswith("kernel") and a.ndim == 4]
    channels = stored[kernels[0]].shape[1] if kernels else 0
    return Sizes(
        classes=len(stored[biases[0]]) if biases else 0,
        channels=channels if channels in (1, 3) else 0,
        image_size=_side_of(stored),
    )


def _side_of(stored):
    """Returns the side of the images that a ViT's learned positions are for; 0 without them."""
    positions = stored.get("positions")
    patches = stored.get("patches.kernel")
    if positions is None or patches is None or positions.ndim != 3 or patches.ndim != 4:
        return 0
    for extra in range(3):  # class and distillation tokens
        grid = math.isqrt(max(0, positions.shape[1] - extra))
        if grid and grid**2 + extra == positions.shape[1]:
            return grid * patches.shape[2]
    return 0
