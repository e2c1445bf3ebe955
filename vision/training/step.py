"""One optimizer step and one evaluation step, written as if for one device.

The model state between steps is a dict:

    step       int32 (), finished steps
    seed       uint32 (): runs that differ by it only share one program
    params     the parameters that learn
    rest       BatchNorm statistics, frozen parameters and what else the objective keeps
    opt        the optimizer's state; {player: state} if the objective has players
    lr_scale   float32 (), what a plateau schedule multiplies the rate with
    ema        the moving average of params, if the config asks for it
    slow       BatchNorm's statistics as lookahead averages them, if there are both
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vision import cpu, metrics, parallel
from vision.data.augment import test_time_views
from vision.data.loading.loader import Batch
from vision.training.inputs import NOISE, Inputs, step_key
from vision.training.lookahead import pull_back
from vision.training.state import ALL, StateSpec, Tree, select
from vision.training.variables import check_values, placed

State = dict[str, Any]
Scalars = dict[str, jax.Array]
Optimizers = Mapping[str, optax.GradientTransformation]
Rates = Mapping[str, jax.Array]


class TrainStep:
    """The compiled steps of a run.

    Args:
        config: the run's config.
        spec: the objective's `StateSpec`.
        inputs: what a model is given of a batch.
        schedule: from `vision.training.optimizer.make_schedule`.
        optimizers: {player: Optax transformation}; {"": transformation} without players.
        steps: length of the training.
        mesh: from `vision.parallel.make_mesh`.
        make_rated: returns (schedule, optimizers) of {"learning_rate", "weight_decay": float32 ()}
            that a step is given, in place of the config's; the optimizers' states are alike.

    Attributes:
        abstract_state: the state's shapes, dtypes and shardings.
        adapts_to_data: whether `initialize_from_data` must be called before the first step.
        parameters: (number of parameters, number of those that learn).
        constant: attributes that never change, which checkpoints leave out.
        initialize, begin, initialize_from_data, update, update_many, evaluate, test, embed,
            preview: the methods of the same names with an underscore, jitted.
    """

    def __init__(
        self,
        config: ConfigDict,
        spec: StateSpec,
        inputs: Inputs,
        schedule: optax.Schedule,
        optimizers: Optimizers,
        steps: int,
        mesh: Mesh,
        *,
        make_rated: Callable[[Rates], tuple[optax.Schedule, Optimizers]] | None = None,
    ):
        self._config = config
        self._spec = spec
        self._inputs = inputs
        self._schedule = schedule
        self._optimizers = optimizers
        self._steps = steps
        self._mesh = mesh
        self._make_rated = make_rated
        self.adapts_to_data = spec.adapts_to_data
        self.parameters = spec.parameters
        self.constant = spec.constant
        # One object for both: JAX keeps what it has traced for as long as the function lives.
        initialize = self._initialize
        shapes = jax.eval_shape(initialize)
        shardings = parallel.state_sharding(shapes, mesh)
        self.abstract_state = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
        )
        replicated = parallel.replicated(mesh)
        updated = (shardings, replicated)
        self.initialize = jax.jit(initialize, out_shardings=shardings)
        self.begin = jax.jit(self._begin, out_shardings=shardings)
        self.initialize_from_data = jax.jit(self._initialize_from_data, out_shardings=shardings)
        self.update = jax.jit(self._update, donate_argnums=0, out_shardings=updated)
        self.update_many = jax.jit(self._update_many, donate_argnums=0, out_shardings=updated)
        evaluate = cpu.fused(self._evaluate, mesh.size)
        test = cpu.fused(self._test, mesh.size)
        embed = cpu.fused(self._embed, mesh.size)
        self.evaluate = jax.jit(evaluate, out_shardings=replicated)
        self.test = jax.jit(test, out_shardings=replicated)
        self.embed = jax.jit(embed, out_shardings=replicated)
        self.encode = jax.jit(cpu.fused(self._encode, mesh.size), out_shardings=replicated)
        self.preview = jax.jit(inputs.preview, out_shardings=replicated)

    def _initialize(self) -> State:
        """Returns the state before the first step."""
        return self._begin(*self._spec.initialize())

    def _initialize_from_data(self, state: State, images: jax.Array) -> State:
        """Returns the state before the first step, after the model has seen some images.

        Args:
            state: from `initialize`.
            images: uint8 (N, H, W, C).
        """
        params = parallel.gather(state["params"], self._mesh)
        objective = self._spec.merge(params, state["rest"], jax.random.key(0))
        objective.model.initialize_from_data(self._inputs.normalize(images))
        return self._begin(*self._spec.take_apart(objective))

    def start_from(
        self,
        state: State,
        arrays: Mapping[str, Mapping[str, np.ndarray]],
        copies: tuple[str, ...] = (),
    ) -> State:
        """Returns the state before the first step, with given values for some variables.

        Args:
            state: from `initialize`.
            arrays: {attribute of the objective: {name of a variable in it: array}}.
            copies: attributes that then become copies of the model.

        Raises:
            UserError: see `vision.training.variables.check_values`.
        """
        check_values(self.abstract_state, arrays, copies)
        return self.begin(*placed(state, arrays, copies, self._mesh))

    def _begin(self, params: Tree, rest: Tree) -> State:
        """Returns the state before the first step, from given parameters."""
        state = {
            "step": jnp.int32(0),
            "seed": jnp.uint32(self._config.seed % 2**32),
            "params": params,
            "rest": rest,
            "opt": self._by_player(
                {
                    player: self._optimizers[player].init(select(params, attributes))
                    for player, attributes in self._spec.players.items()
                }
            ),
            "lr_scale": jnp.float32(1),
        }
        if self._config.optimizer.ema:
            state["ema"] = params
        statistics = self._spec.statistics(rest)
        if self._config.optimizer.lookahead and statistics:
            # Copies, because the steps donate the buffers of both.
            state["slow"] = jax.tree.map(jnp.array, statistics)
        return state

    def completed(self, state: State) -> State:
        """Returns a restored state with what a checkpoint of earlier code lacks.

        That is "slow": it then starts from the statistics that the checkpoint has.
        """
        if "slow" in state or "slow" not in self.abstract_state:
            return state
        shardings = jax.tree.map(lambda shape: shape.sharding, self.abstract_state["slow"])
        copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings)
        return state | {"slow": copy(self._spec.statistics(state["rest"]))}

    def _by_player(self, states: dict[str, Any]) -> Any:
        """Returns the optimizers' states as the model state holds them."""
        return states.get(ALL, states)

    def _update(
        self, state: State, batch: Batch, data: Batch, rates: Rates | None = None
    ) -> tuple[State, Scalars]:
        """Returns (state, scalars) after one step.

        Args:
            state: see the top of the file; its buffers are donated.
            batch: from the training loader's `train_batches`.
            data: the training loader's data.
            rates: what takes the place of the config's learning rate and weight decay, if steps of
                several runs are one program: see `vision.training.shared`.

        Returns:
            The scalars are the objective's, and "loss", "grad_norm" and "learning_rate". With
            players, "loss" is the sum of theirs, and PLAYER_loss each one's own.
        """
        schedule, optimizers = self._rated(rates)
        inputs = self._inputs.train(state, batch, data)
        params = state["params"]
        rest = state["rest"]
        opt = {}
        turns = []
        gradients: Tree = {}
        for number, player in enumerate(self._spec.players):
            mine = select(params, self._spec.players[player])
            gradient, rest, scalars = self._gradient(
                state, params, mine, rest, inputs, (number, player)
            )
            updated, opt[player] = self._apply(state, gradient, mine, player, optimizers[player])
            params = params | updated
            gradients |= gradient
            turns.append(scalars | {"grad_norm": optax.global_norm(gradient)})
        if self._spec.has_after_update:
            params, rest = self._follow(params, rest, gradients, step_key(state, NOISE))
        new = state | {
            "step": state["step"] + 1,
            "params": params,
            "rest": rest,
            "opt": self._by_player(opt),
        }
        if "ema" in state:
            new["ema"] = self._average(state["ema"], params, state["step"])
        if "slow" in state:
            new["slow"], new["rest"] = self._pull_back(state["slow"], rest, new["step"])
        scalars = {"learning_rate": schedule(state["step"]) * state["lr_scale"]}
        return new, self._join(turns) | scalars

    def _update_many(
        self, state: State, batches: Batch, data: Batch, rates: Rates | None = None
    ) -> tuple[State, Scalars]:
        """As `_update` with several batches (K, B, ...) in a row; the scalars are (K,)."""
        return jax.lax.scan(
            lambda state, batch: self._update(state, batch, data, rates), state, batches
        )

    def _rated(self, rates: Rates | None) -> tuple[optax.Schedule, Optimizers]:
        """Returns (schedule, optimizers): the config's, or those of given rates."""
        if rates is None or self._make_rated is None:
            return self._schedule, self._optimizers
        return self._make_rated(rates)

    def _follow(
        self, params: Tree, rest: Tree, gradients: Tree, key: jax.Array
    ) -> tuple[Tree, Tree]:
        """Returns (params, rest) after the objective's `after_update`."""
        objective = self._spec.merge(params, rest, key)
        self._spec.set_training(objective)
        arguments = {"gradients": gradients} if self._spec.takes_gradients else {}
        objective.after_update(**arguments)
        return self._spec.take_apart(objective)

    def _apply(
        self,
        state: State,
        gradient: Tree,
        mine: Tree,
        player: str,
        optimizer: optax.GradientTransformation,
    ) -> tuple[Tree, Any]:
        """Lets a player update its attributes.

        Args:
            state: the state before the step.
            gradient: of the player's parameters.
            mine: those parameters.
            player: the player.
            optimizer: its optimizer.

        Returns:
            (its parameters afterwards, its optimizer state).
        """
        opt = state["opt"] if player == ALL else state["opt"][player]
        updates, opt = optimizer.update(gradient, opt, mine)
        updates = jax.tree.map(lambda u: u * state["lr_scale"].astype(u.dtype), updates)
        return optax.apply_updates(mine, updates), opt

    def _join(self, turns: list[Scalars]) -> Scalars:
        """Returns the scalars of a step from those of its players."""
        if ALL in self._spec.players:
            return turns[0]
        joined: Scalars = {}
        for player, scalars in zip(self._spec.players, turns, strict=True):
            joined |= scalars | {f"{player}_loss": scalars["loss"]}
        losses = [scalars["loss"] for scalars in turns]
        joined["loss"] = sum(losses[1:], losses[0])
        joined["grad_norm"] = optax.global_norm([scalars["grad_norm"] for scalars in turns])
        return joined

    def _gradient(
        self,
        state: State,
        params: Tree,
        mine: Tree,
        rest: Tree,
        inputs: dict[str, Any],
        turn: tuple[int, str],
    ) -> tuple[Tree, Tree, Scalars]:
        """Returns (gradient of `mine`, rest, scalars).

        With `train.accumulate`, parts of the batch follow one another.
        """
        parts = self._config.train.accumulate
        number, player = turn
        key = step_key(state, NOISE)
        if number:
            key = jax.random.fold_in(key, number)
        progress = state["step"].astype(jnp.float32) / self._steps
        arguments = () if player == ALL else (player,)

        def loss(mine: Tree, rest: Tree, part: dict[str, Any], key: jax.Array) -> Any:
            objective = self._merge(params | mine, rest, key)
            self._spec.set_training(objective)
            value, scalars = objective.loss(part | {"progress": progress}, *arguments)
            return value, (self._spec.take_apart(objective)[1], scalars | {"loss": value})

        gradient_of = jax.grad(loss, has_aux=True)
        if parts == 1:
            gradient, (rest, scalars) = gradient_of(mine, rest, inputs, key)
            return gradient, rest, scalars

        def add_part(carry: Any, part: Any) -> Any:
            total, rest = carry
            examples, place = part
            part_key = jax.random.fold_in(key, place)
            gradient, (rest, scalars) = gradient_of(mine, rest, examples, part_key)
            return (jax.tree.map(jnp.add, total, gradient), rest), scalars

        # Each part takes rows from every device, so that none of them is idle:
        # (B, ...) -> (parts, B / parts, ...).
        split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), inputs)
        zeros = jax.tree.map(jnp.zeros_like, mine)
        # XLA's CPU backend runs convolutions nine times slower inside a loop, so there the parts
        # are unrolled.
        unroll = parts if jax.default_backend() == "cpu" else 1
        (total, rest), scalars = jax.lax.scan(
            add_part, (zeros, rest), (split, jnp.arange(parts)), unroll=unroll
        )
        gradient = jax.tree.map(lambda g: g / parts, total)
        return gradient, rest, jax.tree.map(functools.partial(jnp.mean, axis=0), scalars)

    def _evaluate(self, state: State, batch: Batch, data: Batch) -> tuple[Scalars, jax.Array]:
        """Returns (`metrics.batch_sums`, `metrics.batch_pairs`) of one batch.

        It also holds "mask": bool (B,).
        """
        return self._test(state, batch, data)[:2]

    def _test(
        self, state: State, batch: Batch, data: Batch
    ) -> tuple[Scalars, jax.Array, jax.Array]:
        """Returns what `_evaluate` does, and the logits, float (B, C)."""
        images, labels = self._inputs.evaluate(batch, data)
        objective = self._evaluated(state)
        views = test_time_views(self._config.train.test_time_augmentation, images)
        logits = sum(weight * objective.model(view) for weight, view in views)
        outputs = (logits, labels, batch["mask"])
        return metrics.batch_sums(*outputs), metrics.batch_pairs(*outputs), logits

    def _embed(self, state: State, batch: Batch, data: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns (embeddings float32 (B, D), mask bool (B,)) of one batch."""
        images, _ = self._inputs.evaluate(batch, data)
        return self._evaluated(state).model.embed(images), batch["mask"]

    def _encode(
        self, state: State, batch: Batch, data: Batch
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        """Returns (what the objective's `encode` does, mask bool (B,)) of one batch."""
        inputs = self._inputs.encode(batch, data)
        return self._evaluated(state).encode(inputs), batch["mask"]

    def _evaluated(self, state: State) -> Any:
        """Returns the objective in evaluation mode, with averaged parameters if there are any."""
        params: Tree = state["ema" if "ema" in state else "params"]
        objective = self._merge(params, state["rest"], jax.random.key(0))
        objective.eval()
        return objective

    def _merge(self, params: Tree, rest: Tree, key: jax.Array) -> Any:
        params = parallel.gather(params, self._mesh)
        return self._spec.merge(params, parallel.gather(rest, self._mesh), key)

    def _pull_back(self, slow: Tree, rest: Tree, count: jax.Array) -> tuple[Tree, Tree]:
        """Returns (slow statistics, rest) after lookahead's turn, as the weights have had it."""
        fast = self._spec.statistics(rest)
        period = self._config.optimizer.lookahead
        slow, fast = pull_back(slow, fast, count, period, self._steps)
        return slow, self._spec.with_statistics(rest, fast)

    def _average(self, average: Tree, params: Tree, step: jax.Array) -> Tree:
        # The plain mean at first, so that the initialization is soon forgotten.
        decay = jnp.minimum(self._config.optimizer.ema, (1 + step) / (10 + step))
        return jax.tree.map(
            lambda a, p: (decay * a + (1 - decay) * p).astype(p.dtype), average, params
        )
