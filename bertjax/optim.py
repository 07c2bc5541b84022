"""The optimizer as an optax.GradientTransformation, and the learning rate as an optax.Schedule.

bertjax's own optimizers are chains of the transformations here; any other is optax's, by name. A train state
holds an optimizer's state as nested dicts of arrays, which are sharded and saved like the parameters: `init`,
`update` and `eval_params` are the only places that know it as optax does.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from optax.contrib import MuonDimensionNumbers, ScheduleFreeState, schedule_free_eval_params

from bertjax import optimizer_names
from bertjax.errors import InputError
from bertjax.optimizer_names import OWN
from bertjax.sections import total_steps
from bertjax.sharding import path_name

Tree = Any

DECAYS = ("linear", "cosine", "inverse_sqrt", "constant")  # see `schedule`

# Devlin et al. 2018 and the release decay neither biases nor LayerNorm; LAMB (You et al. 2020) also takes its
# trust ratio only where it decays.
_NOT_DECAYED = re.compile(r"(^|[/_])(bias|scale)$")
_EMBEDDINGS = re.compile(r"(^|/)embeddings/")
# Axes that count several matrices in one array: every layer's, and queries', keys' and values'.
_LAYERS = re.compile(r"(^|/)layers/")
_STACKED = ((_LAYERS, 0), (re.compile(r"/qkv_kernel$"), 2))
# The axes of a Transformer layer's matrices that are summed over, and those of what comes out.
_MATRICES = (
    (re.compile(r"(^|/)layers/attention/qkv_kernel$"), MuonDimensionNumbers((1,), (3, 4))),  # LDKNH
    (re.compile(r"(^|/)layers/attention/output_kernel$"), MuonDimensionNumbers((1, 2), (3,))),  # LNHD
    (re.compile(r"(^|/)layers/(intermediate|output)_kernel$"), MuonDimensionNumbers((1,), (2,))),  # LDF, LFD
)


# Learning rate.


def schedule(config: ConfigDict) -> optax.Schedule:
    """The learning rate of update number `count` (from 0), as an optax schedule.

    From 0 up to `learning_rate` over the warm-up, then `config.optim.decay`:

    - linear: rate * (1 - count / steps), the 2018 release's optimization.py. `steps` counts the warm-up too,
      so the rate drops a little where the warm-up ends.
    - cosine: rate * (1 + cos(pi * count / steps)) / 2, finetune-transformer-lm's opt.py, with the same drop.
    - inverse_sqrt: rate * sqrt(warmup / count), Vaswani et al. 2017, section 5.3.
    - constant: the rate, for optimizers that average instead of decaying (Defazio et al. 2024).

    Both phases are one decay, unless phase2.restart_schedule.

    Returns:
      count -> rate: a double for a number on the host, float32 for an array, traced or not.
    """
    first, optim = config.train.steps, config.optim
    second = total_steps(config) - first
    if not (second and config.phase2.restart_schedule):
        return _phase(optim.decay, first + second, optim.learning_rate, optim.warmup_steps)
    before = _phase(optim.decay, first, optim.learning_rate, optim.warmup_steps)
    phase2 = config.phase2
    after = _phase(optim.decay, second, phase2.learning_rate, phase2.warmup_steps)

    def joined(count: Any) -> Any:
        # optax.join_schedules would round to float32.
        return _numpy(count).where(count < first, before(count), after(count - first))

    return joined


def _phase(decay: str, steps: int, rate: float, warmup: int) -> optax.Schedule:
    """Warm-up and decay of one phase."""

    def at(count: Any) -> Any:
        xp = _numpy(count)
        done = xp.minimum(count / steps, 1.0)
        if decay == "linear":
            decayed = rate * (1.0 - done)
        elif decay == "cosine":
            decayed = rate * 0.5 * (1.0 + xp.cos(math.pi * done))
        elif decay == "inverse_sqrt":
            decayed = rate * xp.sqrt(max(warmup, 1) / xp.maximum(count, 1))
        else:
            decayed = rate * xp.ones_like(done)
        return xp.where(count < warmup, rate * count / max(warmup, 1), decayed)

    return at


def _numpy(count: Any) -> Any:
    """NumPy, in double precision, for a number on the host; else JAX's."""
    return jnp if isinstance(count, jax.Array) else np


