"""Products and sums whose gradients are fast on a CPU, and no slower elsewhere.

Shape letter: V classes; `...` any leading axes.
"""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def product(spec: str, x: jax.Array, kernel: jax.Array, dtype: Any = None) -> jax.Array:
    """jnp.einsum(spec, x, kernel) with gradients that are fast on a CPU too.

    A kernel's gradient contracts all rows of a batch, and XLA's CPU backend transposes one operand for it.
    Here that is always the smaller one, and the gradient itself is turned where that makes it necessary.

    Args:
      spec: "BSD,DF->BSF" and the like: every letter stands in two of the three terms.
      x, kernel: of one dtype.
      dtype: of the result; None: that of x. The gradients have that of x.
    """
    return jnp.einsum(spec, x, kernel, preferred_element_type=dtype)


def _product_gradient(
    spec: str, dtype: Any, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    gradient = gradient.astype(x.dtype)
    x_axes, kernel_axes, out = re.split(",|->", spec)
    first, second = (x_axes, x), (out, gradient)
    if x.size > gradient.size:
        first, second = second, first
    order = "".join(sorted(kernel_axes, key=lambda axis: axis not in first[0]))
    turned = jnp.einsum(f"{first[0]},{second[0]}->{order}", first[1], second[1])
    if order != kernel_axes:
        # Without the barrier XLA would move the transposition to the operands.
        turned = jnp.einsum(f"{order}->{kernel_axes}", lax.optimization_barrier(turned))
    return jnp.einsum(f"{out},{kernel_axes}->{x_axes}", gradient, kernel), turned


def _product_forward(spec: str, x: jax.Array, kernel: jax.Array, dtype: Any) -> tuple[jax.Array, Any]:
    # Not product() again: jax.checkpoint's policies look for products, not into calls.
    return jnp.einsum(spec, x, kernel, preferred_element_type=dtype), (x, kernel)


product.defvjp(_product_forward, _product_gradient)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x [..., V] + bias [V]. The gradient of the bias is a product with ones, which is faster than a sum over
    the leading axes where V is large."""
    return x + bias


def _add_bias_gradient(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows = gradient.reshape(-1, gradient.shape[-1])
    return gradient, jnp.ones(rows.shape[0], rows.dtype) @ rows


add_bias.defvjp(lambda x, bias: (x + bias, None), _add_bias_gradient)
