"""Reads Hugging Face's OpenAI GPT folders, and gives what one holds beside the weights."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from bertjax.convert import names
from bertjax.convert.huggingface import assemble, check_tokens, fill_config, label_fields, read_weights
from bertjax.data.tokenizers import gpt_bpe
from bertjax.data.tokenizers.tokenizer import Tokenizer, gpt_tokenizer, load_tokenizer
from bertjax.errors import InputError, quoted
from bertjax.files import read_json
from bertjax.models import KINDS
from bertjax.trained_model import Trained

MODEL_TYPE = "openai-gpt"

# Fields of config.model and what OpenAIGPTConfig calls them. Those with a value may be absent: its defaults.
_NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "hidden_act": "afn",
    "hidden_dropout_prob": "resid_pdrop",
    "attention_probs_dropout_prob": "attn_pdrop",
    "initializer_range": "initializer_range",
    "layer_norm_eps": "layer_norm_epsilon",
}
_DEFAULTS = dict.fromkeys(_NAMES.values()) | {
    "afn": "gelu",
    "resid_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-5,
}
# Switches that change the mathematics, and the value that is GPT.
_ONLY = {
    "tie_word_embeddings": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "summary_activation": None,
    "summary_proj_to_labels": True,
}
_ACTS = {"gelu": "gelu_new", "relu": "relu"}  # "gelu" is the tanh approximation there
_FEED_FORWARD = 4  # times the hidden size


def read(folder: str, head: str | None, allow_pickle: bool) -> Trained:
    """The model of a folder. See bertjax.convert.huggingface.read."""
    path = Path(folder)
    fields = read_json(path / "config.json")
    config = read_config(fields, str(path / "config.json"))
    weights, tensors = read_weights(path, allow_pickle)
    tokenizer = read_tokenizer(path, config.vocab_size)
    canonical = names.canonical(tensors, str(weights), config.kind)
    return assemble(config, fields, canonical, tokenizer, head, str(weights))


def read_config(fields: dict[str, Any], where: str) -> ConfigDict:
    """config.model of an OpenAIGPTConfig's fields. Raises InputError for what is absent or not GPT."""
    act = fields.get("afn", "gelu")
    if not (isinstance(act, str) and act in _ACTS):
        raise InputError(f"{where}: afn is {quoted(act)}; expected one of {', '.join(_ACTS)}")
    dropouts = {
        name: fields.get(name, 0.1) for name in ("resid_pdrop", "embd_pdrop", "summary_first_dropout")
    }
    if len({str(rate) for rate in dropouts.values()}) > 1:
        raise InputError(f"{where}: {', '.join(f'{name} {quoted(x)}' for name, x in dropouts.items())}; only "
                         "one rate for all is read")  # fmt: skip
    config = KINDS["gpt"].section()
    fill_config(config, fields | {"afn": _ACTS[act]}, _NAMES, _DEFAULTS, _ONLY, where)
    config.intermediate_size = _FEED_FORWARD * config.hidden_size
    return config


def read_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of vocab.json and merges.txt, or of tokenizer.json where that is all there is.

    Raises:
      InputError: neither is there; rules that are not GPT's; more tokens than `vocab_size`.
    """
    where = folder / gpt_bpe.VOCAB
    if where.is_file():
        tokenizer = load_tokenizer(where)
    elif (folder / gpt_bpe.TOKENIZER).is_file():
        where = folder / gpt_bpe.TOKENIZER
        tokenizer = gpt_tokenizer(*gpt_bpe.read_tokenizer_json(where), str(where))
    else:
        raise InputError(f"{folder}: holds neither vocab.json nor tokenizer.json; add the model's vocab.json "
                         "and merges.txt")  # fmt: skip
    check_tokens(tokenizer, where, vocab_size, "config.json")
    return tokenizer


def config_fields(model: Trained) -> dict[str, Any]:
    """config.json: the fields of OpenAIGPTConfig. Raises InputError for what it cannot say."""
    c = model.config
    if c.type_vocab_size:
        raise InputError("Hugging Face's GPT has no token types, which this model learnt in pre-training; it "
                         "is not exported")  # fmt: skip
    if model.meta["resolved_config"].get("examples.both_orders"):  # a model from elsewhere has no such field
        raise InputError(
            "Hugging Face's GPT has no class that reads a pair in both orders, as this model was trained to "
            "(examples.both_orders); it is not exported"
        )
    acts = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu"}
    if c.hidden_act not in acts or c.intermediate_size != _FEED_FORWARD * c.hidden_size:
        raise InputError(
            f"hidden_act={c.hidden_act}, intermediate_size={c.intermediate_size}: Hugging Face's GPT has "
            f"{' or '.join(acts)}, and {_FEED_FORWARD} times hidden_size={c.hidden_size}"
        )
    return {
        "architectures": [names.NAMES["gpt"].classes[model.head]],
        "model_type": MODEL_TYPE,
        **{theirs: c[ours] for ours, theirs in _NAMES.items()},
        "afn": acts[c.hidden_act],
        "embd_pdrop": c.hidden_dropout_prob,
        "summary_first_dropout": c.hidden_dropout_prob,
        **_ONLY,
        **label_fields(model),
        "pad_token_id": model.tokenizer.pad_id,
        "dtype": "float32",
    }


def tokenizer_fields(model: Trained) -> dict[str, Any]:
    """tokenizer_config.json."""
    return {
        "tokenizer_class": "OpenAIGPTTokenizer",
        "model_max_length": model.config.max_position_embeddings,
        "model_input_names": ["input_ids", "attention_mask"],
        "unk_token": gpt_bpe.UNKNOWN,
        "pad_token": gpt_bpe.UNKNOWN,
    }
