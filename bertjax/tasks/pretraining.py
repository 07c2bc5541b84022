"""What tasks that pre-train on a token store share: its tokenizer, the rows of both phases, held-out ones."""

import abc
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from bertjax.data.pretraining.bert_examples import pad_rows
from bertjax.data.pretraining.store import Store, open_store
from bertjax.data.pretraining.stream import Stream
from bertjax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from bertjax.errors import InputError
from bertjax.models import kind_of
from bertjax.models.interface import Params
from bertjax.sections import phases
from bertjax.tasks.interface import Data, EvalSet, Require, Rows, RowSource, Task, with_epochs
from bertjax.trained_model import Trained

EVAL_SEED = 0  # held-out examples are the same in every run, whatever its seed


@dataclass(frozen=True)
class Wanted:
    """Rows of some documents of a store."""

    config: ConfigDict
    phase: ConfigDict  # config.train or config.phase2
    store: Store
    tokenizer: Tokenizer
    seed: int
    number: int  # of the phase
    documents: np.ndarray  # int64 ids
    held_out: bool  # in which every document counts once; else endless training rows
    shared: Any  # of Pretraining.shared

    @property
    def data(self) -> ConfigDict:
        """config.data; of held-out documents, which all have one weight."""
        data = self.config.data.copy_and_resolve_references()
        if self.held_out:
            data.weights = (1.0,) * len(self.store.inputs)
        return data


class Pretraining(Task):
    """The skeleton of a task that pre-trains on a token store."""

    fine_tunes = False
    any_tokens = False  # whether a store may have tokens of another kind than ModelKind.tokenizers

    @abc.abstractmethod
    def stream(self, wanted: Wanted, notes: list[str]) -> Stream:
        """The rows of some documents. May add lines for the terminal. Raises InputError."""

    def complete(self, config: ConfigDict, tokenizer: Tokenizer) -> Tokenizer:
        """The model's tokenizer, by the store's, whose tokens it begins with. Raises InputError."""
        return tokenizer

    def check_vocabulary(self, config: ConfigDict, tokenizer: Tokenizer, path: str) -> None:
        """Raises InputError if the model has another number of tokens than the vocabulary of `path`."""
        if tokenizer.vocab_size != config.model.vocab_size:
            raise InputError(
                f"--config.model.vocab_size={config.model.vocab_size}: the vocabulary of {path} has "
                f"{tokenizer.vocab_size} tokens; set --config.model.vocab_size={tokenizer.vocab_size}"
            )

    def shared(self, config: ConfigDict, store: Store, tokenizer: Tokenizer) -> Any:
        """What all rows of the store are made with. Raises InputError."""
        return None

    def unigram_entropy(self, store: Store, shared: Any) -> float:
        """The nats a token that guessing by the corpus's word frequencies costs: what a model must beat."""
        return float(store.manifest["summary"]["unigram_entropy"])

    def training_rows(self, config: ConfigDict, rows: RowSource, number: int) -> RowSource:
        """The training rows of phase `number` with what else a step reads."""
        return rows

    def check(self, config: ConfigDict, require: Require) -> None:
        model, kind = config.model, kind_of(config.model.kind)
        longest = kind.longest(model)
        for name in phases(config):
            require(8 <= config[name].seq_length <= longest, f"{name}.seq_length",
                    f"must be from 8 to {longest}, the longest row of this model")  # fmt: skip
        require(config.train.epochs > 0 or config.train.steps > 0, "train.steps", "must be positive")

    def init_params(self, config: ConfigDict, key: jax.Array) -> Params:
        kind = kind_of(config.model.kind)
        return kind.init_params(config.model, key, kind.heads[self.head])

    def open_data(self, config: ConfigDict, source: Trained | None = None) -> Data:
        if not config.data.store:
            raise InputError(
                "--config.data.store is empty; name a folder written by python -m bertjax.prepare"
            )
        store = open_store(config.data.store)
        tokenizer = load_tokenizer(store.path)
        if tokenizer.sha256 != store.manifest["tokenizer"]["sha256"]:
            raise InputError(
                f"{store.path}: its tokens were made with another vocabulary than the one that lies in it; "
                "run bertjax.prepare again"
            )
        kind = kind_of(config.model.kind)
        if tokenizer.kind not in kind.tokenizers and not self.any_tokens:
            raise InputError(
                f"{store.path}: a store of {tokenizer.kind} tokens; {kind.title} is trained on those of "
                f"--tokenizer={' or '.join(kind.tokenizers)}"
            )
        tokenizer = self.complete(config, tokenizer)
        self.check_vocabulary(config, tokenizer, str(store.path))
        shared = self.shared(config, store, tokenizer)
        rows, notes = {}, list[str]()
        for number, name in enumerate(phases(config)):
            phase, documents = config[name], store.train_documents
            wanted = Wanted(config, phase, store, tokenizer, config.seed, number, documents, False, shared)
            train = self.stream(wanted, notes)
            if name == "train":
                config = with_epochs(config, train.epoch_rows(0), "rows")
            evals: tuple[EvalSet, ...] = ()
            if len(store.heldout_documents) and config.eval.enabled:
                documents = store.heldout_documents
                wanted = Wanted(config, phase, store, tokenizer, EVAL_SEED, number, documents, True, shared)
                once = self.stream(wanted, [])
                evals = held_out_set(once.rows, once.epoch_rows(0), config)
            train_rows = self.training_rows(config, train.rows, number)
            rows[name] = Rows(train_rows, evals, phase.batch_rows, self.flops_per_step(config, phase))
        return Data(
            config,
            rows,
            tokenizer,
            {"data.store sha256": store.sha256},
            constants={"unigram_entropy": self.unigram_entropy(store, shared)},
            notes=tuple(notes),
        )


def padded(rows: RowSource, total: int) -> RowSource:
    """The first `total` rows, and behind them rows that weigh 0."""

    def filled(first: int, count: int) -> dict[str, np.ndarray]:
        have = max(0, min(count, total - first))
        return pad_rows(rows(first, have), count)

    return filled


def held_out_set(rows: RowSource, count: int, config: ConfigDict) -> tuple[EvalSet, ...]:
    """The first config.eval.max_rows of `count` held-out rows, or all of them where that is 0."""
    total = min(count, config.eval.max_rows or count)
    return (EvalSet("eval", padded(rows, total), total),)
