"""The model, its heads, gradients and optimizers against files made with PyTorch and NumPy by
tests/golden/make_bert.py."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from head_outputs import bertjax_outputs

from bertjax import config as config_lib
from bertjax import sharding
from bertjax.convert import names
from bertjax.convert.huggingface import read_config
from bertjax.convert.weights import Tensor
from bertjax.mesh import make_mesh
from bertjax.models import bert
from bertjax.tasks.pretrain import TASK as pretrain
from bertjax.train import make_train_step, scalars

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module", params=["bert_gelu_new", "bert_gelu_one_type"])
def golden(request):
    return dict(np.load(GOLDEN / f"{request.param}.npz"))


def under(golden, prefix):
    return {name.removeprefix(prefix): x for name, x in golden.items() if name.startswith(prefix)}


def model_config(golden):
    return read_config(json.loads(str(golden["config"])), "golden")


def params_of(golden, config, head):
    shared, own = (under(golden, f"{name}/tensors/") for name in ("pretraining", head))
    tensors = {name: x for name, x in shared.items() if name.startswith("bert.")} | own
    given = {name: Tensor(x.shape, str(x.dtype), lambda x=x: x) for name, x in tensors.items()}
    return names.from_huggingface(config, given, bert.KIND.heads[head], head)


# The other head of a text's labels has the parameters and the logits of sequence_classification.
@pytest.mark.parametrize("head", [head for head in bert.KIND.heads if head != "multi_label_classification"])
def test_outputs(golden, head):
    config, batch = model_config(golden), under(golden, "batch/")
    wanted = under(golden, f"{head}/outputs/")
    params = params_of(golden, config, head)
    found = bertjax_outputs(head, bert.KIND.bind(config, params), batch)
    assert found.keys() == wanted.keys()
    for name, x in found.items():
        np.testing.assert_allclose(x, wanted[name], atol=2e-5, err_msg=name)


def training_config(golden):
    config = config_lib.default()
    config.model = model_config(golden)
    config.model.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return config


def test_loss_and_gradients(golden):
    config, batch = training_config(golden), under(golden, "batch/")

    def loss(params):
        sums = pretrain.batch_sums(config, params, batch, None)
        return pretrain.batch_loss(sums, pretrain.batch_weights(batch))

    params = params_of(golden, config.model, "pretraining")
    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, golden["loss"], atol=1e-5)
    found = names.to_huggingface(config.model, jax.tree.map(np.asarray, grads))
    wanted = under(golden, "gradients/")
    assert found.keys() == wanted.keys()
    whole = np.sqrt(sum(float((x**2).sum()) for x in wanted.values()))
    for name, x in found.items():
        # Softmax does not see the keys' biases, so their gradients are nothing but rounding.
        scale = whole if name.endswith("key.bias") else np.linalg.norm(wanted[name])
        assert np.linalg.norm(x - wanted[name]) <= 1e-4 * scale, name


@pytest.mark.parametrize("kind", ["bert_adamw", "lamb"])
def test_ten_steps(golden, kind):
    config, batch = training_config(golden), under(golden, "batch/")
    losses = golden[f"{kind}/losses"]
    config.train.update(steps=len(losses), batch_rows=2)
    config.eval.batch_rows = 2
    config.phase2.steps = 0
    config.optim.update(name=kind, learning_rate=1e-2, warmup_steps=3)
    mesh = make_mesh(config, jax.devices()[:1])
    step_fn, init, shardings = make_train_step(config, pretrain, mesh)
    params = params_of(golden, config.model, "pretraining")
    state = init() | {"params": jax.device_put(params, shardings["params"])}
    for step, wanted in enumerate(losses):
        rows = {name: np.roll(x, -step, axis=0)[:2] for name, x in batch.items()}
        state, measured = step_fn(state, sharding.to_global(mesh, rows), scalars(config, step))
        found = pretrain.metrics({name: float(x) for name, x in measured.items()})["loss"]
        np.testing.assert_allclose(found, wanted, atol=1e-4, err_msg=f"step {step}")
    found = names.to_huggingface(config.model, jax.device_get(state["params"]))
    for name, x in under(golden, f"{kind}/tensors/").items():
        np.testing.assert_allclose(found[name], x, atol=1e-4, err_msg=name)
