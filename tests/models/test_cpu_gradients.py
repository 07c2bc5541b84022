"""Products and sums with gradients of their own are what JAX gives without them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.models.cpu_gradients import add_bias, product


def test_add_bias_and_its_gradient():
    x, weights = jax.random.normal(jax.random.key(0), (2, 3, 4, 7))
    bias = jax.random.normal(jax.random.key(1), 7)
    np.testing.assert_array_equal(add_bias(x, bias), x + bias)
    dx, dbias = jax.grad(lambda x, bias: (add_bias(x, bias) * weights).sum(), argnums=(0, 1))(x, bias)
    np.testing.assert_array_equal(dx, weights)
    np.testing.assert_allclose(dbias, np.asarray(weights, np.float64).sum((0, 1)), rtol=1e-5, atol=1e-6)


SIZES = {"B": 3, "S": 5, "M": 2, "D": 8, "K": 3, "N": 2, "H": 4, "F": 16, "V": 24}


@pytest.mark.parametrize(
    "spec", ["BSD,DKNH->BSKNH", "BSNH,NHD->BSD", "BSD,DF->BSF", "BSF,FD->BSD", "BMD,VD->BMV"]
)
def test_product_and_its_gradients_are_einsums(spec):
    x_axes, kernel_axes, out_axes = re.split(",|->", spec)
    rng = np.random.default_rng(0)
    x, kernel, weights = (
        jnp.asarray(rng.normal(size=[SIZES[axis] for axis in axes]), jnp.float32)
        for axes in (x_axes, kernel_axes, out_axes)
    )
    for dtype, tolerance in ((jnp.float32, 1e-6), (jnp.bfloat16, 2e-2)):
        found, expected = (
            jax.value_and_grad(lambda *a, f=f: (f(*a) * weights).sum(), (0, 1))(
                x.astype(dtype), kernel.astype(dtype)
            )
            for f in (
                lambda x, kernel: product(spec, x, kernel, jnp.float32),
                lambda x, kernel: jnp.einsum(spec, x.astype(jnp.float32), kernel.astype(jnp.float32)),
            )
        )
        assert found[1][0].dtype == found[1][1].dtype == dtype
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            scale = np.abs(np.asarray(b, np.float32)).max()
            np.testing.assert_allclose(
                np.asarray(a, np.float32), np.asarray(b, np.float32), atol=tolerance * scale
            )
