"""Reads Hugging Face's BERT folders."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from bertjax.convert import names
from bertjax.convert.safetensors_file import read_safetensors
from bertjax.convert.torch_pickle import read_torch_pickle
from bertjax.convert.weights import Tensor
from bertjax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer, wordpiece_tokenizer
from bertjax.errors import InputError, quoted
from bertjax.files import read_json
from bertjax.models import KINDS
from bertjax.models.interface import LABELLED, NUMBER
from bertjax.sections import fields as config_fields
from bertjax.trained_model import Trained

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
_MULTI_LABEL = "multi_label_classification"  # a head here; there, a problem_type of the classifier of texts
_MOST = 1_000_000  # of any size in config.json: more is absurd, and is not tried

# Fields of config.model that are BertConfig's; the others say how it is computed here. Those with a value may
# be absent where a file is read: it is BertConfig's own default, which early releases did not write.
CONFIG_FIELDS: dict[str, Any] = {
    "vocab_size": None,
    "hidden_size": None,
    "num_hidden_layers": None,
    "num_attention_heads": None,
    "intermediate_size": None,
    "hidden_act": None,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": None,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
}
_NO_ACCENTS = {"Regex": r"\p{Mn}"}
# Switches of BertConfig that change the mathematics, and the value that is BERT.
_ONLY = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "pruned_heads": {},
}


def read(folder: str, head: str | None, allow_pickle: bool) -> Trained:
    """The model of a folder.

    Args:
      head: of ModelKind.heads; None: the one that config.json names, or that the weights show.
      allow_pickle: whether pytorch_model.bin may be read where there is no safetensors file. The reader
        builds nothing but tensors, whatever the file says.

    Raises:
      InputError: a file is absent, broken, or contradicts another one.
    """
    path = Path(folder)
    fields = read_json(path / "config.json")
    config = read_config(fields, str(path / "config.json"))
    weights, tensors = read_weights(path, allow_pickle)
    tokenizer = read_tokenizer(path, config.vocab_size)
    return assemble(config, fields, names.canonical(tensors, str(weights)), tokenizer, head, str(weights))


def assemble(
    config: ConfigDict,
    fields: dict[str, Any],
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    head: str | None,
    where: str,
) -> Trained:
    """A model of tensors with Hugging Face's names.

    Args:
      config: config.model.
      fields: of config.json.
      head: of ModelKind.heads; None: the one that config.json names, or that the weights show.
      where: names the file of the tensors in messages.
    """
    heads = KINDS[config.kind].heads
    if head is not None and head not in heads:
        raise InputError(f"{where}: a {config.kind.upper()}, which has no head {head}; its heads are "
                         f"{', '.join(heads)}")  # fmt: skip
    layers = names.layers_in(tensors, config.kind)
    if layers != config.num_hidden_layers:  # said before a name is made for each layer
        raise InputError(f"{where}: has {layers} layers, but its config says {config.num_hidden_layers}")
    found = names.parts_in(tensors, config.kind)
    head = head or _find_head(config.kind, fields, found, where)
    parts = heads[head]
    if head == "encoder":  # some are saved without the pooler
        parts = tuple(part for part in parts if part in found)
    params = names.from_huggingface(config, tensors, parts, where)
    if head == "multiple_choice" and len(params["classifier_bias"]) != 1:
        raise InputError(
            f"{where}: its classifier has {len(params['classifier_bias'])} labels, but multiple_choice "
            "scores one choice at a time; name another --head"
        )
    labels: tuple[str, ...] = ()
    if head in LABELLED:
        kernel = params["classifier_kernel" if config.kind == "bert" else "score_kernel"]
        labels = _read_labels(fields, kernel.shape[1], where)
    left_out = tuple(part for part in found if part not in parts)
    meta = {
        "resolved_config": dict(config_fields(ConfigDict({"model": config}))),
        "metrics": {},
        "tokenizer": tokenizer.sha256,
    }
    return Trained(config, head, labels, params, tokenizer, meta, 0, left_out)


def _find_head(kind: str, fields: dict[str, Any], found: tuple[str, ...], where: str) -> str:
    """The head that config.json names; a larger one where the weights hold all of it; without a name, the
    first that the weights hold."""
    given = fields.get("architectures") or []
    if not (isinstance(given, list) and all(isinstance(name, str) for name in given)):
        raise InputError(
            f"{where}: architectures of config.json is {quoted(given)}; expected a list of names"
        )
    named = given[0] if given else ""
    parts_of = KINDS[kind].heads
    heads = {architecture: head for head, architecture in names.NAMES[kind].classes.items()
             if head != _MULTI_LABEL}  # fmt: skip
    exact = [head for head, parts in parts_of.items() if set(parts) == set(found) and head != _MULTI_LABEL]
    if named in heads:
        head = heads[named]
        larger = [other for other in exact if set(parts_of[head]) < set(parts_of[other])]
        head = larger[0] if larger else head
    elif exact:
        head = exact[0]
    else:
        head = max(
            (head for head, parts in parts_of.items() if set(parts) <= set(found)),
            key=lambda head: len(parts_of[head]),
            default="encoder",
        )
    if head == "sequence_classification" and fields.get("problem_type") == _MULTI_LABEL:
        return _MULTI_LABEL
    return head


def read_config(fields: dict[str, Any], where: str) -> ConfigDict:
    """config.model of a BertConfig's fields. Raises InputError for what is absent, absurd or not BERT."""
    if fields.get("model_type", "bert") != "bert":
        raise InputError(
            f"{where}: model_type is {quoted(fields['model_type'])}; only BERT and OpenAI GPT are read"
        )
    config = KINDS["bert"].section()
    fill_config(config, fields, {name: name for name in CONFIG_FIELDS}, CONFIG_FIELDS, _ONLY, where)
    return config


