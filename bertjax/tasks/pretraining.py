"""What tasks that pre-train on a token store share: its tokenizer, the rows of both phases, held-out ones."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

from bertjax.config import sections
from bertjax.data.pretraining.bert_examples import Examples, pad_rows
from bertjax.data.pretraining.store import Store, open_store
from bertjax.data.pretraining.stream import Stream
from bertjax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from bertjax.errors import InputError
from bertjax.tasks.interface import Data, EvalSet, Rows, RowSource, with_epochs

EVAL_SEED = 0  # held-out examples are the same in every run, whatever its seed


@dataclass(frozen=True)
class Wanted:
    """Rows of some documents of a store."""

    config: ConfigDict
    section: ConfigDict  # config.train or config.phase2
    store: Store
    tokenizer: Tokenizer
    seed: int
    phase: int
    documents: np.ndarray  # int64 ids
    held_out: bool  # in which every document counts once; else endless training rows


def check_vocab_size(config: ConfigDict, tokenizer: Tokenizer, path: str) -> None:
    """Raises InputError if config.model has another number of tokens than the vocabulary of `path`."""
    if tokenizer.vocab_size != config.model.vocab_size:
        raise InputError(
            f"--config.model.vocab_size={config.model.vocab_size}: the vocabulary of {path} has "
            f"{tokenizer.vocab_size} tokens; set --config.model.vocab_size={tokenizer.vocab_size}"
        )


def open_store_data(
    config: ConfigDict,
    make: Callable[[Wanted], Stream],
    flops: Callable[[ConfigDict, ConfigDict], float],
    complete: Callable[[Tokenizer], Tokenizer] = lambda tokenizer: tokenizer,
) -> Data:
    """Opens config.data.store.

    Args:
      flops: flops_per_step of the task.
      complete: gives the model's tokenizer by the store's, whose tokens it begins with.

    Raises:
      InputError: for whatever does not fit.
    """
    if not config.data.store:
        raise InputError("--config.data.store is empty; name a folder written by python -m bertjax.prepare")
    store = open_store(config.data.store)
    tokenizer = load_tokenizer(store.path)
    if tokenizer.sha256 != store.manifest["tokenizer"]["sha256"]:
        raise InputError(
            f"{store.path}: its tokens were made with another vocabulary than the one that lies in it; "
            "run bertjax.prepare again"
        )
    tokenizer = complete(tokenizer)
    check_vocab_size(config, tokenizer, str(store.path))
    rows = {}
    for phase, name in enumerate(sections(config)):
        section, documents = config[name], store.train_documents
        train = make(Wanted(config, section, store, tokenizer, config.seed, phase, documents, False))
        if name == "train":
            config = with_epochs(config, train.epoch_rows(0), "rows")
        evals: tuple[EvalSet, ...] = ()
        if len(store.heldout_documents) and config.train.eval_every:
            documents = store.heldout_documents
            once = make(Wanted(config, section, store, tokenizer, EVAL_SEED, phase, documents, True))
            evals = held_out_set(once.rows, once.epoch_rows(0), config)
        rows[name] = Rows(train.rows, evals, section.batch_size, flops(config, section))
    return Data(
        config,
        rows,
        tokenizer,
        {"data.store sha256": store.sha256},
        # Nats a token that guessing by the corpus's word frequencies costs: what a model must beat.
        constants={"unigram_entropy": store.manifest["summary"]["unigram_entropy"]},
    )


def examples_of(wanted: Wanted, data: ConfigDict, kind: type[Examples]) -> Examples:
    """BERT's examples by `data`, a config.data, as `kind`."""
    return kind(
        wanted.store,
        wanted.tokenizer,
        data,
        seed=wanted.seed,
        phase=wanted.phase,
        seq_length=wanted.section.seq_length,
        max_predictions_per_seq=wanted.section.max_predictions_per_seq,
        documents=wanted.documents,
    )


def padded(rows: RowSource, total: int) -> RowSource:
    """The first `total` rows, and behind them rows that weigh 0."""

    def filled(first: int, count: int) -> dict[str, np.ndarray]:
        have = max(0, min(count, total - first))
        return pad_rows(rows(first, have), count)

    return filled


def held_out_set(rows: RowSource, count: int, config: ConfigDict) -> tuple[EvalSet, ...]:
    """The first config.eval.examples of `count` held-out rows, or all of them where that is 0."""
    total = min(count, config.eval.examples or count)
    return (EvalSet("eval", padded(rows, total), total),)