def learning_rate(config: ConfigDict, step: int) -> float:
    """`schedule` of a step on the host, in double precision."""
    return float(schedule(config)(step))


# Transformations.


def optimizer(config: ConfigDict, rate: jax.Array | float) -> optax.GradientTransformationExtraArgs:
    """The transformation from gradients to what is added to parameters.

    It is built in every trace of a step, around a rate that is an argument of the compiled program.

    Args:
      config: config.optim. name "bert_adamw" is the 2018 release's AdamWeightDecayOptimizer: Adam without
        bias correction, eps outside the square root, decay inside the rate. "adamw" corrects the bias
        (Loshchilov and Hutter 2019). "lamb" is You et al. 2020, with its trust ratio for each matrix of each
        layer. "optax.NAME" and "optax.contrib.NAME" are optax's, with config.args, and "module:NAME" is a
        function of a module of one's own. Each comes after
        `clip_by_global_norm` and before `scale_by_layer`, where config asks for them.
      rate: learning rate of the update; any for `init`, which does not depend on it.

    Raises:
      InputError: optax refuses config.args.
    """
    parts: list[optax.GradientTransformation] = []
    if config.clip_norm:
        parts.append(clip_by_global_norm(config.clip_norm))
    if config.name in OWN:
        correct = config.name != "bert_adamw"
        parts.append(scale_by_adam(config.beta1, config.beta2, config.eps, bias_correction=correct))
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=decayed))
        if config.name == "lamb":
            parts.append(scale_by_trust_ratio())
        if _layer_decay(config) != 1:
            parts.append(scale_by_layer(config.layer_decay))
        parts.append(optax.scale_by_learning_rate(rate))
    else:
        parts.append(_named(config, rate))
        if _layer_decay(config) != 1:
            parts.append(scale_by_layer(config.layer_decay))
    return optax.chain(*parts)


def _layer_decay(config: ConfigDict) -> float:
    """1 where a model has no stacked layers, and so no such field."""
    return float(config.layer_decay) if "layer_decay" in config else 1.0


def _named(config: ConfigDict, rate: jax.Array | float) -> optax.GradientTransformation:
    """An optimizer of optax, or of one's own. It decays what bertjax's own do, but as config.args
    says."""
    constructor = optimizer_names.constructor(config.name)
    given: dict[str, Callable[[Tree], Tree]] = {
        "mask": decayed,
        "weight_decay_mask": decayed,
        "trust_ratio_mask": decayed,
        "muon_weight_dimension_numbers": matrices,
    }
    takes = inspect.signature(constructor).parameters
    arguments = {name: x for name, x in given.items() if name in takes} | config.args
    made: optax.GradientTransformation = constructor(learning_rate=rate, **arguments)
    return made


