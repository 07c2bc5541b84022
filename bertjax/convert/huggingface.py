"""A trained model as a Hugging Face folder, which `BertForPreTraining.from_pretrained` reads.

Shapes: D hidden, K the 3 of queries, keys and values, N heads, H head size, F feed-forward, V vocabulary,
P vocabulary with its padding.
"""

import json
import math
import os
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
from ml_collections import ConfigDict
from safetensors.numpy import save

from bertjax.data.tokenizer import SPECIAL_TOKENS
from bertjax.errors import InputError
from bertjax.sharding import path_name
from bertjax.trained import Trained

WEIGHTS = "model.safetensors"
FILES = (WEIGHTS, "config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "README.md")
_MARK = "bertjax_step"  # in the header of WEIGHTS: that the folder is ours, and may be replaced
_LAYERS = "encoder/layers/"  # parameters stacked over the layers

# Fields of config.model that are BertConfig's; the others say how it is computed here.
_CONFIG_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
)

# What of a run's config the model card shows: not its paths and its machines.
_PATHS = ("data.store", "data.tfrecord", "data.tfrecord_heldout", "data.vocab")
_RECIPE = ("model.", "data.", "train.", "phase2.", "optim.", "seed")


def _to_linear(x: np.ndarray, inputs: int) -> np.ndarray:
    """A kernel whose first `inputs` axes are the input, as torch.nn.Linear's [out, in]."""
    return x.reshape(math.prod(x.shape[:inputs]), -1).T


# What happens to the array of one layer, or of no layer, on the way out.
LAYOUTS: dict[str, Callable[[np.ndarray, ConfigDict], np.ndarray]] = {
    "same": lambda x, _: x,
    "linear": lambda x, _: _to_linear(x, 1),  # [D, F] -> [F, D]
    "linear from heads": lambda x, _: _to_linear(x, 2),  # [N, H, D] -> [D, D]
    "query kernel": lambda x, _: _to_linear(x[:, 0], 1),  # [D, K, N, H] -> [D, D]
    "key kernel": lambda x, _: _to_linear(x[:, 1], 1),
    "value kernel": lambda x, _: _to_linear(x[:, 2], 1),
    "query bias": lambda x, _: x[0].reshape(-1),  # [K, N, H] -> [D]
    "key bias": lambda x, _: x[1].reshape(-1),
    "value bias": lambda x, _: x[2].reshape(-1),
    "vocabulary": lambda x, config: x[: config.vocab_size],  # [P, ...] -> [V, ...]
}


class Row(NamedTuple):
    """One parameter in both worlds.

    An array stacked over layers here is one tensor per {layer} there; queries, keys and values, which are one
    array here, have a row each.
    """

    ours: str
    theirs: str
    layout: str = "same"


# The decoder's weight (the word embeddings) and bias are tied there as here, so neither is written again.
TABLE = (
    Row("encoder/embeddings/word", "bert.embeddings.word_embeddings.weight", "vocabulary"),
    Row("encoder/embeddings/position", "bert.embeddings.position_embeddings.weight"),
    Row("encoder/embeddings/token_type", "bert.embeddings.token_type_embeddings.weight"),
    Row("encoder/embeddings/norm/scale", "bert.embeddings.LayerNorm.weight"),
    Row("encoder/embeddings/norm/bias", "bert.embeddings.LayerNorm.bias"),
    *(
        Row(_LAYERS + ours, f"bert.encoder.layer.{{layer}}.{theirs}", layout)
        for ours, theirs, layout in (
            ("attention/qkv_kernel", "attention.self.query.weight", "query kernel"),
            ("attention/qkv_bias", "attention.self.query.bias", "query bias"),
            ("attention/qkv_kernel", "attention.self.key.weight", "key kernel"),
            ("attention/qkv_bias", "attention.self.key.bias", "key bias"),
            ("attention/qkv_kernel", "attention.self.value.weight", "value kernel"),
            ("attention/qkv_bias", "attention.self.value.bias", "value bias"),
            ("attention/output_kernel", "attention.output.dense.weight", "linear from heads"),
            ("attention/output_bias", "attention.output.dense.bias", "same"),
            ("attention_norm/scale", "attention.output.LayerNorm.weight", "same"),
            ("attention_norm/bias", "attention.output.LayerNorm.bias", "same"),
            ("intermediate_kernel", "intermediate.dense.weight", "linear"),
            ("intermediate_bias", "intermediate.dense.bias", "same"),
            ("output_kernel", "output.dense.weight", "linear"),
            ("output_bias", "output.dense.bias", "same"),
            ("output_norm/scale", "output.LayerNorm.weight", "same"),
            ("output_norm/bias", "output.LayerNorm.bias", "same"),
        )
    ),
    Row("pooler_kernel", "bert.pooler.dense.weight", "linear"),
    Row("pooler_bias", "bert.pooler.dense.bias"),
    Row("mlm_kernel", "cls.predictions.transform.dense.weight", "linear"),
    Row("mlm_bias", "cls.predictions.transform.dense.bias"),
    Row("mlm_norm/scale", "cls.predictions.transform.LayerNorm.weight"),
    Row("mlm_norm/bias", "cls.predictions.transform.LayerNorm.bias"),
    Row("mlm_output_bias", "cls.predictions.bias", "vocabulary"),
    Row("nsp_kernel", "cls.seq_relationship.weight", "linear"),
    Row("nsp_bias", "cls.seq_relationship.bias"),
)


