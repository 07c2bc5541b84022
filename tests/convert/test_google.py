import json

import jax
import numpy as np
import pytest
from test_names import random_model
from test_tf_checkpoint import write as write_checkpoint

from bertjax.convert import google, names
from bertjax.convert.load import load
from bertjax.convert.weights import Tensor
from bertjax.data.tokenizers.tokenizer import SPECIAL_TOKENS
from bertjax.errors import InputError


def google_name(name):
    """The 2018 release's name for one of Hugging Face's, and whether its axes are turned."""
    heads = {
        "cls.predictions.bias": "cls/predictions/output_bias",
        "cls.seq_relationship.weight": "cls/seq_relationship/output_weights",
        "cls.seq_relationship.bias": "cls/seq_relationship/output_bias",
        "classifier.weight": "output_weights",
        "classifier.bias": "output_bias",
        "qa_outputs.weight": "cls/squad/output_weights",
        "qa_outputs.bias": "cls/squad/output_bias",
    }
    if name in heads:
        return heads[name], False
    words = name.split(".")
    if "layer" in words:
        at = words.index("layer")
        words[at : at + 2] = [f"layer_{words[at + 1]}"]
    if words[-2] == "LayerNorm":
        words[-1] = {"weight": "gamma", "bias": "beta"}[words[-1]]
    elif words[-1] == "weight" and words[-2].endswith("embeddings"):
        words.pop()
    elif words[-1] == "weight":
        words[-1] = "kernel"
    return "/".join(words), words[-1] == "kernel"


def google_tensors(config, params):
    tensors = {"global_step": np.int64(3)}
    for name, x in names.to_huggingface(config, params).items():
        theirs, turned = google_name(name)
        tensors[theirs] = x.T if turned else x
        tensors[f"{theirs}/adam_m"] = tensors[f"{theirs}/adam_v"] = np.zeros_like(x)
    return tensors


HEADS = ["pretraining", "sequence_classification", "question_answering"]


@pytest.mark.parametrize("head", HEADS)
def test_names_and_kernels(head):
    config, params = random_model(head)
    tensors = {
        name: Tensor(x.shape, str(x.dtype), lambda x=x: x)
        for name, x in google_tensors(config, params).items()
    }
    renamed = google.to_huggingface_names(tensors, "the checkpoint")
    wanted = names.to_huggingface(config, params)
    assert renamed.keys() == wanted.keys()
    for name, tensor in renamed.items():
        assert tensor.shape == wanted[name].shape
        np.testing.assert_array_equal(tensor.read(), wanted[name])
    # The release's own names, as its readme and its code have them.
    assert {
        "bert/embeddings/word_embeddings",
        "bert/embeddings/LayerNorm/gamma",
        "bert/encoder/layer_0/attention/self/query/kernel",
        "bert/encoder/layer_2/attention/output/LayerNorm/beta",
        "bert/encoder/layer_1/intermediate/dense/bias",
    } <= tensors.keys()


@pytest.fixture
def release(tmp_path):
    """A folder like the release's, with the pre-training heads: (folder, parameters)."""
    config, params = random_model("pretraining")
    write_checkpoint(tmp_path / "bert_model.ckpt", google_tensors(config, params))
    fields = {
        name: config[name]
        for name in (
            "attention_probs_dropout_prob", "hidden_dropout_prob", "hidden_size", "initializer_range",
            "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
            "type_vocab_size", "vocab_size",
        )
    }  # fmt: skip
    (tmp_path / "bert_config.json").write_text(json.dumps(fields | {"hidden_act": "gelu"}))
    words = [*SPECIAL_TOKENS, *(f"w{i}" for i in range(config.vocab_size - 5))]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    return tmp_path, params


def test_a_folder_of_the_release(release):
    folder, params = release
    for path in (folder, folder / "bert_model.ckpt", folder / "bert_model.ckpt.index"):
        model = load(path)
        assert (model.head, model.config.hidden_act, model.tokenizer.lower_case) == (
            "pretraining",
            "gelu_new",  # the release's "gelu" is the tanh approximation
            True,
        )
        jax.tree.map(np.testing.assert_array_equal, model.params, params)


def test_broken_folders(release):
    folder, _ = release
    (folder / "other.ckpt.index").write_bytes(b"")
    with pytest.raises(InputError, match=r"found bert_model.ckpt.index, other.ckpt.index; name one of them"):
        load(folder)
    (folder / "other.ckpt.index").unlink()
    data = folder / "bert_model.ckpt.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[40] ^= 1  # in the word embeddings
    data.write_bytes(content)
    with pytest.raises(InputError, match=r"bert_model.ckpt.*bert/embeddings/word_embeddings"):
        load(folder)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *(f"w{i}" for i in range(99))]))
    with pytest.raises(InputError, match=r"vocab.txt: has 104 tokens"):
        load(folder)
    data.unlink()
    (folder / "bert_model.ckpt.index").unlink()
    with pytest.raises(InputError, match="expected one checkpoint"):
        load(folder)