def decayed(params: Tree) -> Tree:
    """A mask: True for what weight decay is applied to, all but biases and LayerNorm."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not _NOT_DECAYED.search(path_name(path)), params)


def matrices(params: Tree) -> Tree:
    """optax's MuonDimensionNumbers of every matrix in the layers of a Transformer, None for other parameters.

    Muon (Jordan et al. 2024) is for hidden matrices; embeddings, biases, LayerNorm and heads have Adam. Each
    layer's matrix, and those of queries, keys and values, are orthogonalized by themselves.
    """

    def one(path: tuple[Any, ...], _: Any) -> MuonDimensionNumbers | None:
        name = path_name(path)
        return next((numbers for pattern, numbers in _MATRICES if pattern.search(name)), None)

    return jax.tree_util.tree_map_with_path(one, params)


def global_norm(tree: Tree) -> jax.Array:
    """sqrt of the sum of squares over every element of every array, float32."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)))


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales gradients whose global norm is above `max_norm` down to it, as tf.clip_by_global_norm does:
    by one factor, max_norm / norm. (optax divides by the norm and multiplies, with other rounding.)"""

    def clip(grads: Tree, _: Tree) -> Tree:
        scale = jnp.minimum(1.0, max_norm / jnp.maximum(global_norm(grads), 1e-30))
        return jax.tree.map(lambda g: g * scale, grads)

    return optax.stateless(clip)


def scale_by_adam(b1: float, b2: float, eps: float, *, bias_correction: bool) -> optax.GradientTransformation:
    """mu / (sqrt(nu) + eps) of Kingma and Ba 2015; without bias correction that of the 2018 release.

    The correction multiplies by 1 / (1 - b ** count), where optax divides: other rounding.
    """

    def init(params: Tree) -> optax.ScaleByAdamState:
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), mu, nu)

    def update(grads: Tree, state: optax.OptState, _: Tree = None) -> tuple[Tree, optax.ScaleByAdamState]:
        assert isinstance(state, optax.ScaleByAdamState)
        count = state.count + 1
        correct1, correct2 = 1.0, 1.0
        if bias_correction:
            correct1 = 1 / (1 - b1 ** count.astype(jnp.float32))
            correct2 = 1 / (1 - b2 ** count.astype(jnp.float32))
        mu = jax.tree.map(lambda g, mu: b1 * mu + (1 - b1) * g, grads, state.mu)
        nu = jax.tree.map(lambda g, nu: b2 * nu + (1 - b2) * jnp.square(g), grads, state.nu)
        change = jax.tree.map(lambda mu, nu: mu * correct1 / (jnp.sqrt(nu * correct2) + eps), mu, nu)
        return change, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def scale_by_trust_ratio() -> optax.GradientTransformation:
    """Multiplies by |p| / |update| of each matrix (You et al. 2020), 1 where either is 0, and for what is not
    decayed. A matrix is one layer's, and the queries', keys' or values' of it."""

    def one(path: tuple[Any, ...], change: jax.Array, p: jax.Array) -> jax.Array:
        name = path_name(path)
        if _NOT_DECAYED.search(name):
            return change
        stacked = {axis for pattern, axis in _STACKED if pattern.search(name)}
        axes = tuple(axis for axis in range(p.ndim) if axis not in stacked)
        p_norm = jnp.sqrt(jnp.sum(jnp.square(p), axes, keepdims=True))
        change_norm = jnp.sqrt(jnp.sum(jnp.square(change), axes, keepdims=True))
        ratio = p_norm / jnp.where(change_norm > 0, change_norm, 1.0)
        return change * jnp.where((p_norm > 0) & (change_norm > 0), ratio, 1.0)

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(one, updates, params))


def scale_by_layer(decay: float) -> optax.GradientTransformation:
    """Multiplies by `layer_rates`."""

    def scale(updates: Tree, _: Tree) -> Tree:
        def one(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
            return x * layer_rates(decay, updates, path_name(path)).reshape(-1, *(1,) * (x.ndim - 1))

        return jax.tree_util.tree_map_with_path(one, updates)

    return optax.stateless(scale)


def layer_rates(decay: float, params: Tree, name: str) -> np.ndarray:
    """What the rate of a parameter is multiplied by, float32 [L] for stacked layers, else [1].

    1 for heads and what they read, `decay` for the top layer, one power more for each layer below it, and
    for the embeddings one more than for the first layer: the discriminative fine-tuning of Howard and Ruder
    2018.
    """
    paths = jax.tree_util.tree_leaves_with_path(params)
    layers = next(x.shape[0] for path, x in paths if _LAYERS.search(path_name(path)))
    if _LAYERS.search(name):
        return np.float32(decay) ** np.arange(layers, 0, -1, dtype=np.float32)
    return np.array([decay ** (layers + 1) if _EMBEDDINGS.search(name) else 1.0], np.float32)


# The state of an optimizer in a train state.


def init(config: ConfigDict, params: Tree) -> dict[str, Tree]:
    """The state before the first update: nested dicts of arrays. Moments have the tree of the parameters."""
    return _as_dict(optimizer(config, 0.0).init(params))


def update(
    config: ConfigDict,
    params: Tree,
    grads: Tree,
    state: dict[str, Tree],
    rate: jax.Array,
    loss: jax.Array | float = 0.0,
) -> tuple[Tree, dict[str, Tree]]:
    """New parameters and state after one update.

    Args:
      config: config.optim; see `optimizer`.
      grads: gradient of the loss, not clipped yet.
      state: of `init` or of the last update.
      rate: learning rate of this update.
      loss: of this step, for those optimizers of optax that read it (Momo).
    """
    made = optimizer(config, rate)
    before = _from_dict(jax.eval_shape(made.init, params), state)
    updates, after = made.update(grads, before, params, value=loss)
    return optax.apply_updates(params, updates), _as_dict(after)


def eval_params(config: ConfigDict, params: Tree, state: dict[str, Tree]) -> Tree:
    """The parameters to evaluate and to use, which are not those that gradients are taken at where the
    optimizer averages: optax.contrib.schedule_free and its kind (Defazio et al. 2024)."""
    found = _averages(_from_dict(jax.eval_shape(optimizer(config, 0.0).init, params), state))
    return schedule_free_eval_params(found[0], params) if found else params


def averages(config: ConfigDict) -> bool:
    """Whether `eval_params` are others than the parameters that gradients are taken at."""
    state = jax.eval_shape(lambda: optimizer(config, 0.0).init({"kernel": jnp.zeros((1, 1))}))
    return bool(_averages(state))


def _averages(state: optax.OptState) -> list[ScheduleFreeState]:
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, ScheduleFreeState))
    return [x for x in leaves if isinstance(x, ScheduleFreeState)]


def check_optimizer(config: ConfigDict, params: Tree) -> None:
    """Raises InputError if the optimizer of config.optim cannot train these parameters, by their shapes."""
    if config.name in OWN:
        return
    takes = inspect.signature(optimizer_names.constructor(config.name)).parameters
    if "muon_weight_dimension_numbers" in takes and not jax.tree.leaves(matrices(params)):
        raise InputError(
            f"--config.optim.name={config.name}: no parameter that is trained here is a matrix of a "
            "Transformer's layers; name another optimizer"
        )

    def step(params: Tree) -> tuple[Tree, Tree]:
        before = params, init(config, params)
        return before, update(config, params, params, before[1], jnp.float32(0.0))

    try:
        before, after = jax.eval_shape(step, params)
    except Exception as error:  # optax says in many ways what it does not accept, and often in `update` only
        raise optimizer_names.refused(config, error) from error
    if before != after:  # structures, shapes and types
        raise optimizer_names.refused(
            config, TypeError("an update changes the type of the optimizer's state")
        )


def _as_dict(state: optax.OptState) -> dict[str, Tree]:
    """Nested dicts of a state's arrays, by the names of its fields and of the parameters."""
    result: dict[str, Tree] = {}
    leaves = jax.tree.leaves(state)
    for name, x in zip(_names(state), leaves, strict=True):
        *folders, last = name
        inner = result
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = x
    return result


def _from_dict(like: optax.OptState, state: dict[str, Tree]) -> optax.OptState:
    """The state that `_as_dict` made nested dicts of; `like` is one of the same structure."""

    def at(name: Iterable[str]) -> Any:
        inner = state
        for part in name:
            inner = inner[part]
        return inner

    return jax.tree.unflatten(jax.tree.structure(like), [at(name) for name in _names(like)])


def _names(state: optax.OptState) -> list[tuple[str, ...]]:
    """A name for every array of a state. The position in a tuple is part of it only where others in the tuple
    hold arrays too: Adam's moments are ("mu", ...) and ("nu", ...), whatever stands before and behind it."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    followers: dict[tuple[Any, ...], set[Any]] = {}
    for path in paths:
        for i, key in enumerate(path):
            followers.setdefault(path[:i], set()).add(key)

    def name(path: tuple[Any, ...]) -> tuple[str, ...]:
        return tuple(
            jax.tree_util.keystr((key,), simple=True)
            for i, key in enumerate(path)
            if not (isinstance(key, jax.tree_util.SequenceKey) and len(followers[path[:i]]) == 1)
        )

    return [name(path) for path in paths]
