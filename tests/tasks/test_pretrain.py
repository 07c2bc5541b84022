import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from finetune_fixture import open_data
from jax.extend.core import jaxprs_in_params
from store_fixture import make_batch, make_store, random_params, toy_config

from bertjax.data.pretraining.store import open_store
from bertjax.errors import InputError
from bertjax.models import bert
from bertjax.tasks import pretraining
from bertjax.tasks.pretrain import TASK as pretrain


def test_sums_are_of_the_weighted_positions():
    config = toy_config()
    batch, params = make_batch(config), random_params(config)
    batch["masked_lm_weights"][0] *= 0.5
    batch["next_sentence_weights"][1] = 0
    mlm, nsp = jax.jit(lambda params: bert.KIND.bind(config.model, params).pretraining(batch))(params)
    sums = jax.jit(lambda params: pretrain.batch_sums(config, params, batch, None))(params)
    expected = {}
    for name, logits, labels, weights in (
        ("mlm", mlm, batch["masked_lm_ids"], batch["masked_lm_weights"]),
        ("nsp", nsp, batch["next_sentence_labels"], batch["next_sentence_weights"]),
    ):
        logits = np.asarray(logits, np.float64)
        loss = correct = 0.0
        for index in np.ndindex(labels.shape):
            row = logits[index] - logits[index].max()
            loss -= weights[index] * (row[labels[index]] - math.log(np.exp(row).sum()))
            correct += weights[index] * (logits[index].argmax() == labels[index])
        expected |= {f"{name}_loss": loss, f"{name}_correct": correct}
    assert sums.keys() == expected.keys()
    assert expected["nsp_correct"] > 0
    for name, value in expected.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-5)
    weights = pretrain.batch_weights(batch)
    assert weights["mlm"] == batch["masked_lm_weights"].sum()
    assert weights["nsp"] == 7


def test_loss_is_the_releases():
    sums = {"mlm_loss": 12.0, "nsp_loss": 3.0}
    assert pretrain.batch_loss(sums, {"mlm": 4.0, "nsp": 6.0}) == pytest.approx(12 / (4 + 1e-5) + 0.5)
    assert pretrain.batch_loss(
        {"mlm_loss": 12.0, "nsp_loss": 0.0}, {"mlm": 4.0, "nsp": 0.0}
    ) == pytest.approx(12 / (4 + 1e-5))


def test_metrics_are_means():
    totals = {
        "mlm_loss": 12.0,
        "mlm_correct": 1.0,
        "mlm": 4.0,
        "nsp_loss": 3.0,
        "nsp_correct": 4.0,
        "nsp": 6.0,
    }
    assert pretrain.metrics(totals) == pytest.approx(
        {"loss": 3.5, "mlm_loss": 3.0, "mlm_accuracy": 0.25, "perplexity": math.exp(3), "nsp_loss": 0.5,
         "nsp_accuracy": 4 / 6}
    )  # fmt: skip
    alone = pretrain.metrics(totals | {"nsp": 0.0})
    assert alone.keys() == {"loss", "mlm_loss", "mlm_accuracy", "perplexity"}
    assert alone["loss"] == 3.0


@pytest.mark.parametrize("pack", [1, 3])
def test_shapes_are_those_of_the_examples(store, pack):
    fields = {"phase2.steps": 4, "phase2.batch_rows": 6, "eval.enabled": True, "data.pack": pack}
    config = toy_config(store, **fields)
    data = open_data(config)
    assert data.rows.keys() == {"train", "phase2"}
    for section, rows in data.rows.items():
        shapes = pretrain.batch_shapes(config, config[section])
        for batch in (
            rows.train(3, config[section].batch_rows),
            rows.evals[0].rows(0, config[section].batch_rows),
        ):
            assert batch.keys() == shapes.keys()
            for name, x in batch.items():
                assert (x.shape, x.dtype) == (shapes[name].shape, shapes[name].dtype), name


def test_the_phases_have_other_examples(store):
    config = toy_config(
        store, **{"phase2.steps": 4, "phase2.seq_length": 16, "phase2.max_predictions_per_seq": 3}
    )
    rows = open_data(config).rows
    assert (rows["train"].train(0, 8)["input_ids"] != rows["phase2"].train(0, 8)["input_ids"]).any()


