import dataclasses
import errno
import json
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file
from store_fixture import make_batch
from trained_fixture import make_trained, with_classifier

import bertjax
from bertjax.convert import export, names
from bertjax.convert.model_card import model_card
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import InputError
from bertjax.models import bert
from bertjax.trained_model import load_trained, save_trained

# Hugging Face's own list for BertForPreTraining without the tied decoder; D 32, F 64, V 96.
LAYER = {
    "attention.self.query.weight": (32, 32),
    "attention.self.query.bias": (32,),
    "attention.self.key.weight": (32, 32),
    "attention.self.key.bias": (32,),
    "attention.self.value.weight": (32, 32),
    "attention.self.value.bias": (32,),
    "attention.output.dense.weight": (32, 32),
    "attention.output.dense.bias": (32,),
    "attention.output.LayerNorm.weight": (32,),
    "attention.output.LayerNorm.bias": (32,),
    "intermediate.dense.weight": (64, 32),
    "intermediate.dense.bias": (64,),
    "output.dense.weight": (32, 64),
    "output.dense.bias": (32,),
    "output.LayerNorm.weight": (32,),
    "output.LayerNorm.bias": (32,),
}
SHAPES = {
    "bert.embeddings.word_embeddings.weight": (96, 32),
    "bert.embeddings.position_embeddings.weight": (64, 32),
    "bert.embeddings.token_type_embeddings.weight": (2, 32),
    "bert.embeddings.LayerNorm.weight": (32,),
    "bert.embeddings.LayerNorm.bias": (32,),
    **{f"bert.encoder.layer.{i}.{name}": shape for i in range(3) for name, shape in LAYER.items()},
    "bert.pooler.dense.weight": (32, 32),
    "bert.pooler.dense.bias": (32,),
    "cls.predictions.transform.dense.weight": (32, 32),
    "cls.predictions.transform.dense.bias": (32,),
    "cls.predictions.transform.LayerNorm.weight": (32,),
    "cls.predictions.transform.LayerNorm.bias": (32,),
    "cls.predictions.bias": (96,),
    "cls.seq_relationship.weight": (2, 32),
    "cls.seq_relationship.bias": (2,),
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("run"))
    make_trained(folder)
    return folder


@pytest.fixture(scope="module")
def model(workdir):
    return load_trained(workdir)


ERF = np.vectorize(math.erf)
ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + ERF(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
}


def plain_bert(config, tensors, ids, types, mask):
    """Logits (masked LM at every position [S, V], next sentence [2]) of one sequence, in float64 NumPy."""
    t = {name: x.astype(np.float64) for name, x in tensors.items()}
    act, heads = ACTIVATIONS[config["hidden_act"]], config["num_attention_heads"]

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config["layer_norm_eps"])
        return x * t[f"{name}.weight"] + t[f"{name}.bias"]

    embeddings = "bert.embeddings."
    x = t[f"{embeddings}word_embeddings.weight"][ids] + t[f"{embeddings}token_type_embeddings.weight"][types]
    x = norm(x + t[f"{embeddings}position_embeddings.weight"][: len(ids)], f"{embeddings}LayerNorm")
    for i in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{i}."
        context = []
        q, k, v = (linear(x, f"{layer}attention.self.{name}") for name in ("query", "key", "value"))
        for qh, kh, vh in zip(*(np.split(y, heads, axis=1) for y in (q, k, v)), strict=True):
            scores = qh @ kh.T / math.sqrt(qh.shape[1]) + np.where(mask, 0, -10000.0)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            context.append(weights / weights.sum(-1, keepdims=True) @ vh)
        attended = linear(np.concatenate(context, axis=1), f"{layer}attention.output.dense")
        x = norm(x + attended, f"{layer}attention.output.LayerNorm")
        hidden = act(linear(x, f"{layer}intermediate.dense"))
        x = norm(x + linear(hidden, f"{layer}output.dense"), f"{layer}output.LayerNorm")
    head = "cls.predictions."
    h = norm(act(linear(x, f"{head}transform.dense")), f"{head}transform.LayerNorm")
    masked_lm = h @ t[f"{embeddings}word_embeddings.weight"].T + t[f"{head}bias"]
    return masked_lm, linear(np.tanh(linear(x[0], "bert.pooler.dense")), "cls.seq_relationship")


