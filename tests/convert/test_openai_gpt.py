"""OpenAI GPT folders in and out; its numbers are compared with PyTorch's in tests/parity."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from gpt_fixture import make_tokenizer
from safetensors.numpy import load_file, save_file
from store_fixture import toy_config

import bertjax
from bertjax import init_from
from bertjax.convert import names
from bertjax.convert.export import FILES, export
from bertjax.errors import InputError
from bertjax.models import gpt
from bertjax.models.interface import LABELLED
from bertjax.predict import __main__ as predict
from bertjax.tasks.pretrain import TASK as pretrain
from bertjax.trained_model import Trained, save_trained

# Hugging Face's own list for OpenAIGPTLMHeadModel without the tied head; D 32, F 128, V 90.
LAYER = {
    "attn.c_attn.weight": (32, 96),
    "attn.c_attn.bias": (96,),
    "attn.c_proj.weight": (32, 32),
    "attn.c_proj.bias": (32,),
    "ln_1.weight": (32,),
    "ln_1.bias": (32,),
    "mlp.c_fc.weight": (32, 128),
    "mlp.c_fc.bias": (128,),
    "mlp.c_proj.weight": (128, 32),
    "mlp.c_proj.bias": (32,),
    "ln_2.weight": (32,),
    "ln_2.bias": (32,),
}
SHAPES = {
    "transformer.tokens_embed.weight": (90, 32),
    "transformer.positions_embed.weight": (64, 32),
    **{f"transformer.h.{i}.{name}": shape for i in range(2) for name, shape in LAYER.items()},
}
HEAD_SHAPES = {
    "causal_lm": {},
    "multiple_choice": {
        "multiple_choice_head.summary.weight": (1, 32),
        "multiple_choice_head.summary.bias": (1,),
    },
    "sequence_classification": {"score.weight": (3, 32)},
    "multi_label_classification": {"score.weight": (3, 32)},
}


def make_model(head="causal_lm"):
    """A model with random parameters, no two alike."""
    config = toy_config(
        task="language_model", **{"model.vocab_size": 90, "model.intermediate_size": 128}
    ).model  # fmt: skip
    labels = ("no", "yes", "perhaps") if head in LABELLED else ()
    count = 1 if head == "multiple_choice" else len(labels)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: (0.3 * rng.normal(size=x.shape)).astype(np.float32),
        names.abstract_params(config, gpt.KIND.heads[head], count),
    )
    params["encoder"]["embeddings"]["word"][90:] = 0
    fields = {f"model.{name}": value for name, value in config.items()}
    meta = {"resolved_config": fields, "metrics": {}}
    return Trained(config, head, labels, params, make_tokenizer(90), meta, 3)


@pytest.fixture
def folder(tmp_path):
    export(make_model(), str(tmp_path / "hf"))
    return tmp_path / "hf"


def change(path, **fields):
    """Sets fields of a JSON file; None removes one."""
    old = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (old | fields).items() if v is not None}))


def change_tensors(folder, function):
    tensors = load_file(folder / "model.safetensors")
    function(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("head", gpt.KIND.heads)
def test_what_goes_out_comes_back(head, tmp_path):
    model = make_model(head)
    export(model, str(tmp_path / "hf"))
    assert {path.name for path in (tmp_path / "hf").iterdir()} == set(FILES) - {"vocab.txt"}
    tensors = load_file(tmp_path / "hf/model.safetensors")
    assert {name: x.shape for name, x in tensors.items()} == SHAPES | HEAD_SHAPES[head]
    back = bertjax.load(tmp_path / "hf")
    jax.tree.map(np.testing.assert_array_equal, back.params, model.params)
    assert (back.head, back.labels, back.left_out) == (head, model.labels, ())
    assert back.tokenizer.sha256 == model.tokenizer.sha256
    assert back.config == model.config
    save_trained(back, str(tmp_path / "run"))
    export(bertjax.load(tmp_path / "run"), str(tmp_path / "again"))
    again = load_file(tmp_path / "again/model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(np.array_equal(again[name], x) for name, x in tensors.items())
    card = (tmp_path / "hf/README.md").read_text()
    assert "OpenAI GPT of 2 layers" in card
    assert "lower-case BPE vocabulary of 90 tokens" in card


def plain_gpt(tensors, ids):
    """Logits [S, V] of one sequence, in float64 NumPy, by the paper's equations."""
    t = {name.removeprefix("transformer."): x.astype(np.float64) for name, x in tensors.items()}

    def dense(x, name):
        return x @ t[f"{name}.weight"] + t[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * t[f"{name}.weight"] + t[f"{name}.bias"]

    x = t["tokens_embed.weight"][ids] + t["positions_embed.weight"][: len(ids)]
    for i in range(2):
        heads = []
        q, k, v = np.split(dense(x, f"h.{i}.attn.c_attn"), 3, axis=1)
        for qh, kh, vh in zip(*(np.split(y, 2, axis=1) for y in (q, k, v)), strict=True):
            scores = np.where(np.tri(len(ids)), qh @ kh.T / math.sqrt(qh.shape[1]), -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ vh)
        x = norm(x + dense(np.concatenate(heads, axis=1), f"h.{i}.attn.c_proj"), f"h.{i}.ln_1")
        h = dense(x, f"h.{i}.mlp.c_fc")
        h = 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = norm(x + dense(h, f"h.{i}.mlp.c_proj"), f"h.{i}.ln_2")
    return x @ t["tokens_embed.weight"].T


def test_logits_are_those_of_the_equations(folder):
    model = bertjax.load(folder)
    ids = np.random.default_rng(1).integers(1, 90, (1, 12)).astype(np.int32)
    batch = {
        "input_ids": ids,
        "position_ids": np.arange(12, dtype=np.int32)[None],
        "segment_ids": np.ones_like(ids),
    }

    def logits(params):
        module = model.module(params)
        return module.language_model(module.encoder(batch))

    wanted = plain_gpt(load_file(folder / "model.safetensors"), ids[0])
    np.testing.assert_allclose(jax.jit(logits)(model.params)[0, :, :90], wanted, atol=2e-5, rtol=0)


def test_other_names_of_the_same_are_read(folder):
    """The released folder's: a bare encoder, each layer's mask, the tied head."""

    def rename(tensors):
        word = tensors["transformer.tokens_embed.weight"]
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = np.ones((1, 1, 64, 64), np.float32)
        tensors["lm_head.weight"] = word.copy()

    change_tensors(folder, rename)
    change(folder / "config.json", n_ctx=64, architectures=None, dtype=None)
    (folder / "vocab.json").unlink()  # tokenizer.json is enough
    back = bertjax.load(folder)
    jax.tree.map(np.testing.assert_array_equal, back.params, make_model().params)
    assert (back.head, back.tokenizer.sha256) == ("causal_lm", make_tokenizer(90).sha256)
    change_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": np.ones((90, 32), np.float32)}))
    with pytest.raises(InputError, match=r"lm_head.weight differs from transformer.tokens_embed.weight"):
        bertjax.load(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"afn": "silu"}, "afn is 'silu'; expected one of gelu, relu"),
        ({"n_embd": None}, "has no n_embd"),
        ({"n_layer": "2"}, "n_layer is '2'; expected a whole number"),
        ({"n_layer": 3}, "has 2 layers, but its config says 3"),
        ({"embd_pdrop": 0.2}, "resid_pdrop '0.1', embd_pdrop '0.2'.*; only one rate for all"),
        ({"summary_type": "first"}, "summary_type is 'first'; only 'cls_index' is GPT"),
        ({"n_head": 5}, "num_attention_heads=5: must divide"),
        ({"vocab_size": 80}, "vocab.json: has 90 tokens, but the model of config.json only 80"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; only BERT and OpenAI GPT are read"),
    ],
)
def test_a_config_of_something_else_is_one_line(folder, fields, message):
    change(folder / "config.json", **fields)
    with pytest.raises(InputError, match=message) as error:
        bertjax.load(folder)
    assert "\n" not in str(error.value)


