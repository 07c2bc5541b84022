"""Reads the folders of Google's 2018 release: bert_config.json, vocab.txt and a TensorFlow checkpoint."""

import re
from collections.abc import Mapping
from pathlib import Path

from bertjax.convert.huggingface import assemble, check_tokens, read_config
from bertjax.convert.tf_checkpoint import read_tf_checkpoint
from bertjax.convert.weights import Tensor
from bertjax.data.tokenizers.tokenizer import load_tokenizer
from bertjax.errors import InputError, quoted
from bertjax.files import read_json
from bertjax.trained_model import Trained

CONFIG = "bert_config.json"

# The release's names beside Hugging Face's, where no rule of `_rename` gives them.
_HEADS = {
    "cls/predictions/output_bias": "cls.predictions.bias",
    "cls/seq_relationship/output_weights": "cls.seq_relationship.weight",
    "cls/seq_relationship/output_bias": "cls.seq_relationship.bias",
    "output_weights": "classifier.weight",  # run_classifier.py
    "output_bias": "classifier.bias",
    "cls/squad/output_weights": "qa_outputs.weight",  # run_squad.py
    "cls/squad/output_bias": "qa_outputs.bias",
}
_OPTIMIZER = re.compile(r"(^global_step|/adam_[mv])$")


def read(path: str, head: str | None) -> Trained:
    """The model of a folder or of a checkpoint in one (".../bert_model.ckpt").

    Args:
      head: of bertjax.models.bert.HEADS; None: what the checkpoint holds.

    Raises:
      InputError: a file is absent, broken, or contradicts another one; several checkpoints in the folder.
    """
    folder, prefix = find_checkpoint(Path(path))
    fields = read_json(folder / CONFIG)
    if fields.get("hidden_act") == "gelu":  # the release's is the tanh approximation
        fields["hidden_act"] = "gelu_new"
    config = read_config(fields, str(folder / CONFIG))
    tensors = to_huggingface_names(read_tf_checkpoint(str(prefix)), str(prefix))
    tokenizer = load_tokenizer(folder / "vocab.txt")
    check_tokens(tokenizer, folder / "vocab.txt", config.vocab_size, CONFIG)
    return assemble(config, fields, tensors, tokenizer, head, str(prefix))


def find_checkpoint(path: Path) -> tuple[Path, Path]:
    """(folder, checkpoint in it without ".index"). Raises InputError."""
    if not path.is_dir():
        return path.parent, path.with_name(path.name.removesuffix(".index"))
    found = sorted(path.glob("*.index"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise InputError(f"{path}: expected one checkpoint (*.ckpt.index), found {names}; name one of them")
    return path, found[0].with_suffix("")


def to_huggingface_names(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The checkpoint's tensors but the optimizer's, as bertjax.convert.names knows them.

    Raises:
      InputError: two tensors have one name there; the message begins with `where`.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if _OPTIMIZER.search(name):
            continue
        renamed = _rename(name)
        if renamed in result:
            raise InputError(f"{where}: {quoted(name)} is there twice, by two names; remove one")
        result[renamed] = _turned(tensor) if name.endswith("/kernel") else tensor
    return result


def _turned(kernel: Tensor) -> Tensor:
    """A kernel [in, out] as torch.nn.Linear's [out, in]."""
    return Tensor(kernel.shape[::-1], kernel.dtype, lambda: kernel.read().T)


def _rename(name: str) -> str:
    if name in _HEADS:
        return _HEADS[name]
    name = re.sub(r"/layer_(\d+)/", r"/layer/\1/", name)
    name = re.sub(r"/(kernel|gamma)$", "/weight", name)
    name = re.sub(r"/beta$", "/bias", name)
    name = re.sub(r"_embeddings$", "_embeddings/weight", name)
    return name.replace("/", ".")