def test_names_and_shapes_are_hugging_faces(model):
    tensors = names.to_huggingface(model.config, model.params)
    assert {name: x.shape for name, x in tensors.items()} == SHAPES
    assert {x.dtype for x in tensors.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("act", ["gelu", "gelu_new", "relu"])
def test_a_plain_bert_on_the_exported_tensors_gives_the_same_logits(tmp_path, act):
    config, params = make_trained(str(tmp_path / "run"), **{"model.hidden_act": act})
    export.export(load_trained(str(tmp_path / "run")), str(tmp_path / "out"))
    tensors = load_file(tmp_path / "out/model.safetensors")
    written = json.loads((tmp_path / "out/config.json").read_text())
    batch = make_batch(config, rows=4)
    masked_lm, next_sentence = jax.jit(
        lambda params, batch: bert.KIND.bind(config.model, params).pretraining(batch)
    )(params, batch)
    for r in range(4):
        want_mlm, want_nsp = plain_bert(
            written, tensors, batch["input_ids"][r], batch["token_type_ids"][r], batch["segment_ids"][r] > 0
        )
        want_mlm = want_mlm[batch["masked_lm_positions"][r]]
        np.testing.assert_allclose(masked_lm[r, :, :96], want_mlm, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(next_sentence[r, 0], want_nsp, atol=1e-5, rtol=1e-5)


def test_every_parameter_is_used_once_or_the_error_lists_it(model):
    pairs = [(row.ours, row.theirs) for row in names.TABLE]
    assert len({theirs for _, theirs in pairs}) == len(pairs)
    params = dict(model.params, extra=np.zeros(2))
    del params["pooler_bias"], params["nsp_kernel"]
    with pytest.raises(InputError) as error:
        names.to_huggingface(model.config, params)
    for fault in ("extra is not known", "pooler_bias is missing", "nsp_kernel is missing"):
        assert fault in str(error.value)
    config = model.config.copy_and_resolve_references()
    config.num_hidden_layers = 2
    with pytest.raises(
        InputError,
        match=r"attention/output_bias has shape \[3, 32\], expected is \[2, 32\]; .*; and 4 more",
    ):
        names.to_huggingface(config, model.params)


def test_the_folder_is_complete(model, tmp_path):
    out = tmp_path / "my-bert"
    export.export(model, str(out))
    assert set(os.listdir(out)) == set(export.FILES) - {"vocab.json", "merges.txt"}
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["BertForPreTraining"]
    assert (config["hidden_act"], config["vocab_size"], config["num_hidden_layers"]) == ("gelu_new", 96, 3)
    text = "The w8s w9w7 unheard"
    encoding = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json")).encode(text)
    [ids] = model.tokenizer.encode_batch([text])
    assert encoding.ids == [model.tokenizer.cls_id, *ids, model.tokenizer.sep_id]
    special = json.loads((out / "tokenizer_config.json").read_text())
    assert (special["mask_token"], special["do_lower_case"], special["model_max_length"]) == (
        "[MASK]",
        False,
        64,
    )
    card = (out / "README.md").read_text()
    for line in ("# my-bert", "| mlm loss | 3.25 |", "| optim.learning_rate | 0.01 |", "step 7", "cased"):
        assert line in card
    assert "workdir" not in card  # no path of this machine
    assert "| data.masked_lm_prob | 0.15 |" in card
    finished = {"data.tfrecord": "/home/files", "data.vocab": "/home/vocab.txt"}
    meta = model.meta | {"resolved_config": model.meta["resolved_config"] | finished}
    card = model_card(dataclasses.replace(model, meta=meta), "my-bert", 1)
    assert "/home" not in card
    assert "masked_lm_prob" not in card  # the files were masked before
    assert "| data.next_sentence | true |" in card


@pytest.mark.parametrize(
    ("head", "labels", "width", "architecture", "more"),
    [
        ("sequence_classification", ("no", "yes", "x"), 3, "BertForSequenceClassification", {}),
        ("sequence_classification", ("number",), 1, "BertForSequenceClassification",
         {"problem_type": "regression"}),
        ("multi_label_classification", ("old", "new", "x"), 3, "BertForSequenceClassification",
         {"problem_type": "multi_label_classification"}),
        ("token_classification", ("O", "B-X", "I-X"), 3, "BertForTokenClassification", {}),
        ("multiple_choice", (), 1, "BertForMultipleChoice", {}),
        ("question_answering", (), 2, "BertForQuestionAnswering", {}),
    ],
)  # fmt: skip
def test_fine_tuned_heads(model, tmp_path, head, labels, width, architecture, more):
    """From a workdir into Hugging Face's class with its labels, and back."""
    trained = with_classifier(model, head, labels, width)
    save_trained(trained, str(tmp_path / "run"))
    export.export(load_trained(str(tmp_path / "run")), str(tmp_path / "hf"))
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert config["architectures"] == [architecture]
    if labels:
        more = more | {
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
        }
    names = ("id2label", "label2id", "problem_type", "num_labels")
    assert {name: config[name] for name in names if name in config} == more
    tensors = load_file(tmp_path / "hf/model.safetensors")
    layer = "qa_outputs" if head == "question_answering" else "classifier"
    part = "span" if head == "question_answering" else "classifier"
    np.testing.assert_array_equal(tensors[f"{layer}.weight"], trained.params[f"{part}_kernel"].T)
    assert tensors[f"{layer}.bias"].shape == (width,)
    assert ("bert.pooler.dense.weight" in tensors) == ("pooler_kernel" in trained.params)
    again = bertjax.load(tmp_path / "hf")
    assert (again.head, again.labels) == (head, labels)
    jax.tree.map(np.testing.assert_array_equal, again.params, trained.params)


def test_an_export_is_replaced_and_nothing_else_is(model, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    export.export(model, str(out))  # empty: fine
    export.export(dataclasses.replace(model, step=8), str(out))
    assert "step 8" in (out / "README.md").read_text()
    assert os.listdir(tmp_path) == ["out"]

    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"other files \(notes.txt\)"):
        export.export(model, str(out))
    other = tmp_path / "other"
    other.mkdir()
    save_file({"x": np.zeros(1)}, other / "model.safetensors")
    with pytest.raises(InputError, match="not exported by bertjax"):
        export.export(model, str(other))
    with pytest.raises(InputError, match="is a file"):
        export.export(model, str(out / "notes.txt"))


def test_a_full_disk_leaves_the_earlier_export(model, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export.export(model, str(out))

    def no_room(self, folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Tokenizer, "save", no_room)
    with pytest.raises(InputError, match="No space left"):
        export.export(dataclasses.replace(model, step=8), str(out))
    assert "step 7" in (out / "README.md").read_text()
    assert os.listdir(tmp_path) == ["out"]


def test_sentencepiece_is_refused(model, tmp_path):
    tokenizer = dataclasses.replace(model.tokenizer, kind="unigram")
    with pytest.raises(InputError, match="tokenizer is of kind unigram, which Hugging Face's BERT"):
        export.export(dataclasses.replace(model, tokenizer=tokenizer), str(tmp_path / "out"))


def run(*flags):
    return subprocess.run(
        [sys.executable, "-m", "bertjax.convert", *flags], capture_output=True, text=True, check=False
    )


def test_the_command(workdir, tmp_path):
    done = run(f"--from={workdir}", f"--to={tmp_path / 'out'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"step 7 of {workdir} (pretraining) is in {tmp_path / 'out'}\n"
    assert (tmp_path / "out/model.safetensors").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--from={workdir}"], "required: --to"),
        (["--from={out}", "--to={out}/x"], "no model; expected a workdir"),
        (["--from={workdir}", "--to={out}/x", "--format=bertjax"], "is a workdir already"),
        (["--from={workdir}", "--to={out}/x", "--head=question_answering"], "which has no span of"),
        (["--from={workdir}", "--to={workdir}", "--format=huggingface"], "is what is converted"),
        (["--from={workdir}", "--to=gs://bucket/x"], "mount the bucket"),
        (["--from={workdir}", "--to={out}", "--step=3"], "no checkpoint of step 3"),
    ],
)
def test_bad_flags_are_one_line(workdir, tmp_path, flags, message):
    failed = run(*(flag.format(workdir=workdir, out=tmp_path) for flag in flags))
    assert failed.returncode == 2
    assert message in failed.stderr
    assert failed.stderr.count("\n") == 1


def test_a_vocabulary_of_another_size_is_refused(tmp_path):
    make_trained(str(tmp_path))
    lines = (tmp_path / "vocab.txt").read_text().splitlines(keepends=True)
    (tmp_path / "vocab.txt").write_text("".join(lines[:80]))
    with pytest.raises(InputError, match="has 80 tokens, not 96 as the one that the model was trained with"):
        load_trained(str(tmp_path))