def fill_config(
    config: ConfigDict,
    fields: dict[str, Any],
    theirs: Mapping[str, str],
    defaults: Mapping[str, Any],
    only: Mapping[str, Any],
    where: str,
) -> None:
    """Sets fields of config.model to those of a config.json. Raises InputError for what is absent or absurd.

    Args:
      theirs: the field there of each field here that is read.
      defaults: by the names there; None: the field must be there.
      only: what other fields there must be, if they are there.
    """
    for name, value in only.items():
        if fields.get(name, value) not in (value, None):
            raise InputError(
                f"{where}: {name} is {quoted(fields[name])}; only {value!r} is {config.kind.upper()} as it "
                "is here"
            )
    config.dtype = "float32"  # as PyTorch computes; a run sets its own
    for ours, name in theirs.items():
        value = fields.get(name, defaults[name])
        if value is None:
            raise InputError(f"{where}: has no {name}; take a whole copy of the model")
        kind = type(config[ours])
        if kind is float and type(value) is int and abs(value) <= _MOST:
            value = float(value)
        if type(value) is not kind or (kind is int and not 0 < value <= _MOST):
            raise InputError(f"{where}: {name} is {quoted(value)}; expected {_expected(kind)}")
        config[ours] = value
    try:
        _check(config)
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix('--config.model.')}") from error


def _check(model: ConfigDict) -> None:
    for name, value in model.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name} is {value}; expected a finite number")
        if name.endswith("_prob") and not 0 <= value < 1:
            raise InputError(f"{name} is {value}; expected at least 0 and below 1")
        if name in ("initializer_range", "layer_norm_eps") and not value > 0:
            raise InputError(f"{name} is {value}; expected a positive number")
    KINDS[model.kind].check(model)


def _expected(kind: type) -> str:
    return {int: f"a whole number from 1 to {_MOST:,}", float: "a number", str: "a word"}[kind]


def read_weights(folder: Path, allow_pickle: bool) -> tuple[Path, Mapping[str, Tensor]]:
    """The file of weights, safetensors before pickles, and its tensors by name. Raises InputError."""
    for name in (WEIGHTS, INDEX):
        if (folder / name).is_file():
            return folder / name, read_safetensors(str(folder / name))
    pickles = [folder / name for name in (PICKLE, f"{PICKLE}.index.json") if (folder / name).is_file()]
    if not pickles:
        raise InputError(f"{folder}: holds no {WEIGHTS}, {INDEX} or {PICKLE}")
    if not allow_pickle:
        raise InputError(
            f"{pickles[0]}: a pickle, which is read only when asked for: python -m bertjax.convert "
            "--allow_pickle (it builds tensors only, and runs no code)"
        )
    if pickles[0].name != PICKLE:
        raise InputError(f"{pickles[0]}: a pickle in several files; convert it to {WEIGHTS} first")
    return pickles[0], read_torch_pickle(str(pickles[0]))