def test_training_never_sees_a_held_out_document(tmp_path):
    """Every document of this store has words of its own."""
    folder = make_store(tmp_path, documents=45)
    tokens, opened = np.fromfile(folder / "tokens.bin", np.uint16), open_store(folder)
    for d in range(45):
        a, b = opened.sentences[opened.documents[d]], opened.sentences[opened.documents[d + 1]]
        tokens[a:b] = 50 + d
    changed = open_store(folder)
    object.__setattr__(changed, "tokens", tokens)
    heldout = {50 + d for d in opened.heldout_documents}
    assert len(heldout) == 4
    config = toy_config(folder, **{"eval.enabled": True, "data.mask_split": (1.0, 0.0, 0.0)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "open_store", lambda path: changed)
        rows = open_data(config).rows["train"]
    seen = {int(i) for i in np.unique(rows.train(0, 2000)["input_ids"]) if i >= 50}
    assert seen == {50 + d for d in range(45)} - heldout
    assert {
        int(i) for i in np.unique(rows.evals[0].rows(0, rows.evals[0].num_rows)["input_ids"]) if i >= 50
    } == heldout


def dot_flops(jaxpr):
    """Floating-point operations of the matrix products of a jaxpr, scans included."""
    total = 0
    for equation in jaxpr.eqns:
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in jaxprs_in_params(equation.params):
            total += times * dot_flops(inner)
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
            total += 2 * depth * equation.outvars[0].aval.size
    return total


def test_flops_are_those_of_the_matrix_products():
    # A vocabulary without padding; a backward pass has twice the products of a forward pass.
    config = toy_config(**{"model.vocab_size": 128, "model.num_hidden_layers": 3})
    params = jax.eval_shape(lambda: pretrain.init_params(config, jax.random.key(0)))
    batch = pretrain.batch_shapes(config, config.train)
    jaxpr = jax.make_jaxpr(lambda p, b: pretrain.batch_sums(config, p, b, None))(params, batch).jaxpr
    np.testing.assert_allclose(pretrain.flops_per_step(config, config.train), 3 * dot_flops(jaxpr), rtol=1e-3)


def test_what_does_not_fit_the_store_is_one_line(store, tmp_path):
    for config, message in (
        (toy_config(), "data.store is empty; name a folder"),
        (toy_config(tmp_path / "none"), "none: no token store"),
        (
            toy_config(store, **{"model.vocab_size": 90}),
            "=90: .* has 96 tokens; set .*vocab_size=96",
        ),
        (toy_config(store, **{"data.weights": (1.0, 2.0)}), "2 numbers for the store's 1 inputs"),
        (toy_config(store, **{"model.type_vocab_size": 1}), "type_vocab_size=1: .* it must be 2"),
    ):
        with pytest.raises(InputError, match=message) as error:
            open_data(config)
        assert "\n" not in str(error.value)


def test_the_fingerprint_is_of_what_decides_the_rows(tmp_path):
    opened = open_store(make_store(tmp_path))
    same = open_data(toy_config(tmp_path)).fingerprints
    assert same == {"data.store sha256": opened.sha256}

    def changed(inputs=None, **manifest):
        inputs = [opened.inputs[0] | (inputs or {})]
        return dataclasses.replace(opened, inputs=inputs, manifest=opened.manifest | manifest).sha256

    assert changed(inputs={"path": "elsewhere"}, summary={}) == opened.sha256
    files = opened.manifest["files"]
    others = [
        changed(heldout=0.2),
        changed(inputs={"weight": 2.0}),
        changed(inputs={"end_document": 47}),
        changed(files=files | {"tokens.bin": files["tokens.bin"] | {"sha256": ["0"]}}),
    ]
    assert len({opened.sha256, *others}) == 5


def test_a_store_without_its_own_vocabulary_is_refused(tmp_path):
    folder = make_store(tmp_path)
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text().replace("w7", "v7"))
    with pytest.raises(InputError, match=r"vocab.txt: bytes 0 to \d+ are not what was written"):
        open_data(toy_config(folder))


def test_the_entropy_of_the_store_goes_with_the_held_out_figures(store):
    manifest = json.loads(open_store(store).path.joinpath("store.json").read_text())
    constants = open_data(toy_config(store)).constants
    assert constants == {"unigram_entropy": manifest["summary"]["unigram_entropy"]}
    assert 3 < constants["unigram_entropy"] < math.log(96)
