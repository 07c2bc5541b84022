"""Finished training examples from the files of the 2018 release's create_pretraining_data.py.

A record is a serialised tf.train.Example, parsed here without TensorFlow. Row `position` of the endless
stream of rows is a pure function of (files, seed, phase, position). Each epoch is a new random order of all
records; the release's own reader shuffles the files and a buffer of 100 records.

Shapes: B rows, S sequence, P predictions, V vocabulary.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, text_format

from bertjax.data.pretraining.bert_examples import Batch
from bertjax.data.pretraining.tfrecord import RecordFile, Records, index_file
from bertjax.data.rng import permute_range, root_key
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import InputError
from bertjax.files import find_files

# tensorflow/core/example/example.proto and feature.proto, without lists of bytes.
_PROTO = """
name: "example.proto" syntax: "proto3"
message_type { name: "Floats" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Ints" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type { name: "Feature"
  field { name: "floats" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Floats" }
  field { name: "ints" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Ints" } }
message_type { name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".Features.Entry" }
  nested_type { name: "Entry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Feature" } } }
message_type { name: "Example"
  field { name: "features" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Features" } }
"""
_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(text_format.Parse(_PROTO, descriptor_pb2.FileDescriptorProto()).SerializeToString())
_Example: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("Example"))

_TOKENS = ("input_ids", "input_mask", "segment_ids")
_PREDICTIONS = ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights")
_MAKE = "give files that create_pretraining_data.py wrote"


class TfExamples:
    """The examples of some files of one sequence length. Safe to use from several threads.

    Args:
      records: the files' records.
      tokenizer: of the vocabulary that the files were made with.
      seed: any integer; other seeds give other orders.
      phase: 0 or 1, the part of training; works like a part of the seed.
      seq_length: S.
      max_predictions_per_seq: P.
      next_sentence: False gives the next-sentence labels no weight.
      section: of the config that S and P stand in; for messages.

    Raises:
      InputError: the first record of a file does not fit. Others may prove not to in `rows`.
    """

    def __init__(
        self,
        records: Records,
        tokenizer: Tokenizer,
        *,
        seed: int,
        phase: int,
        seq_length: int,
        max_predictions_per_seq: int,
        next_sentence: bool,
        section: str,
    ) -> None:
        self._records = records
        self._seeds = (seed, phase)
        self._cls_id = tokenizer.cls_id
        self._next_sentence = next_sentence
        self._section = section
        self._lengths = {"next_sentence_labels": 1}
        self._lengths |= dict.fromkeys(_TOKENS, seq_length)
        self._lengths |= dict.fromkeys(_PREDICTIONS, max_predictions_per_seq)
        self._most = {"input_ids": tokenizer.vocab_size - 1, "input_mask": 1, "segment_ids": 1,
                      "masked_lm_positions": seq_length - 1, "masked_lm_ids": tokenizer.vocab_size - 1,
                      "masked_lm_weights": 1, "next_sentence_labels": 1}  # fmt: skip
        self._read(records.firsts)

    def __len__(self) -> int:
        """The number of rows of an epoch."""
        return len(self._records)

    def rows(self, position: int, count: int) -> dict[str, np.ndarray]:
        """Rows position, ..., position + count - 1 of the endless stream, as a batch (see `Batch`).

        Raises InputError for a record that is damaged or does not fit.
        """
        n = len(self)
        numbers = []
        stop = position + count
        while position < stop:
            epoch, row = divmod(position, n)
            taken = min(stop - position, n - row)
            numbers.append(permute_range(row, taken, n, root_key(*self._seeds, 1, epoch)))
            position += taken
        return self._read(np.concatenate([np.zeros(0, np.int64), *numbers]))

    def _read(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {
            name: np.empty((len(numbers), length), np.float32 if name.endswith("weights") else np.int64)
            for name, length in self._lengths.items()
        }
        for i, data in enumerate(self._records.read(numbers)):
            try:
                features = parse(data)
                for name, values in found.items():
                    self._check_length(name, len(features[name]))
                    values[i] = features[name]
            except InputError as error:
                raise InputError(f"{self._records.name(numbers[i])}: {error}") from error
        self._check_values(numbers, found)
        rows = {name: x.astype(np.int32) for name, x in found.items() if x.dtype == np.int64}
        labels, real = rows["next_sentence_labels"], rows["input_mask"]
        return Batch(
            input_ids=rows["input_ids"],
            token_type_ids=rows["segment_ids"],
            position_ids=real * np.arange(real.shape[1], dtype=np.int32),
            segment_ids=real,
            masked_lm_positions=rows["masked_lm_positions"],
            masked_lm_ids=rows["masked_lm_ids"],
            masked_lm_weights=found["masked_lm_weights"],
            next_sentence_positions=np.zeros_like(labels),
            next_sentence_labels=labels,
            next_sentence_weights=np.full(labels.shape, self._next_sentence, np.float32),
        )._asdict()

    def _check_length(self, name: str, length: int) -> None:
        if length == self._lengths[name]:
            return
        field = f"--config.{self._section}.max_predictions_per_seq"
        advice = f"set {field}={length}" if name in _PREDICTIONS else "make the file again"
        raise InputError(f"{length} values of {name} where {self._lengths[name]} are expected; {advice}")

    def _check_values(self, numbers: np.ndarray, found: Mapping[str, np.ndarray]) -> None:
        for name, values in found.items():
            fit = (values >= 0) & (values <= self._most[name])  # false for NaN
            if not fit.all():
                row, column = np.argwhere(~fit)[0]
                advice = "make the file again"
                if name in ("input_ids", "masked_lm_ids"):
                    advice = "give --config.data.vocab the vocabulary that the file was made with"
                raise InputError(
                    f"{self._records.name(numbers[row])}: {name} has the value {values[row, column]}, not "
                    f"one from 0 to {self._most[name]}; {advice}"
                )
        # The release begins every row with [CLS]; another id there is the sign of another vocabulary.
        begins = found["input_ids"][:, 0]
        if (begins != self._cls_id).any():
            row = np.flatnonzero(begins != self._cls_id)[0]
            raise InputError(
                f"{self._records.name(numbers[row])}: begins with id {begins[row]}, but [CLS] is "
                f"{self._cls_id}; give --config.data.vocab the vocabulary that the file was made with"
            )


def parse(data: bytes) -> dict[str, Sequence[float]]:
    """The features of a serialised tf.train.Example that training needs, by name.

    Raises:
      InputError: it is none, or lacks one of them. The message names no file.
    """
    try:
        features = _Example.FromString(data).features.feature
    except message.DecodeError as error:
        raise InputError(f"holds no tf.train.Example; {_MAKE}") from error
    found = {}
    for name in (*_TOKENS, *_PREDICTIONS, "next_sentence_labels"):
        kind = "floats" if name.endswith("weights") else "ints"
        found[name] = getattr(features[name], kind).value  # of an absent feature, an empty list
        if not found[name]:
            raise InputError(f"has no {name} (a list of {kind}); {_MAKE}")
    return found


def open_files(field: str, paths: str, lengths: Mapping[str, int]) -> dict[int, list[RecordFile]]:
    """The files of a comma-separated list of files, folders and globs, by the length S of their examples.

    Args:
      field: where the list comes from; for messages.
      lengths: S of each phase, by section of the config.

    Raises:
      InputError: a path names no file; a file cannot be indexed, or does not begin with an example; a phase
        has no file, or a file no phase.
    """
    files: dict[int, list[RecordFile]] = {}
    for path in sorted({path for part in paths.split(",") for path in find_files(part.strip())}):
        file = index_file(path)
        records = Records([file])
        (first,) = records.read(records.firsts)
        try:
            length = len(parse(first)["input_ids"])
        except InputError as error:
            raise InputError(f"{records.name(0)}: {error}") from error
        if length not in lengths.values():
            wanted = ", ".join(f"--config.{section}.seq_length={n}" for section, n in lengths.items())
            raise InputError(
                f"{path}: its examples have {length} tokens, but {wanted}; leave it out of {field}"
            )
        files.setdefault(length, []).append(file)
    for section, length in lengths.items():
        if length not in files:
            raise InputError(f"{field}={paths}: no file with examples of {length} tokens, for "
                             f"--config.{section}.seq_length={length}; add one")  # fmt: skip
    return files


def fingerprint(files: Mapping[int, Sequence[RecordFile]]) -> str:
    """SHA-256 over the checksums of all records, whatever the files' names."""
    digests = sorted(file.digest for group in files.values() for file in group)
    return hashlib.sha256(b"".join(digests)).hexdigest()
