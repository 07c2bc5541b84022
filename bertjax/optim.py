"""Learning-rate schedule, global-norm clipping and the three optimizers, over nested dicts of parameters.

The moments have the tree of the parameters, so that they are sharded and saved like them.
"""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bertjax.sections import total_steps
from bertjax.sharding import path_name

Tree = Any

# Devlin et al. 2018 and the release decay neither biases nor LayerNorm; LAMB (You et al. 2020) also takes its
# trust ratio only where it decays.
_NOT_DECAYED = re.compile(r"(^|[/_])(bias|scale)$")
_EMBEDDINGS = re.compile(r"(^|/)embeddings/")
# Axes that count several matrices in one array: every layer's, and queries', keys' and values'.
_LAYERS = re.compile(r"(^|/)layers/")
_STACKED = ((_LAYERS, 0), (re.compile(r"/qkv_kernel$"), 2))


def learning_rate(config: ConfigDict, step: int) -> float:
    """The rate of update number `step` (from 0).

    The 2018 release's optimization.py: from 0 up to `learning_rate` over the warm-up, then
    rate * (1 - step / steps), where `steps` counts the warm-up too, so the rate drops a little where the
    warm-up ends. GPT's cosine (finetune-transformer-lm's opt.py) is rate * (1 + cos(pi * step / steps)) / 2,
    with the same drop. Both phases are one decay, unless phase2.restart_schedule.
    """

    def scheduled(step: int, steps: int, rate: float, warmup: int) -> float:
        if step < warmup:
            return rate * step / warmup
        done = min(step / steps, 1.0)
        if config.optim.decay == "linear":
            return rate * (1.0 - done)
        return rate * 0.5 * (1.0 + math.cos(math.pi * done))

    first, optim = config.train.steps, config.optim
    second = total_steps(config) - first
    if not (second and config.phase2.restart_schedule):
        return scheduled(step, first + second, optim.learning_rate, optim.warmup_steps)
    if step < first:
        return scheduled(step, first, optim.learning_rate, optim.warmup_steps)
    return scheduled(step - first, second, config.phase2.learning_rate, config.phase2.warmup_steps)


def global_norm(tree: Tree) -> jax.Array:
    """sqrt of the sum of squares over every element of every array, float32."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)))


def init_optimizer(params: Tree) -> dict[str, Tree]:
    """Zero moments, and the count of updates made (which only bias correction reads)."""
    return {
        "mu": jax.tree.map(jnp.zeros_like, params),
        "nu": jax.tree.map(jnp.zeros_like, params),
        "count": jnp.zeros((), jnp.int32),
    }


def update(
    config: ConfigDict, params: Tree, grads: Tree, state: dict[str, Tree], rate: jax.Array, norm: jax.Array
) -> tuple[Tree, dict[str, Tree]]:
    """New parameters and state after one update.

    Args:
      config: config.optim. name "bert_adamw" is the 2018 release's AdamWeightDecayOptimizer: Adam without
        bias correction, eps outside the square root, decay inside the rate. "adamw" corrects the bias
        (Loshchilov and Hutter 2019). "lamb" is You et al. 2020, with its trust ratio for each matrix of each
        layer. layer_decay: see `layer_rates`.
      grads: gradient of the loss, not clipped yet.
      norm: its global norm. Above config.clip_norm the gradient is scaled down to it.
      rate: learning rate of this update.
    """
    b1, b2 = config.beta1, config.beta2
    scale = jnp.minimum(1.0, config.clip_norm / jnp.maximum(norm, 1e-30)) if config.clip_norm else 1.0
    count = state["count"] + 1
    correct1, correct2 = 1.0, 1.0
    if config.name != "bert_adamw":
        correct1 = 1 / (1 - b1 ** count.astype(jnp.float32))
        correct2 = 1 / (1 - b2 ** count.astype(jnp.float32))

    def one(path: tuple[Any, ...], p: jax.Array, g: jax.Array, mu: jax.Array, nu: jax.Array) -> Any:
        name = path_name(path)
        g = g * scale
        mu = b1 * mu + (1 - b1) * g
        nu = b2 * nu + (1 - b2) * jnp.square(g)
        change = mu * correct1 / (jnp.sqrt(nu * correct2) + config.eps)
        if not _NOT_DECAYED.search(name):
            change = change + config.weight_decay * p
            if config.name == "lamb":
                change = change * _trust_ratio(p, change, {axis for at, axis in _STACKED if at.search(name)})
        if "layer_decay" in config and config.layer_decay != 1:
            change = change * layer_rates(config.layer_decay, params, name).reshape(-1, *(1,) * (p.ndim - 1))
        return p - rate * change, mu, nu

    new = jax.tree_util.tree_map_with_path(one, params, grads, state["mu"], state["nu"])
    new_params, mu, nu = jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0, 0, 0)), new)
    return new_params, {"mu": mu, "nu": nu, "count": count}


def layer_rates(decay: float, params: Tree, name: str) -> np.ndarray:
    """What the rate of a parameter is multiplied by, float32 [L] for stacked layers, else [1].

    1 for heads and what they stand on, `decay` for the top layer, one power more for each layer below it, and
    for the embeddings one more than for the first layer: the discriminative fine-tuning of Howard and Ruder
    2018.
    """
    paths = jax.tree_util.tree_leaves_with_path(params)
    layers = next(x.shape[0] for path, x in paths if _LAYERS.search(path_name(path)))
    if _LAYERS.search(name):
        return np.float32(decay) ** np.arange(layers, 0, -1, dtype=np.float32)
    return np.array([decay ** (layers + 1) if _EMBEDDINGS.search(name) else 1.0], np.float32)


def _trust_ratio(p: jax.Array, change: jax.Array, stacked: set[int]) -> jax.Array:
    """|p| / |change| for each matrix, 1 where either is 0. `stacked` are the axes that count matrices."""
    axes = tuple(axis for axis in range(p.ndim) if axis not in stacked)
    p_norm = jnp.sqrt(jnp.sum(jnp.square(p), axes, keepdims=True))
    change_norm = jnp.sqrt(jnp.sum(jnp.square(change), axes, keepdims=True))
    ratio = p_norm / jnp.where(change_norm > 0, change_norm, 1.0)
    return jnp.where((p_norm > 0) & (change_norm > 0), ratio, 1.0)
