"""Which parameters a fine-tuning run begins with."""

import jax
import numpy as np
import pytest
from finetune_fixture import open_data, toy_settings
from trained_fixture import make_trained

import bertjax
from bertjax import sharding
from bertjax.errors import InputError
from bertjax.init_from import initial_params
from bertjax.mesh import make_mesh
from bertjax.models import bert
from bertjax.tasks.classify import TASK as classify
from bertjax.train import train


def settings(folder, source, labels=("no", "yes"), **fields):
    """A run on eight examples with these labels."""
    folder.mkdir(exist_ok=True)
    rows = ["sentence1\tlabel", *(f"w8 w{20 + i}\t{labels[i % len(labels)]}" for i in range(8))]
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text("\n".join(rows) + "\n")
    plain = {"train__epochs": 0.0, "train__steps": 2, "optim__warmup_proportion": 0.0,
             "optim__warmup_steps": 2, "optim__learning_rate": 1e-2, "train__seq_length": 16}  # fmt: skip
    return toy_settings("classify", folder, source, folder / "run", plain | fields)


def begin(config):
    """(initial parameters, those that were drawn, those of the source, the line)."""
    source = bertjax.load(config.init_from)
    data = open_data(config, source)
    fresh = jax.jit(lambda: classify.init_params(data.config, jax.random.key(0)))()
    shardings = sharding.state_shardings(bert.KIND.sharding, fresh, make_mesh(data.config))
    params, line = initial_params(data.config, classify, source, data, fresh, shardings)
    return *(jax.tree.map(np.asarray, tree) for tree in (params, fresh, source.params)), line


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def test_top_layers_and_the_pooler_are_drawn_anew(tmp_path):
    make_trained(str(tmp_path / "model"))
    params, fresh, source, line = begin(settings(tmp_path / "a", tmp_path / "model", train__reinit_layers=2))
    assert "newly drawn: pooler, classifier, the top 2 of 3 layers" in line
    for name in ("pooler_kernel", "pooler_bias", "classifier_kernel"):
        np.testing.assert_array_equal(params[name], fresh[name])
    assert same(params["encoder"]["embeddings"], source["encoder"]["embeddings"])
    layers, drawn, old = (tree["encoder"]["layers"] for tree in (params, fresh, source))
    for found, anew, before in zip(*map(jax.tree.leaves, (layers, drawn, old)), strict=True):
        np.testing.assert_array_equal(found, np.concatenate([before[:1], anew[1:]]))


def test_none_is_by_default_and_more_than_all_is_an_error(tmp_path):
    make_trained(str(tmp_path / "model"))
    params, _, source, line = begin(settings(tmp_path / "a", tmp_path / "model"))
    assert same(params["encoder"], source["encoder"])
    np.testing.assert_array_equal(params["pooler_kernel"], source["pooler_kernel"])
    assert "layers" not in line
    with pytest.raises(InputError, match=r"reinit_layers=4: the model has 3 layers"):
        begin(settings(tmp_path / "a", tmp_path / "model", train__reinit_layers=4))


def test_a_fine_tuned_model_gives_its_classifier_only_for_the_same_labels(tmp_path):
    """RTE from MNLI: encoder and pooler, not the classifier of three other labels."""
    make_trained(str(tmp_path / "model"))
    three = ("contradiction", "entailment", "neutral")
    train(settings(tmp_path / "mnli", tmp_path / "model", three))
    mnli = tmp_path / "mnli" / "run"
    params, fresh, source, line = begin(settings(tmp_path / "rte", mnli, ("entailment", "not_entailment")))
    assert same(params["encoder"], source["encoder"])
    np.testing.assert_array_equal(params["pooler_kernel"], source["pooler_kernel"])
    np.testing.assert_array_equal(params["classifier_kernel"], fresh["classifier_kernel"])
    assert line == f"parameters of {mnli}: encoder, pooler; newly drawn: classifier"
    params, _, source, _ = begin(settings(tmp_path / "again", mnli, three))
    np.testing.assert_array_equal(params["classifier_kernel"], source["classifier_kernel"])


def test_a_checkpoint_of_a_workdir_is_named_by_its_folder(tmp_path):
    model = tmp_path / "model"
    make_trained(str(model), step=7)
    make_trained(str(model), step=9)
    assert bertjax.load(model).step == 9
    assert bertjax.load(model / "checkpoints" / "7").step == 7
    with pytest.raises(InputError, match=r"checkpoints/8: no such folder"):
        bertjax.load(model / "checkpoints" / "8")