def read_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of vocab.txt, or of tokenizer.json where that is all there is.

    Raises:
      InputError: neither is there; a file contradicts another one or has rules that are not BERT's; more
        tokens than `vocab_size`.
    """
    lower_case = _declared_case(folder / "tokenizer_config.json")
    tokens = None
    if (folder / "tokenizer.json").is_file():
        tokens, stated = _read_tokenizer_json(folder / "tokenizer.json")
        if lower_case not in (None, stated):
            raise InputError(
                f"{folder / 'tokenizer.json'}: lowercase is {stated}, but tokenizer_config.json says "
                f"{lower_case}; take both from one model"
            )
        lower_case = stated
    where = folder / "vocab.txt"
    if where.is_file():
        tokenizer = load_tokenizer(folder, lower_case)
        if tokens is not None and tuple(tokens) != tokenizer.tokens:
            raise InputError(f"{where}: has other tokens than tokenizer.json; take both from one model")
    elif tokens is None:
        raise InputError(f"{folder}: holds neither vocab.txt nor tokenizer.json; add the model's vocab.txt")
    else:
        where = folder / "tokenizer.json"
        tokenizer = wordpiece_tokenizer(tokens, bool(lower_case), str(where))
    check_tokens(tokenizer, where, vocab_size, "config.json")
    return tokenizer


def check_tokens(tokenizer: Tokenizer, where: Path, vocab_size: int, config: str) -> None:
    """Raises InputError if the tokenizer of the file `where` has more than the `vocab_size` tokens that the
    file `config` gives the model."""
    if tokenizer.vocab_size > vocab_size:
        raise InputError(
            f"{where}: has {tokenizer.vocab_size} tokens, but the model of {config} only {vocab_size}; "
            "take both from one model"
        )


def _declared_case(path: Path) -> bool | None:
    """Whether tokenizer_config.json lower-cases; None if it does not say."""
    if not path.is_file():
        return None
    fields = read_json(path)
    lower_case = fields.get("do_lower_case")
    if lower_case not in (True, False, None):
        raise InputError(f"{path}: do_lower_case is {quoted(lower_case)}; expected true or false")
    for name, wanted in (("tokenize_chinese_chars", True), ("do_basic_tokenize", True),
                         ("strip_accents", lower_case)):  # fmt: skip
        if fields.get(name) not in (wanted, None):
            raise _other_rules(path, name, fields[name])
    return lower_case


def _other_rules(path: Path, name: str, value: object) -> InputError:
    return InputError(f"{path}: {name} is {quoted(value)}; only the rules of the 2018 release are known here")


def _read_tokenizer_json(path: Path) -> tuple[list[str], bool]:
    """Its tokens in the order of their ids, and whether it lower-cases. Raises InputError."""
    fields = read_json(path)
    try:
        model, normalizer = fields["model"], fields["normalizer"]
        ids = model["vocab"]
        steps = normalizer.get("normalizers", [normalizer])
        rules = next(step for step in steps if step["type"] == "BertNormalizer")
        added = {token["content"]: token["id"] for token in fields.get("added_tokens", [])}
        if model["type"] != "WordPiece" or sorted(ids.values()) != list(range(len(ids))):
            raise ValueError
        lower_case = rules["lowercase"]
        strips = rules.get("strip_accents")
        if any(step["type"] == "Replace" and step["pattern"] == _NO_ACCENTS for step in steps):
            strips = True  # as an exported folder has it
    except (KeyError, TypeError, AttributeError, StopIteration, ValueError) as error:
        raise InputError(
            f"{path}: not a BERT tokenizer (WordPiece); use the model's vocab.txt alone"
        ) from error
    for name, value, wanted in (
        ("lowercase", lower_case, (True, False)),
        ("handle_chinese_chars", rules.get("handle_chinese_chars", True), (True,)),
        ("strip_accents", strips, (None, lower_case)),
        ("continuing_subword_prefix", model.get("continuing_subword_prefix", "##"), ("##",)),
        ("unk_token", model.get("unk_token", "[UNK]"), ("[UNK]",)),
    ):
        if value not in wanted:
            raise _other_rules(path, name, value)
    for token, number in added.items():
        if ids.get(token) != number:
            raise InputError(
                f"{path}: the added token {quoted(token)} is not in the vocabulary; BERT's tokenizer has none"
            )
    return sorted(ids, key=ids.__getitem__), lower_case


def _read_labels(fields: dict[str, Any], count: int, where: str) -> tuple[str, ...]:
    """The classifier's labels; LABEL_0 and so on where config.json does not name them."""
    plain = tuple(f"LABEL_{i}" for i in range(count))
    given = fields.get("id2label") or {}
    try:
        labels = tuple(given[str(i)] for i in range(len(given)))
        if not all(isinstance(label, str) for label in labels):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: id2label of config.json does not name the labels 0, 1, ...") from error
    if all(label == f"LABEL_{i}" for i, label in enumerate(labels)):  # what an absent id2label is filled with
        return plain
    if len(labels) != count:
        raise InputError(f"{where}: has {count} labels, but id2label of config.json names {len(labels)}")
    return labels


def label_fields(model: Trained) -> dict[str, Any]:
    """The labels as config.json names them."""
    if not model.labels:
        return {}
    fields: dict[str, Any] = {
        "id2label": {str(i): label for i, label in enumerate(model.labels)},
        "label2id": {label: i for i, label in enumerate(model.labels)},
    }
    if model.head == _MULTI_LABEL:
        fields["problem_type"] = _MULTI_LABEL
    if model.head == "sequence_classification" and model.labels == NUMBER:
        fields["problem_type"] = "regression"  # or the pipeline would squeeze the number between 0 and 1
    return fields
