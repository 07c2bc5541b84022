"""Writes a model as a Hugging Face folder, which `from_pretrained` reads."""

import json
import os
from typing import Any

import safetensors
from safetensors.numpy import save

from bertjax.convert import names, openai_gpt
from bertjax.convert.huggingface import CONFIG_FIELDS, WEIGHTS, label_fields
from bertjax.convert.model_card import model_card
from bertjax.data.tokenizers.tokenizer import SPECIAL_TOKENS
from bertjax.errors import InputError
from bertjax.files import write_folder
from bertjax.trained_model import Trained

FILES = (WEIGHTS, "config.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.json",
         "tokenizer_config.json", "README.md")  # fmt: skip
_TOKENIZERS = {"bert": "wordpiece", "gpt": "gpt_bpe"}  # what Hugging Face's classes can read
_MARK = "bertjax_step"  # in the header of WEIGHTS: that the folder is ours, and may be replaced


def export(model: Trained, folder: str) -> None:
    """Writes the folder: all of it or nothing. A folder that `export` wrote before is replaced.

    Raises:
      InputError: the folder holds anything else; the head reads other layers than the last, or an LSTM; the
        tokenizer is not of the kind that Hugging Face's class has; see bertjax.convert.names.to_huggingface
        and bertjax.convert.openai_gpt.config_fields.
    """
    kind = model.config.kind
    if kind not in _TOKENIZERS:
        raise InputError(f"{folder}: Hugging Face has no {model.kind.title}; it is not exported")
    if model.tokenizer.kind != _TOKENIZERS[kind]:
        raise InputError(
            f"{folder}: the model's tokenizer is of kind {model.tokenizer.kind}, which Hugging Face's "
            f"{kind.upper()} cannot read; only models with a {_TOKENIZERS[kind]} vocabulary are exported"
        )
    if model.config.kind == "bert" and model.config.causal:
        raise InputError(
            f"{folder}: Hugging Face has no BERT that reads from left to right; it is not exported"
        )
    if not model.kind.plain_head(model.reads):
        raise InputError(
            f"{folder}: Hugging Face has no class whose head reads "
            f"{model.kind.describe_head(model.reads)}; it is not exported"
        )
    # First what it cannot say at all, then each tensor.
    fields = bert_config(model) if kind == "bert" else openai_gpt.config_fields(model)
    tensors = names.to_huggingface(model.config, model.params)
    _check_replaceable(folder)
    name = os.path.basename(os.path.abspath(folder))
    size = sum(x.size for x in tensors.values())
    contents = {
        WEIGHTS: save(tensors, metadata={"format": "pt", _MARK: str(model.step)}),
        "config.json": _json(fields),
        "tokenizer_config.json": _json(
            _tokenizer_config(model) if kind == "bert" else openai_gpt.tokenizer_fields(model)
        ),
        "README.md": model_card(model, name, size).encode(),
    }
    with write_folder(folder) as part:
        for file_name, content in contents.items():
            with open(os.path.join(part, file_name), "wb") as file:
                file.write(content)
        model.tokenizer.save(part)


def _check_replaceable(folder: str) -> None:
    if not os.path.exists(folder):
        return
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: is a file; name a new folder")
    others = sorted(set(os.listdir(folder)) - set(FILES))
    if others:
        raise InputError(f"{folder}: holds other files ({others[0]}), which stay; name a new folder")
    if os.listdir(folder) and not _is_ours(os.path.join(folder, WEIGHTS)):
        raise InputError(f"{folder}: holds a model that was not exported by bertjax; name a new folder")


def _is_ours(weights: str) -> bool:
    try:
        with safetensors.safe_open(weights, framework="numpy") as file:
            return _MARK in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False


def bert_config(model: Trained) -> dict[str, Any]:
    """config.json: the fields of Hugging Face's BertConfig."""
    return {
        "architectures": [names.NAMES["bert"].classes[model.head]],
        "model_type": "bert",
        **{name: model.config[name] for name in CONFIG_FIELDS},
        **label_fields(model),
        "pad_token_id": model.tokenizer.pad_id,
        "dtype": "float32",
    }


def _tokenizer_config(model: Trained) -> dict[str, Any]:
    return {
        # The class that takes tokenizer.json as it is; BertTokenizer's own rules differ from the 2018
        # release's on control and private-use characters and on words of over 100 characters.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "do_lower_case": model.tokenizer.lower_case,
        "model_max_length": model.config.max_position_embeddings,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        **{f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS},
    }


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