def test_faults_of_the_tensors_are_listed(folder):
    def spoil(tensors):
        del tensors["transformer.h.1.mlp.c_fc.bias"]
        tensors["transformer.h.0.attn.c_attn.weight"] = np.ones((96, 32), np.float32)
        tensors["transformer.ln_f.weight"] = np.ones(32, np.float32)

    change_tensors(folder, spoil)
    with pytest.raises(InputError) as error:
        bertjax.load(folder)
    for fault in ("transformer.h.1.mlp.c_fc.bias is missing", "'transformer.ln_f.weight' is not known",
                  "transformer.h.0.attn.c_attn.weight has shape [96, 32], expected is [32, 96]"):  # fmt: skip
        assert fault in str(error.value)


def test_heads_are_the_kinds_own(folder, tmp_path):
    export(make_model("multiple_choice"), str(tmp_path / "choice"))
    taken = bertjax.load(tmp_path / "choice", head="causal_lm")
    assert (taken.head, taken.left_out) == ("causal_lm", ("classifier",))
    with pytest.raises(InputError, match="a GPT, which has no head masked_lm; its heads are causal_lm"):
        bertjax.load(folder, head="masked_lm")
    save_trained(bertjax.load(folder), str(tmp_path / "run"))
    with pytest.raises(InputError, match="a model of kind gpt, which has no head masked_lm"):
        bertjax.load(tmp_path / "run", head="masked_lm")


