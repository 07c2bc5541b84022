import math
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from elmo_fixture import toy_elmo
from jax.sharding import NamedSharding, PartitionSpec
from store_fixture import make_batch, toy_config

from bertjax import sharding, train, train_state
from bertjax.errors import InputError
from bertjax.evaluate import make_eval_step, make_predict_step
from bertjax.mesh import make_mesh
from bertjax.models import KINDS, bert
from bertjax.models.layers import padded_vocab_size
from bertjax.sharding import path_name
from bertjax.tasks.pretrain import TASK as pretrain

TABLE = bert.KIND.sharding
CUBE = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}


def flat(tree):
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def axes_of(entry):
    return (entry,) if isinstance(entry, str) else entry or ()


@pytest.fixture(scope="module")
def after_a_step():
    """(shardings, state and sums after one step) on 2 x 2 x 2 devices, and what the compiler said."""
    config = toy_config(**CUBE)
    mesh = make_mesh(config)
    step, init, shardings = train.make_train_step(config, pretrain, mesh)
    batch = sharding.to_global(mesh, make_batch(config))
    state, measured = step(init(), batch, train.scalars(config, 0))
    return flat(shardings), flat(state), measured


def test_the_table_has_a_row_for_every_array_and_moments_follow_their_parameter():
    config = toy_config(**CUBE)
    mesh = make_mesh(config)
    state = jax.eval_shape(lambda: train_state.init_state(config, pretrain, 0))
    specs = {name: each.spec for name, each in flat(sharding.state_shardings(TABLE, state, mesh)).items()}
    assert specs.keys() == flat(state).keys()
    parameters = {name.removeprefix("params/") for name in specs if name.startswith("params/")}
    assert len(parameters) > 20
    for name in parameters:
        assert specs[f"optimizer/mu/{name}"] == specs[f"optimizer/nu/{name}"] == specs[f"params/{name}"]
    others = {name for name in specs if not name.startswith(("params/", "optimizer/mu/", "optimizer/nu/"))}
    assert others == {"optimizer/count", "step", "bad_steps", "bad_in_a_row"}
    # Every matrix is split over both axes, so nothing large is on every device.
    for name in parameters:
        if name.endswith(("kernel", "/word")) and not name.startswith("nsp"):
            axes = {axis for entry in specs[f"params/{name}"] for axis in axes_of(entry)}
            assert axes == {"fsdp", "tensor"}, name


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_row_of_a_kinds_table_is_used(kind):
    """By the parameters of all of its heads, the BiLSTM of a BERT's among them."""
    head, key, names = kind.head_section(), jax.random.key(0), set()
    if "lstm_layers" in head:
        head.lstm_layers = 1
    for pairs in (False, True):
        names |= flat(
            jax.eval_shape(lambda pairs=pairs: kind.init_params(small(kind), key, kind.parts, 3, head, pairs))
        ).keys()
    first = {
        name: next(p for p, _ in (*kind.sharding, *sharding.COMMON) if re.search(p, name)) for name in names
    }
    unused = {pattern for pattern, _ in kind.sharding} - set(first.values())
    # Of either kind of LSTM, that with a projection and that without one.
    assert not unused


def small(kind):
    """config.model with sizes that are quick to trace."""
    section = kind.section()
    sizes = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16,
             "vocab_size": 9, "type_vocab_size": 2, "cells": 8, "projection": 4}  # fmt: skip
    section.update({name: value for name, value in sizes.items() if name in section})
    return section


# How many arrays of a matrix's shape an optimizer keeps, and of any other parameter's.
COPIES = {"adam": (2, 2), "lion": (1, 1), "contrib.schedule_free_adamw": (2, 2), "contrib.muon": (1, 2)}


@pytest.mark.parametrize("optimizer", COPIES)
def test_what_an_optimizer_of_optax_keeps_for_a_parameter_lies_as_the_parameter(optimizer):
    config = toy_config(**CUBE, **{"optim.name": f"optax.{optimizer}"})
    mesh = make_mesh(config)
    _, init, _ = train.make_train_step(config, pretrain, mesh)
    state = flat(init())
    kept = {name for name in state if name.startswith("optimizer/")}
    for parameter in [name for name in state if name.startswith("params/")]:
        x, name = state[parameter], parameter.removeprefix("params")
        of_it = {path for path in kept if path.endswith(name)}
        of_matrix, of_other = COPIES[optimizer]
        assert len(of_it) == (of_matrix if re.search(r"layers/.*kernel$", name) else of_other)
        for path in of_it:
            assert state[path].shape == x.shape
            assert state[path].sharding.is_equivalent_to(x.sharding, x.ndim), path
        kept -= of_it
    assert all(state[path].ndim == 0 or path.endswith("/ns_coeffs") for path in kept)


