"""The name tables between bertjax's parameters and Hugging Face's tensors, read in both directions.

Shapes: D hidden, K the 3 of queries, keys and values, N heads, H head size, F feed-forward, V vocabulary,
P vocabulary with its padding, C labels.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from bertjax.convert.weights import Tensor
from bertjax.errors import InputError, quoted
from bertjax.models import KINDS
from bertjax.sharding import path_name

_LAYERS = "encoder/layers/"  # parameters stacked over the layers
_LABELLED = ("classifier", "score")  # parts whose kernel [D, C] says how many labels there are
_MOST_LABELS = 1_000_000
_DTYPES = ("float32", "float16", "bfloat16", "float64")
_SHOWN = 8  # faults that a message lists; it says how many more there are


class Layout(NamedTuple):
    """How the array of one layer, or of no layer, lies there."""

    part: Callable[[Any, ConfigDict], Any]  # what of our array the tensor holds
    inputs: int = 0  # first axes of the part that are a kernel's input: theirs is torch.nn.Linear's [out, in]
    flat: bool = False  # theirs has one axis
    turned: bool = True  # False: a kernel of theirs is [in, out]

    def there(self, x: Any) -> Any:
        """The part as the tensor has it."""
        if self.inputs:
            kernel = x.reshape(math.prod(x.shape[: self.inputs]), -1)
            return kernel.T if self.turned else kernel
        return x.reshape(-1) if self.flat else x

    def here(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor as the part, of `shape`."""
        return (tensor.T if self.inputs and self.turned else tensor).reshape(shape)


LAYOUTS = {
    "same": Layout(lambda x, _: x),
    "linear": Layout(lambda x, _: x, inputs=1),  # [D, F] and [F, D]
    "linear from heads": Layout(lambda x, _: x, inputs=2),  # [N, H, D] and [D, D]
    "query kernel": Layout(lambda x, _: x[:, 0], inputs=1),  # [D, K, N, H] and [D, D]
    "key kernel": Layout(lambda x, _: x[:, 1], inputs=1),
    "value kernel": Layout(lambda x, _: x[:, 2], inputs=1),
    "query bias": Layout(lambda x, _: x[0], flat=True),  # [K, N, H] and [D]
    "key bias": Layout(lambda x, _: x[1], flat=True),
    "value bias": Layout(lambda x, _: x[2], flat=True),
    "vocabulary": Layout(lambda x, config: x[: config.vocab_size]),  # [P, ...] and [V, ...]
    "convolution": Layout(lambda x, _: x, inputs=1, turned=False),  # [D, K, N, H] and [D, K * D]
    "convolution from heads": Layout(lambda x, _: x, inputs=2, turned=False),  # [N, H, D] and [D, D]
    "flat": Layout(lambda x, _: x, flat=True),  # [K, N, H] and [K * D]
}


class TensorName(NamedTuple):
    """One parameter in both worlds.

    An array stacked over layers here is one tensor per {layer} there; queries, keys and values, which are one
    array here, have a row each.
    """

    ours: str
    theirs: str
    layout: str = "same"


