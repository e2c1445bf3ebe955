"""One optimizer step and one evaluation step, written as if for one device.

The state is a dict: step (int32), seed (uint32, so that runs which differ by it alone share one
program), params, rest (BatchNorm statistics and whatever else an objective keeps), opt, lr_scale
(what a plateau schedule multiplies the rate with), and ema where the config asks for it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from vision import metrics, parallel
from vision.data.augment import alternating_flips, augment, normalize, test_time_views
from vision.models.surgery import plain_name

AUGMENT, NOISE = range(2)  # the purposes that a step's key is split for


class TrainStep:
    """The compiled steps of a run.

    Args:
        config: the run's config.
        spec: the objective's `StateSpec`.
        schedule, optimizer: from `vision.training.optimizer`.
        num_classes: C.
        examples: images of the training split.
        steps: length of the training.
        mesh: from `vision.parallel.make_mesh`.

    Attributes:
        abstract_state: the state's shapes, dtypes and shardings.
        adapts_to_data: whether `initialize_from_data` is to be called before the first step.
        parameters: (how many there are, how many of them learn).
    """

    def __init__(self, config, spec, schedule, optimizer, num_classes, examples, steps, mesh):
        self._config = config
        self._spec = spec
        self._schedule = schedule
        self._optimizer = optimizer
        self._num_classes = num_classes
        self._examples = examples
        self._steps = steps
        self._mesh = mesh
        self.adapts_to_data = spec.adapts_to_data
        self.parameters = spec.parameters
        # then what stands for the images is their embeddings
        self._embedded = config.transfer.cache_embeddings
        shapes = jax.eval_shape(self._initialize)
        lies = parallel.state_sharding(shapes, mesh)
        self.abstract_state = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, lies
        )
        whole = parallel.replicated(mesh)
        self.initialize = jax.jit(self._initialize, out_shardings=lies)
        self.begin = jax.jit(self._begin, out_shardings=lies)
        self.initialize_from_data = jax.jit(self._initialize_from_data, out_shardings=lies)
        self.update = jax.jit(self._update, donate_argnums=0, out_shardings=(lies, whole))
        self.update_many = jax.jit(self._update_many, donate_argnums=0, out_shardings=(lies, whole))
        self.evaluate = jax.jit(self._evaluate, out_shardings=whole)
        self.embed = jax.jit(self._embed, out_shardings=whole)
        self.look = jax.jit(
            lambda state, batch, data: self._augmented(state, batch, data)[0], out_shardings=whole
        )

    def _initialize(self):
        """Returns the state before the first step."""
        return self._begin(*self._spec.initialize())

    def _initialize_from_data(self, state, images):
        """Returns the state before the first step, after the model has seen uint8 images (N, H, W,
        C)."""
        params = parallel.gather(state["params"], self._mesh)
        objective = self._spec.merge(params, state["rest"], jax.random.key(0))
        objective.model.initialize_from_data(self._normalize(images))
        return self._begin(*self._spec.take_apart(objective))

    def start_from(self, state, arrays):
        """Returns the state before the first step with the model's variables that `arrays` has,
        {our name: array}."""

        def filled(tree):
            flat = traverse_util.flatten_dict(tree)
            for path, old in flat.items():
                name = ".".join(path[1:])
                # of a layer with a low-rank change
                name = name if name in arrays else plain_name(name)
                if path[0] == "model" and name in arrays:
                    flat[path] = parallel.put_replicated(
                        np.asarray(arrays[name], old.dtype), self._mesh
                    )
            return traverse_util.unflatten_dict(flat)

        return self.begin(filled(state["params"]), filled(state["rest"]))

    def _begin(self, params, rest):
        """Returns the state before the first step, from given parameters."""
        state = {
            "step": jnp.int32(0),
            "seed": jnp.uint32(self._config.seed % 2**32),
            "params": params,
            "rest": rest,
            "opt": self._optimizer.init(params),
            "lr_scale": jnp.float32(1),
        }
        if self._config.optimizer.ema:
            state["ema"] = params
        return state

    def _update(self, state, batch, data):
        """Returns (state, metrics) after one step.

        Args:
            state: see the top of the file; its buffers are donated.
            batch: {"index": int32 (B,)}, the images' places in the training split, and where `data`
                is empty also {"image": uint8 (B, H, W, C), "label": int32 (B,)}.
            data: {"image", "label"} of the whole training split where it lives on the device, else
                {}.
        """
        images, targets = self._augmented(state, batch, data)
        inputs = {"image": self._normalize(images), "label": targets}
        gradient, rest, scalars = self._gradient(state, inputs)
        updates, opt = self._optimizer.update(gradient, state["opt"], state["params"])
        updates = jax.tree.map(lambda u: u * state["lr_scale"].astype(u.dtype), updates)
        params = optax.apply_updates(state["params"], updates)
        if self._spec.has_after_update:
            objective = self._spec.merge(params, rest, _key(state, NOISE))
            objective.after_update()
            params, rest = self._spec.take_apart(objective)
        new = state | {"step": state["step"] + 1, "params": params, "rest": rest, "opt": opt}
        if "ema" in state:
            new["ema"] = self._average(state["ema"], params, state["step"])
        rate = self._schedule(state["step"]) * state["lr_scale"]
        return new, scalars | {"grad_norm": optax.global_norm(gradient), "learning_rate": rate}

    def _update_many(self, state, batches, data):
        """As `_update` with several batches (K, B, ...), one step after the other; the metrics are
        (K,)."""
        return jax.lax.scan(lambda state, batch: self._update(state, batch, data), state, batches)

    def _gradient(self, state, inputs):
        """Returns (gradient, rest, metrics), over `train.accumulate` parts of the batch one after
        the other."""
        parts = self._config.train.accumulate
        key = _key(state, NOISE)
        progress = state["step"].astype(jnp.float32) / self._steps

        def loss(params, rest, part, key):
            objective = self._merge(params, rest, key)
            objective.train()
            value, scalars = objective.loss(part | {"progress": progress})
            return value, (self._spec.take_apart(objective)[1], scalars | {"loss": value})

        gradient_of = jax.grad(loss, has_aux=True)
        if parts == 1:
            gradient, (rest, scalars) = gradient_of(state["params"], state["rest"], inputs, key)
            return gradient, rest, scalars

        def one(carry, part):
            total, rest = carry
            gradient, (rest, scalars) = gradient_of(
                state["params"], rest, part[0], jax.random.fold_in(key, part[1])
            )
            return (jax.tree.map(jnp.add, total, gradient), rest), scalars

        # Each part takes rows from every device, so that none of them idles: (B, ...) -> (parts, B
        # / parts, ...).
        split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), inputs)
        zero = jax.tree.map(jnp.zeros_like, state["params"])
        # XLA's CPU backend runs convolutions nine times slower inside a loop, so there the parts
        # are unrolled.
        unroll = parts if jax.default_backend() == "cpu" else 1
        (total, rest), scalars = jax.lax.scan(
            one, (zero, state["rest"]), (split, jnp.arange(parts)), unroll=unroll
        )
        mean = functools.partial(jnp.mean, axis=0)
        return jax.tree.map(lambda g: g / parts, total), rest, jax.tree.map(mean, scalars)

    def _evaluate(self, state, batch, data):
        """Returns `metrics.batch_sums` of one batch, which also holds "mask": bool (B,)."""
        images, labels = self._fetch(batch, data)
        objective = self._merge(state.get("ema", state["params"]), state["rest"], jax.random.key(0))
        objective.eval()
        views = test_time_views(self._config.train.test_time_augmentation, self._normalize(images))
        logits = sum(weight * objective.model(view) for weight, view in views)
        return metrics.batch_sums(logits, labels, batch["mask"])

    def _embed(self, state, batch, data):
        """Returns (embeddings float32 (B, D), mask bool (B,)) of one batch."""
        images, _ = self._fetch(batch, data)
        objective = self._merge(state["params"], state["rest"], jax.random.key(0))
        objective.eval()
        return objective.model.embed(self._normalize(images)), batch["mask"]

    def _merge(self, params, rest, key):
        objective = self._spec.merge(
            parallel.gather(params, self._mesh), parallel.gather(rest, self._mesh), key
        )
        if self._embedded:
            objective.model.embed = _as_it_is
        return objective

    def _fetch(self, batch, data):
        if not data:
            return batch["image"], batch["label"]
        sharding = parallel.batch_sharding(self._mesh)
        rows = {
            k: jax.lax.with_sharding_constraint(v[batch["index"]], sharding)
            for k, v in data.items()
        }
        return rows["image"], rows["label"]

    def _augmented(self, state, batch, data):
        c = self._config
        (images, labels) = self._fetch(batch, data)
        if self._embedded:
            return images, jax.nn.one_hot(labels, self._num_classes)
        flips = None
        if c.augment.flip_alternating:
            # unsigned: 4 billion images before it wraps
            first = state["step"].astype(jnp.uint32) * len(labels)
            epochs = (first + jnp.arange(len(labels), dtype=jnp.uint32)) // self._examples
            flips = alternating_flips(state["seed"], batch["index"], epochs)
        return augment(
            c.augment, _key(state, AUGMENT), images, labels, self._num_classes, flips=flips
        )

    def _normalize(self, images):
        """Returns the model's input, at least float32: a model rounds it to its own dtype where
        that does no harm."""
        c = self._config
        if self._embedded:
            return images
        return normalize(
            images,
            c.data.normalize,
            c.data.mean,
            c.data.std,
            jnp.promote_types(c.model.dtype, "float32"),
        )

    def _average(self, average, params, step):
        # The plain mean at first, so that the initialization is soon forgotten.
        decay = jnp.minimum(self._config.optimizer.ema, (1 + step) / (10 + step))
        return jax.tree.map(
            lambda a, p: (decay * a + (1 - decay) * p).astype(p.dtype), average, params
        )


def _as_it_is(embeddings):
    return embeddings


def _key(state, purpose):
    """Every step's key follows from (seed, step) alone, so that a resumed run repeats it
    exactly."""
    return jax.random.fold_in(
        jax.random.fold_in(jax.random.key(state["seed"]), state["step"]), purpose
    )