def test_statistics_over_axes_of_a_parameter_are_on_every_device():
    config = toy_config(**CUBE, **{"optim.name": "optax.adafactor"})
    config.optim.args = {"min_dim_size_to_factor": 8}
    mesh = make_mesh(config)
    state = jax.eval_shape(lambda: train_state.init_state(config, pretrain, 0))
    specs = flat(sharding.state_shardings(TABLE, state, mesh))
    word, rows = (f"optimizer/{part}/encoder/embeddings/word" for part in ("v", "v_row"))
    assert (flat(state)[word].shape, flat(state)[rows].shape) == ((1,), (32,))
    assert specs[word].is_fully_replicated
    assert specs[rows].is_fully_replicated
    assert specs["optimizer/v/mlm_bias"].spec == specs["params/mlm_bias"].spec


def test_heads_feed_forward_units_and_the_vocabulary_are_split_in_biases_as_in_kernels():
    """In whatever array has a dimension of their number, which is no other dimension's here."""
    config = toy_config(
        **{"model.num_attention_heads": 6, "model.hidden_size": 48, "model.intermediate_size": 80}
    )
    words, found = toy_elmo().model, []
    state = jax.eval_shape(lambda: train_state.init_state(config, pretrain, 0))
    elmo = jax.eval_shape(lambda: KINDS["elmo"].init_params(words, jax.random.key(0), KINDS["elmo"].parts, 3))
    for kind, params, model in ((bert.KIND, state["params"], config.model), (KINDS["elmo"], elmo, words)):
        split = {6, 80, padded_vocab_size(model.vocab_size)}
        for name, x in flat(params).items():
            for size, axes in zip(x.shape, sharding.spec(kind.sharding, name, x.ndim), strict=True):
                if size in split:
                    assert "tensor" in axes_of(axes), name
                    found.append(name)
    assert sum(name.endswith("bias") for name in found) == 4


def test_an_array_without_a_row_is_an_error():
    with pytest.raises(KeyError, match="no row of the sharding table is for params/novel_thing"):
        sharding.spec(TABLE, "params/novel_thing", 2)


def test_the_arrays_are_where_the_table_says(after_a_step):
    shardings, state, measured = after_a_step
    sizes = {"data": 2, "fsdp": 2, "tensor": 2}
    assert shardings.keys() == state.keys()
    for name, x in state.items():
        spec = sharding.spec(TABLE, name, x.ndim) if name != "optimizer/count" else ()
        parts = (math.prod(sizes[axis] for axis in axes_of(axes)) for axes in spec)
        expected = tuple(n // part for n, part in zip(x.shape, parts, strict=True))
        assert {shard.data.shape for shard in x.addressable_shards} == {expected}, name
        assert x.sharding.is_equivalent_to(shardings[name], x.ndim), name
    assert state["params/encoder/embeddings/word"].addressable_shards[0].data.shape == (32, 32)
    for each in measured.values():
        assert each.sharding.is_fully_replicated


def compiled_step(**fields):
    config = toy_config(**fields)
    mesh = make_mesh(config)
    step, _, shardings = train.make_train_step(config, pretrain, mesh)
    on_batch = NamedSharding(mesh, sharding.BATCH)
    batch = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_batch)
        for name, x in make_batch(config).items()
    }
    state = train_state.abstract_state(config, pretrain, shardings)
    return step.lower(state, batch, train.scalars(config, 0)).compile()


@pytest.mark.parametrize("kind", ["train", "evaluate", "predict"])
@pytest.mark.parametrize(("dtype", "exact"), [("float32", True), ("bfloat16", False)])
def test_float32_is_float32_in_every_product(kind, dtype, exact):
    """Of forward and backward pass: a TPU would multiply it in bfloat16, an H100 in TF32."""
    config = toy_config(**{"model.dtype": dtype, "model.num_hidden_layers": 1})
    mesh = make_mesh(config, jax.devices()[:1])
    step, _, shardings = train.make_train_step(config, pretrain, mesh)
    state, batch = train_state.abstract_state(config, pretrain, shardings), make_batch(config)
    if kind == "train":
        traced = step.trace(state, batch, train.scalars(config, 0))
    elif kind == "evaluate":
        traced = make_eval_step(config, pretrain, mesh, shardings["params"]).trace(state["params"], batch)
    else:
        task = SimpleNamespace(batch_outputs=lambda *args: pretrain.batch_sums(*args, None))
        traced = make_predict_step(config, task, mesh, shardings["params"]).trace(state["params"], batch)
    program = traced.lower().as_text()
    products = [line for line in program.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) > 8
    assert {"precision = [HIGHEST, HIGHEST]" in line for line in products} == {exact}


@pytest.mark.parametrize("mesh", [(2, 2, 2), (2, 4, 1), (1, 4, 2)])
def test_the_compiler_finds_a_way_between_the_shardings(mesh, capfd):
    """XLA says "Involuntary full rematerialization" where it replicates a whole array to shard it anew."""
    jax.config.update("jax_enable_compilation_cache", False)  # a program from there says nothing
    try:
        compiled_step(**dict(zip(CUBE, mesh, strict=True)))
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert "Involuntary full rematerialization" not in capfd.readouterr().err