def to_huggingface(config: ConfigDict, params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Hugging Face's tensors, by name.

    Args:
      config: config.model.
      params: of bertjax.models.bert.BertForPreTraining.

    Raises:
      InputError: parameters that TABLE does not name, or named ones that are missing (all are listed), or
        a stack of another number of layers than config's.
    """
    arrays = {path_name(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(params)}
    known = {row.ours for row in TABLE}
    faults = [f"{name} is missing" for name in sorted(known - arrays.keys())]
    faults += [f"{name} is not known" for name in sorted(arrays.keys() - known)]
    layers = config.num_hidden_layers
    faults += [
        f"{name} has {len(x)} layers, not {layers}"
        for name, x in arrays.items()
        if name.startswith(_LAYERS) and len(x) != layers
    ]
    if faults:
        raise InputError(f"not the parameters of BERT with its pre-training heads: {'; '.join(faults)}")
    tensors = {}
    for row in TABLE:
        array, layout = arrays[row.ours], LAYOUTS[row.layout]
        if row.ours.startswith(_LAYERS):
            for i in range(layers):
                tensors[row.theirs.format(layer=i)] = layout(array[i], config)
        else:
            tensors[row.theirs] = layout(array, config)
    return {name: np.ascontiguousarray(x) for name, x in tensors.items()}


def export(model: Trained, folder: str) -> None:
    """Writes the folder: all of it or nothing. A folder that `export` wrote before is replaced.

    Raises:
      InputError: the folder holds anything else; the tokenizer is a SentencePiece model; see to_huggingface.
    """
    if model.tokenizer.kind != "wordpiece":
        raise InputError(
            f"{folder}: the model's tokenizer is SentencePiece ({model.tokenizer.kind}), which Hugging "
            "Face's BERT cannot read; only models with a WordPiece vocabulary are exported"
        )
    tensors = to_huggingface(model.config, model.params)
    folder = os.path.abspath(folder)
    _check_replaceable(folder)
    name = os.path.basename(folder)
    part = os.path.join(os.path.dirname(folder), f".{name}.part-{os.getpid()}")
    contents = {
        WEIGHTS: save(tensors, metadata={"format": "pt", _MARK: str(model.step)}),
        "config.json": _json(bert_config(model)),
        "tokenizer_config.json": _json(_tokenizer_config(model)),
        "README.md": model_card(model, name).encode(),
    }
    try:
        os.makedirs(part)
        for file_name, content in contents.items():
            with open(os.path.join(part, file_name), "wb") as file:
                file.write(content)
        model.tokenizer.save(part)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise InputError(f"{folder}: {error.strerror}; make room or name another folder") from error


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
        "architectures": ["BertForPreTraining"],
        "model_type": "bert",
        **{name: model.config[name] for name in _CONFIG_FIELDS},
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


def model_card(model: Trained, name: str) -> str:
    """README.md: what the model is, how to use it, its held-out metrics and the config of its run."""
    c, run = model.config, model.meta["config"]
    metrics = {
        key.removeprefix("eval/").replace("_", " "): f"{value:.4g}"
        for key, value in model.meta["metrics"].items()
    }
    recipe = {
        key: json.dumps(value)
        for key, value in sorted(run.items())
        if key.startswith(_RECIPE) and key not in _PATHS and (run["phase2.steps"] or "phase2." not in key)
    }
    if run.get("data.tfrecord"):  # finished examples, whose pairs and masks no field decided
        recipe = {key: x for key, x in recipe.items() if key == "data.next_sentence" or "data." not in key}
    parameters = sum(x.size for x in to_huggingface(c, model.params).values())
    case = "lower-case" if model.tokenizer.lower_case else "cased"
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
tags:
- bert
---

# {name}

BERT of {c.num_hidden_layers} layers, {c.hidden_size} hidden units and {c.num_attention_heads} heads \
({parameters / 1e6:.1f}M parameters), with a {case} WordPiece vocabulary of {c.vocab_size:,} tokens.
Trained with bertjax; this is the checkpoint of step {model.step:,}.

```python
from transformers import pipeline

fill_mask = pipeline("fill-mask", model="{name}")  # this folder
fill_mask("Return the [MASK] of the list.")
```

## Held-out metrics

{_table("metric", metrics) if metrics else "None: the run was not evaluated at this step."}

## Config of the run

{_table("field", recipe)}
"""


def _table(head: str, rows: dict[str, str]) -> str:
    return "\n".join([f"| {head} | value |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows.items())])


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