def test_what_cannot_be_exported_is_one_line(tmp_path):
    model = make_model()
    model.config.hidden_act = "gelu"
    with pytest.raises(InputError, match=r"hidden_act=gelu, .*: Hugging Face's GPT has"):
        export(model, str(tmp_path / "out"))
    bert = dataclasses.replace(model, config=toy_config().model, head="pretraining")
    with pytest.raises(InputError, match="tokenizer is of kind gpt_bpe, which Hugging Face's BERT cannot"):
        export(bert, str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("fill-mask", "the model has no mlm part, so it cannot guess words"),
        ("embed", "OpenAI GPT gives no states here; name a BERT"),
        ("next-sentence", "the model has no nsp part, so it cannot tell whether a sentence is the next"),
        ("answer", "hf: a model for causal_lm; name one that was trained to answer"),
        ("classify", "hf: a model for causal_lm; name one that was trained to classify"),
        ("tag", "hf: a model for causal_lm; name one that was trained to tag words"),
    ],
)
def test_a_language_model_is_asked_for_nothing_else(folder, command, message):
    texts = {"fill-mask": ["a [MASK]"], "next-sentence": ["a text", "another"]}.get(command, ["a\tb"])
    with pytest.raises(InputError, match=message) as error:
        predict.main([command, f"--model={folder}", "--json", *texts])
    assert "\n" not in str(error.value)


def test_a_bert_begins_from_no_gpt(folder):
    message = "hf: a model of kind gpt, which cannot be used here; name one of kind bert"
    with pytest.raises(InputError, match=message):
        init_from.load_source(toy_config(init_from=str(folder)), pretrain)


def test_a_classifier_without_the_tokens_of_texts_says_so(tmp_path):
    export(make_model("sequence_classification"), str(tmp_path / "hf"))
    with pytest.raises(InputError, match=r"\(gpt_bpe\) has no start, delimiter and extract tokens; name a"):
        predict.main(["classify", f"--model={tmp_path / 'hf'}", "a text"])


def test_what_only_this_gpt_has_is_not_exported(tmp_path):
    model = make_model("sequence_classification")
    for field, value in (("examples.both_orders", True), ("model.type_vocab_size", 2)):
        meta = model.meta | {"resolved_config": model.meta["resolved_config"] | {field: value}}
        other = dataclasses.replace(model, meta=meta, config=model.config.copy_and_resolve_references())
        other.config.type_vocab_size = meta["resolved_config"]["model.type_vocab_size"]
        with pytest.raises(InputError, match="it is not exported") as error:
            export(other, str(tmp_path / "out"))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
