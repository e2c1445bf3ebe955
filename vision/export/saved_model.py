"""TensorFlow's SavedModel, for TensorFlow Serving.

It is StableHLO in a TensorFlow graph, by orbax-export. Its signature `serving_default` takes
`images`, uint8 (B, H, W, C), and returns `probabilities` and `embedding`, float32. Writing and
loading need TensorFlow, which nothing else here does.
"""

import contextlib
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vision.bundle.runtimes import OUTPUTS, batched
from vision.errors import UserError
from vision.export.program import Program
from vision.export.stablehlo import any_number
from vision.support.extras import require

NAME = "saved_model"
MODEL_FILE = f"{NAME}/saved_model.pb"
TOLERANCE = {"float32": 1e-4}
SIGNATURE = "serving_default"
PLATFORMS = ("cpu", "cuda")
# erf(x) = x P(x²) / Q(x²), coefficients of the highest power first, as XLA computes it in float32;
# exact to 3e-7
ERF_P = (
    0.00022905065861350646,
    0.0034082910107109506,
    0.050955695062380861,
    0.18520832239976145,
    1.128379143519084,
)
ERF_Q = (
    -1.1791602954361697e-7,
    2.3547966471313185e-5,
    0.0010179625278914885,
    0.014070470171167667,
    0.11098505178285362,
    0.49746925110067538,
    1.0,
)
ERF_END = 3.7439211627767994  # from here on erf is 1


def write(program: Program, path: pathlib.Path | str, batch: int = 0) -> None:
    """Writes a program, in float32.

    Args:
        program: the program to write.
        path: the directory to write.
        batch: images in a batch; 0 for any number.

    Raises:
        UserError: TensorFlow is not installed; the model's computation depends on the number of
            images.
        OSError: the directory cannot be written.
    """
    tf = _tensorflow()
    require("a SavedModel", "export", "tfds", only=("orbax-export",))
    from orbax.export import ExportManager, JaxModule, ServingConfig

    def function(_, images):
        return dict(zip(OUTPUTS, program.function(images), strict=True))

    shape = program.shape(batch or 1).shape
    module = JaxModule(
        {},
        function,
        input_polymorphic_shape=None if batch else "batch, ...",
        jax2tf_kwargs={"native_serialization_platforms": PLATFORMS},
    )
    images = tf.TensorSpec((batch or None, *shape[1:]), tf.uint8, name="images")
    with _rational_erf(), any_number(batch):
        ExportManager(module, [ServingConfig(SIGNATURE, input_signature=[images])]).save(str(path))


def load(path: pathlib.Path | str) -> Callable:
    """Returns `run(images) -> (probabilities, embeddings)`, float32, by TensorFlow.

    It takes any number of images.

    Raises:
        UserError: TensorFlow is not installed; the directory does not contain such a model.
    """
    tf = _tensorflow()
    try:
        model = tf.saved_model.load(str(path))
        shape = model.signatures[SIGNATURE].structured_input_signature[1]["images"].shape
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be loaded: export it again") from error

    def run(images):
        # not the signature alone, which does not keep the model alive
        outputs = model.signatures[SIGNATURE](images=tf.constant(images))
        return [outputs[name].numpy() for name in OUTPUTS]

    return batched(run, shape[0] or 0)


@contextlib.contextmanager
def _rational_erf():
    """Has models compute `jax.lax.erf` by sums and products.

    JAX writes it as an operation of its own, which TensorFlow cannot read if the batch size is
    free.
    """
    erf = jax.lax.erf
    jax.lax.erf = _erf
    try:
        yield
    finally:
        jax.lax.erf = erf


def _erf(x):
    x = jnp.clip(x, -ERF_END, ERF_END)
    numerator = x * jnp.polyval(jnp.array(ERF_P, x.dtype), x * x)
    return numerator / jnp.polyval(jnp.array(ERF_Q, x.dtype), x * x)


def _tensorflow():
    require("a SavedModel", "export", "tfds", only=("tensorflow",))
    import tensorflow

    return tensorflow