def test_hidden_states_are_split_like_the_batch():
    """With fsdp alone the compiler, left to itself, may keep all 8 rows of hidden states on every device."""
    program = compiled_step(**{"mesh.fsdp": 8}).as_text()
    assert "f32[1,16,32]" in program
    assert "f32[8,16," not in program


@pytest.mark.parametrize(
    ("fields", "devices", "message"),
    [
        ({"mesh.data": 3}, 8, r"--config.mesh: data=3 x fsdp=1 x tensor=1 does not divide the 8 devices"),
        ({"mesh.fsdp": 16}, 8, r"--config.mesh: data=-1 x fsdp=16 x tensor=1 does not divide the 8 devices"),
        ({"mesh.data": 2}, 8, r"--config.mesh: data=2 .* does not divide the 8 devices"),
        ({"train.batch_rows": 12}, 8, r"data x fsdp=8 does not divide train.batch_rows .*=12"),
        ({"train.accumulation": 2}, 8, r"data x fsdp=8 does not divide train.batch_rows .*=4"),
        ({"phase2.steps": 5, "phase2.batch_rows": 4}, 8, r"data x fsdp=8 does not divide phase2.batch_rows"),
        ({"eval.batch_rows": 12}, 8, r"data x fsdp=8 does not divide eval.batch_rows=12"),
        ({"mesh.tensor": 4}, 8, r"tensor=4 does not divide model.num_attention_heads=2"),
        ({"mesh.tensor": 2, "model.intermediate_size": 63}, 2,
         r"tensor=2 does not divide model.intermediate_size"),
        # The vocabulary is padded to a multiple of 128, and 3 heads ask for 3 devices.
        ({"mesh.tensor": 3, "model.num_attention_heads": 3, "model.hidden_size": 48,
          "model.intermediate_size": 96}, 3, r"fsdp x tensor=3 does not divide model.vocab_size, padded=128"),
    ],
)  # fmt: skip
def test_a_mesh_that_does_not_fit_is_one_line(fields, devices, message):
    with pytest.raises(InputError, match=message) as error:
        make_mesh(toy_config(**fields), jax.devices()[:devices])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("error", "reason"), [(RuntimeError("no libtpu.so\nmore"), r" \(no libtpu.so\)"), (AssertionError(), "")]
)
def test_a_device_that_is_not_there_is_one_line(monkeypatch, error, reason):
    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    message = f"^JAX_PLATFORMS=tpu: JAX finds no such device{reason}; set JAX_PLATFORMS=cpu, or install"
    with pytest.raises(InputError, match=message) as caught:
        make_mesh(toy_config())
    assert "\n" not in str(caught.value)


def test_the_rest_of_the_devices_goes_to_the_axis_of_minus_one():
    assert dict(make_mesh(toy_config(**{"mesh.tensor": 2})).shape) == {
        "data": 4, "fsdp": 1, "tensor": 2,
    }  # fmt: skip
    config = toy_config(**{"mesh.data": 2, "mesh.fsdp": -1})
    assert dict(make_mesh(config).shape) == {"data": 2, "fsdp": 4, "tensor": 1}


def test_rows_of_a_batch_come_to_the_devices_in_order():
    mesh = make_mesh(toy_config(**CUBE))
    assert sharding.local_rows(mesh, 16) == [(0, 16)]
    x = np.arange(48).reshape(16, 3)
    placed = sharding.to_global(mesh, {"x": x})["x"]
    np.testing.assert_array_equal(placed, x)
    assert placed.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), 2)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(4, 3)}
    assert jnp.asarray(placed).dtype == x.dtype or x.dtype == np.int64


def test_a_process_makes_the_rows_of_its_devices_only(monkeypatch):
    """On a v5e slice of 4 x 4 chips the mesh runs in a ring, so a host of 2 x 2 has places that lie apart."""
    places = {0: (slice(0, 2),), 1: (slice(2, 4),), 2: (slice(12, 14),), 3: (slice(30, 32),)}
    mesh = make_mesh(toy_config())
    with monkeypatch.context() as patch:
        patch.setattr(NamedSharding, "addressable_devices_indices_map", lambda self, shape: places)
        assert sharding.local_rows(mesh, 32) == [(0, 4), (12, 14), (30, 32)]

    turned = make_mesh(toy_config(), jax.devices()[::-1])
    asked = []

    def rows(first, count):
        asked.append((first, count))
        return {"x": np.arange(first, first + count)}

    with monkeypatch.context() as patch:
        patch.setattr(sharding, "local_rows", lambda mesh, size: [(0, 4), (4, 14), (14, 16)])
        placed = sharding.make_global(turned, rows, 100, 16)
    assert asked == [(100, 4), (104, 10), (114, 2)]
    np.testing.assert_array_equal(placed["x"], np.arange(100, 116))
