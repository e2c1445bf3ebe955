"""TensorFlow's SavedModel, for TensorFlow Serving: StableHLO inside of a TensorFlow graph, by
orbax-export.

Its signature `serving_default` takes `images`, uint8 (B, H, W, C), and returns `probabilities` and
`embedding`, float32. Both writing and loading need TensorFlow, which nothing else here does.
"""

import contextlib

import jax
import jax.numpy as jnp

from vision.bundle.runtimes import OUTPUTS, batched
from vision.errors import UserError
from vision.export.stablehlo import any_number

NAME = "saved_model"
TOLERANCE = {"float32": 1e-4}
SIGNATURE = "serving_default"
PLATFORMS = ("cpu", "cuda")
# Of erf(x) = x P(x²) / Q(x²), the highest power first: as XLA has it in float32, exact to 3e-7.
ERF_P = (
    0.00022905065861350646,
    0.0034082910107109506,
    0.050955695062380861,
    0.18520832239976145,
    1.128379143519084,
)
ERF_Q = (
    *(-1.1791602954361697e-7, 2.3547966471313185e-5, 0.0010179625278914885, 0.014070470171167667),
    *(0.11098505178285362, 0.49746925110067538, 1.0),
)
ERF_END = 3.7439211627767994  # from here on it is 1


def write(program, path, batch=0):
    """Writes a `vision.export.program.Program`, in float32.

    Args:
        program: what to write.
        path: of the directory.
        batch: images at a time; 0 = any number.

    Raises:
        UserError: TensorFlow is not installed; the model needs to know the number of images.
        OSError: the directory cannot be written.
    """
    tf = _tensorflow()
    try:
        from orbax.export import ExportManager, JaxModule, ServingConfig
    except ImportError as error:
        raise UserError(
            "exporting a SavedModel needs more: pip install 'vision[export,tfds]'"
        ) from error

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
    with _spelled_erf(), any_number(batch):
        ExportManager(module, [ServingConfig(SIGNATURE, input_signature=[images])]).save(str(path))


def load(path):
    """Returns `run(images) -> (probabilities, embedding)`: NumPy, float32, of any number of images;
    by TensorFlow.

    Raises:
        UserError: TensorFlow is not installed; the directory holds no such model.
    """
    tf = _tensorflow()
    try:
        model = tf.saved_model.load(str(path))
        shape = model.signatures[SIGNATURE].structured_input_signature[1]["images"].shape
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be loaded: export it again") from error

    def run(images):
        # it needs the model itself to stay
        found = model.signatures[SIGNATURE](images=tf.constant(images))
        return [found[name].numpy() for name in OUTPUTS]

    return batched(run, shape[0] or 0)


@contextlib.contextmanager
def _spelled_erf():
    """Has models compute `jax.lax.erf` by sums and products.

    JAX writes it as an operation of its own, which TensorFlow cannot read where the batch has any
    size.
    """
    erf = jax.lax.erf
    jax.lax.erf = _erf
    try:
        yield
    finally:
        jax.lax.erf = erf


def _erf(x):
    x = jnp.clip(x, -ERF_END, ERF_END)
    return (
        x
        * jnp.polyval(jnp.array(ERF_P, x.dtype), x * x)
        / jnp.polyval(jnp.array(ERF_Q, x.dtype), x * x)
    )


def _tensorflow():
    try:
        import tensorflow
    except ImportError as error:
        raise UserError(
            "a SavedModel needs TensorFlow: pip install 'vision[export,tfds]'"
        ) from error
    return tensorflow
