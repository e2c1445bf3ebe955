"""Lookahead: the weights are pulled back to a slow average of themselves, now and then.

Zhang et al. 2019 (arXiv:1907.08610), with the schedule of Jordan 2024 (arXiv:2404.00498, section
3.4): slow = d slow + (1 - d) weights, then weights = slow, with d = 0.95^period (t / steps)^3 after
step t. The last step pulls them back in any case, unless there are fewer steps than a period.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class LookaheadState(NamedTuple):
    """The state of `lookahead`.

    Attributes:
        inner: the inner optimizer's state.
        slow: the slow weights.
        count: finished steps, int32 ().
    """

    inner: Any
    slow: Any
    # Checkpoints name it so, whatever a tuple's method is called.
    count: jax.Array  # type: ignore[assignment]


def lookahead(
    inner: optax.GradientTransformation, period: int, steps: int
) -> optax.GradientTransformation:
    """Returns an optimizer whose weights are pulled back to a slow average of themselves.

    The update must be applied unchanged: scaled, it would not arrive at the slow weights.

    Args:
        inner: the optimizer.
        period: steps, at least 1.
        steps: length of the training.
    """

    def init(params: Any) -> LookaheadState:
        # Copies, because the trainer donates the parameters' buffers.
        return LookaheadState(
            inner.init(params), jax.tree.map(jnp.array, params), jnp.zeros((), jnp.int32)
        )

    def update(updates: Any, state: LookaheadState, params: Any) -> tuple[Any, LookaheadState]:
        updates, new = inner.update(updates, state.inner, params)
        count = state.count + 1
        fast = jax.tree.map(jnp.add, params, updates)
        slow = _follow(state.slow, fast, count, period, steps)
        returns = _returns(count, period, steps)
        updates = jax.tree.map(lambda s, p, u: jnp.where(returns, s - p, u), slow, params, updates)
        return updates, LookaheadState(new, slow, count)

    return optax.GradientTransformation(init, update)


def pull_back(slow: Any, fast: Any, count: jax.Array, period: int, steps: int) -> tuple[Any, Any]:
    """Returns (slow, fast) as `lookahead` treats weights, for what no optimizer updates.

    The author's code of Jordan 2024 treats BatchNorm's running averages so, because statistics of
    the fast weights do not fit the slow ones.

    Args:
        slow: tree of arrays, the slow averages before the step.
        fast: tree of arrays, the values after the step.
        count: finished steps, int32 (), this one included.
        period: steps, at least 1.
        steps: length of the training.
    """
    slow = _follow(slow, fast, count, period, steps)
    returns = _returns(count, period, steps)
    return slow, jax.tree.map(lambda s, f: jnp.where(returns, s, f), slow, fast)


def _follow(slow: Any, fast: Any, count: jax.Array, period: int, steps: int) -> Any:
    decay = 0.95**period * (count / steps) ** 3
    averages = count % period == 0

    def follow(slow: jax.Array, fast: jax.Array) -> jax.Array:
        return jnp.where(averages, decay * slow + (1 - decay) * fast, slow).astype(slow.dtype)

    return jax.tree.map(follow, slow, fast)


def _returns(count: jax.Array, period: int, steps: int) -> jax.Array:
    return (count % period == 0) | ((count == steps) & (steps >= period))