TABLE = (
    TensorName("encoder/embeddings/word", "bert.embeddings.word_embeddings.weight", "vocabulary"),
    TensorName("encoder/embeddings/position", "bert.embeddings.position_embeddings.weight"),
    TensorName("encoder/embeddings/token_type", "bert.embeddings.token_type_embeddings.weight"),
    TensorName("encoder/embeddings/norm/scale", "bert.embeddings.LayerNorm.weight"),
    TensorName("encoder/embeddings/norm/bias", "bert.embeddings.LayerNorm.bias"),
    *(
        TensorName(_LAYERS + ours, f"bert.encoder.layer.{{layer}}.{theirs}", layout)
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
    TensorName("pooler_kernel", "bert.pooler.dense.weight", "linear"),
    TensorName("pooler_bias", "bert.pooler.dense.bias"),
    TensorName("mlm_kernel", "cls.predictions.transform.dense.weight", "linear"),
    TensorName("mlm_bias", "cls.predictions.transform.dense.bias"),
    TensorName("mlm_norm/scale", "cls.predictions.transform.LayerNorm.weight"),
    TensorName("mlm_norm/bias", "cls.predictions.transform.LayerNorm.bias"),
    TensorName("mlm_output_bias", "cls.predictions.bias", "vocabulary"),
    TensorName("nsp_kernel", "cls.seq_relationship.weight", "linear"),
    TensorName("nsp_bias", "cls.seq_relationship.bias"),
    TensorName("classifier_kernel", "classifier.weight", "linear"),
    TensorName("classifier_bias", "classifier.bias"),
    TensorName("span_kernel", "qa_outputs.weight", "linear"),
    TensorName("span_bias", "qa_outputs.bias"),
)

GPT_TABLE = (
    TensorName("encoder/embeddings/word", "transformer.tokens_embed.weight", "vocabulary"),
    TensorName("encoder/embeddings/position", "transformer.positions_embed.weight"),
    *(
        TensorName(_LAYERS + ours, f"transformer.h.{{layer}}.{theirs}", layout)
        for ours, theirs, layout in (
            ("attention/qkv_kernel", "attn.c_attn.weight", "convolution"),
            ("attention/qkv_bias", "attn.c_attn.bias", "flat"),
            ("attention/output_kernel", "attn.c_proj.weight", "convolution from heads"),
            ("attention/output_bias", "attn.c_proj.bias", "same"),
            ("attention_norm/scale", "ln_1.weight", "same"),
            ("attention_norm/bias", "ln_1.bias", "same"),
            ("intermediate_kernel", "mlp.c_fc.weight", "convolution"),
            ("intermediate_bias", "mlp.c_fc.bias", "same"),
            ("output_kernel", "mlp.c_proj.weight", "convolution"),
            ("output_bias", "mlp.c_proj.bias", "same"),
            ("output_norm/scale", "ln_2.weight", "same"),
            ("output_norm/bias", "ln_2.bias", "same"),
        )
    ),
    TensorName("classifier_kernel", "multiple_choice_head.summary.weight", "linear"),
    TensorName("classifier_bias", "multiple_choice_head.summary.bias"),
    TensorName("score_kernel", "score.weight", "linear"),
)


class Names(NamedTuple):
    """How Hugging Face names one kind of model."""

    classes: dict[str, str]  # by head
    table: tuple[TensorName, ...]
    encoder: str  # what the names of the encoder's tensors begin with, but in a bare encoder
    bare: tuple[str, ...]  # what those begin with there
    layer: str  # regular expression of a layer's name and number
    tied: dict[str, str]  # tensors that repeat others
    buffers: str  # regular expression of tensors that are no parameters


NAMES = {
    "bert": Names(
        classes={
            "encoder": "BertModel",
            "pretraining": "BertForPreTraining",
            "masked_lm": "BertForMaskedLM",
            "next_sentence": "BertForNextSentencePrediction",
            "sequence_classification": "BertForSequenceClassification",
            "multi_label_classification": "BertForSequenceClassification",
            "token_classification": "BertForTokenClassification",
            "question_answering": "BertForQuestionAnswering",
            "multiple_choice": "BertForMultipleChoice",
        },
        table=TABLE,
        encoder="bert.",
        bare=("embeddings.", "encoder.", "pooler."),
        layer=r"bert\.encoder\.layer\.(\d+)\.",
        # The decoder is tied to the word embeddings and has the bias of the predictions, there as here; older
        # files hold both again.
        tied={
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
        buffers=r"bert\.embeddings\.(position|token_type)_ids",
    ),
    "gpt": Names(
        classes={
            "causal_lm": "OpenAIGPTLMHeadModel",
            "multiple_choice": "OpenAIGPTDoubleHeadsModel",
            "sequence_classification": "OpenAIGPTForSequenceClassification",
            "multi_label_classification": "OpenAIGPTForSequenceClassification",
        },
        table=GPT_TABLE,
        encoder="transformer.",
        bare=("tokens_embed.", "positions_embed.", "h."),
        layer=r"transformer\.h\.(\d+)\.",
        tied={"lm_head.weight": "transformer.tokens_embed.weight"},
        buffers=r"transformer\.(position_ids|h\.\d+\.attn\.bias)",
    ),
}


def part_of(row: TensorName, kind: str) -> str:
    """ "encoder", or which of ModelKind.parts the row belongs to."""
    return next((part for part in KINDS[kind].parts if row.ours.startswith(part)), "encoder")


def rows_of(parts: tuple[str, ...], kind: str) -> list[TensorName]:
    """The rows of the encoder and of these parts."""
    return [row for row in NAMES[kind].table if part_of(row, kind) in ("encoder", *parts)]


def to_huggingface(config: ConfigDict, params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Hugging Face's tensors, by name.

    Args:
      config: config.model.
      params: of a model of config.kind.

    Raises:
      InputError: parameters that the table does not name, or named ones that are missing or misshapen (all
        are listed).
    """
    arrays, parts = _flat(params), KINDS[config.kind].parts_of(params)
    labels = next((arrays[f"{part}_kernel"].shape[1] for part in _LABELLED if part in parts), 0)
    expected = {name: x.shape for name, x in _flat(abstract_params(config, parts, labels)).items()}
    faults = [f"{name} is missing" for name in sorted(expected.keys() - arrays.keys())]
    faults += [f"{name} is not known" for name in sorted(arrays.keys() - expected.keys())]
    faults += [
        f"{name} has shape {list(x.shape)}, expected is {list(expected[name])}"
        for name, x in arrays.items()
        if name in expected and x.shape != expected[name]
    ]
    if faults:
        raise InputError(f"not the parameters of a {config.kind.upper()} of this config: {_list(faults)}")
    tensors = {}
    for row in rows_of(parts, config.kind):
        layout = LAYOUTS[row.layout]
        for name, array in _layers(row, arrays[row.ours], config):
            tensors[name] = np.ascontiguousarray(layout.there(layout.part(array, config)))
    if config.kind == "bert" and parts in (("pooler",), ()):  # Hugging Face's bare BertModel
        tensors = {name.removeprefix("bert."): x for name, x in tensors.items()}
    return tensors


def from_huggingface(
    config: ConfigDict, tensors: Mapping[str, Tensor], parts: tuple[str, ...], where: str
) -> dict[str, Any]:
    """Parameters of a model of config.kind with `parts`, as a nested dict of float32 NumPy arrays.

    Args:
      config: config.model.
      tensors: by the names that `canonical` gives.
      parts: of ModelKind.parts. What `tensors` hold of other parts is left out.
      where: names the file in messages.

    Raises:
      InputError: a tensor is missing, unexpected, misshapen or not finite, or a tied one differs from its
        original. All missing, unexpected and misshapen ones are listed.
    """
    expected = abstract_params(config, parts, _count_labels(config, tensors, parts))

    def places(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[Layout, np.ndarray]]:
        return {
            name: (LAYOUTS[row.layout], LAYOUTS[row.layout].part(array, config))
            for row in rows_of(parts, config.kind)
            for name, array in _layers(row, arrays[row.ours], config)
        }

    # Shapes are compared before anything of the config's sizes is in memory.
    shapes = {
        name: layout.there(place).shape
        for name, (layout, place) in places(
            {name: np.broadcast_to(np.float32(0), x.shape) for name, x in _flat(expected).items()}
        ).items()
    }
    table, tied = NAMES[config.kind].table, NAMES[config.kind].tied
    known = {name for row in table for name, _ in _layers(row, range(config.num_hidden_layers), config)}
    faults = [f"{name} is missing" for name in shapes if name not in tensors]
    for name, tensor in tensors.items():
        if name in shapes:
            if tensor.shape != shapes[name]:
                faults.append(f"{name} has shape {list(tensor.shape)}, expected is {list(shapes[name])}")
            elif tensor.dtype not in _DTYPES:
                faults.append(f"{name} is of type {quoted(tensor.dtype)}, expected is {', '.join(_DTYPES)}")
        elif name not in known and name not in tied:
            faults.append(f"{quoted(name)} is not known")
    if faults:
        raise InputError(f"{where}: does not fit its config: {_list(faults)}")
    arrays = {name: np.zeros(x.shape, np.float32) for name, x in _flat(expected).items()}
    for name, (layout, place) in places(arrays).items():
        with np.errstate(over="ignore"):
            x = tensors[name].read().astype(np.float32, copy=False)
        if not np.isfinite(x).all():
            raise InputError(f"{where}: {name} holds NaN or infinity; take a whole copy of the model")
        place[...] = layout.here(x, place.shape)
    for name, original in tied.items():
        if name in tensors and original in shapes:
            _check_tied(tensors, name, original, where)
    return _nested(arrays)


def canonical(tensors: Mapping[str, Tensor], where: str, kind: str = "bert") -> dict[str, Tensor]:
    """The tensors by the names of the kind's table, without buffers.

    A bare encoder's names lack "bert." or "transformer."; BERT's files of 2018 and 2019 call LayerNorm's
    parameters gamma and beta.

    Raises:
      InputError: a tensor is there by both names; the message begins with `where`.
    """
    given = NAMES[kind]
    bare = not any(name.startswith(given.encoder) for name in tensors)
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        if bare and name.startswith(given.bare):
            name = given.encoder + name
        if name in result:
            raise InputError(f"{where}: {quoted(name)} is there twice, also by its old name; remove one")
        if not re.fullmatch(given.buffers, name):
            result[name] = tensor
    for name, original in given.tied.items():  # OpenAIGPTDoubleHeadsModel writes the tied one alone
        if name in result and original not in result:
            result[original] = result.pop(name)
    return result


def parts_in(tensors: Mapping[str, Tensor], kind: str) -> tuple[str, ...]:
    """Which of ModelKind.parts have a tensor here, by the names that `canonical` gives."""
    found = {part_of(row, kind) for row in NAMES[kind].table if row.theirs in tensors}
    return tuple(part for part in KINDS[kind].parts if part in found)


def layers_in(tensors: Mapping[str, Tensor], kind: str) -> int:
    """The number of layers that have a tensor here, by the names that `canonical` gives."""
    numbers = (re.match(NAMES[kind].layer, name) for name in tensors)
    return len({match[1] for match in numbers if match})


def _count_labels(config: ConfigDict, tensors: Mapping[str, Tensor], parts: tuple[str, ...]) -> int:
    """The classifier's labels, by its weight or, if that is missing, its bias; 1 for wrong shapes."""
    rows = [row for row in rows_of(parts, config.kind) if part_of(row, config.kind) in _LABELLED]
    shapes = [tensors[row.theirs].shape for row in rows if row.theirs in tensors]
    count = shapes[0][0] if shapes and shapes[0] else 1
    return count if 0 < count <= _MOST_LABELS else 1


def abstract_params(config: ConfigDict, parts: tuple[str, ...], num_labels: int) -> Any:
    """The parameters as jax.ShapeDtypeStruct."""
    init_params = KINDS[config.kind].init_params
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0), parts, num_labels))


def _flat(tree: Any) -> dict[str, Any]:
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = array
    return tree


def _layers(row: TensorName, array: Any, config: ConfigDict) -> list[tuple[str, Any]]:
    """(their name, our array) for each layer, or for the one array that has no layers."""
    if not row.ours.startswith(_LAYERS):
        return [(row.theirs, array)]
    return [(row.theirs.format(layer=i), array[i]) for i in range(config.num_hidden_layers)]


def _check_tied(tensors: Mapping[str, Tensor], name: str, original: str, where: str) -> None:
    if tensors[name].shape != tensors[original].shape or not np.array_equal(
        tensors[name].read(), tensors[original].read()
    ):
        raise InputError(
            f"{where}: {name} differs from {original}; they are one here, so this model cannot be taken over"
        )


def _list(faults: list[str]) -> str:
    more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return "; ".join(faults[:_SHOWN]) + more
