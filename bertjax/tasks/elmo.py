"""ELMo's two language models (Peters et al. 2018, section 3.1) from a store of words.

In training each direction's loss is a sampled softmax; held-out perplexities are over all predicted words.
Every figure is a sum and a weight, added up over the whole batch (or evaluation) and divided once.

The words that stand for all others in a step follow from config.seed and the step alone: each row of a batch
carries the step's key. So they are the same on every mesh, and in each part of an accumulated batch.

Shapes: B rows, S words of a row, C characters of a word.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bertjax.config import sections
from bertjax.data.pretraining.elmo_examples import Sentences, Words, step_keys
from bertjax.data.pretraining.store import open_store
from bertjax.data.tokenizers.tokenizer import load_tokenizer
from bertjax.errors import InputError
from bertjax.models import elmo, elmo_heads
from bertjax.tasks.interface import Data, EvalSet, Rows, RowSource, Sums, perplexity, with_epochs
from bertjax.tasks.pretraining import EVAL_SEED, held_out_set
from bertjax.trained_model import Trained

HEAD = "language_models"  # of bertjax.models.elmo_heads.HEADS
FINE_TUNES = False
DIRECTIONS = ("forward", "backward")


def init_params(config: ConfigDict, key: jax.Array) -> elmo.Params:
    """Parameters of the encoder and its softmax as a nested dict of float32 arrays."""
    return elmo_heads.init_params(config, key, elmo_heads.HEADS[HEAD])


def batch_weights(batch: elmo.Batch) -> Sums:
    """What the sums of `batch_sums` are divided by: the words that each direction predicts."""
    _, weights_BSR = elmo.next_words(batch["input_ids"], batch["segment_ids"])
    return dict(zip(DIRECTIONS, weights_BSR.sum((0, 1)), strict=True))


def batch_sums(config: ConfigDict, params: elmo.Params, batch: elmo.Batch, keys: jax.Array | None) -> Sums:
    """Losses of both directions, summed over a batch or a part of it: with keys for dropout, in training, of
    the sampled softmax; without, of the full one, with the words that were the likeliest."""
    model = elmo_heads.bind(config, params)
    top_BSRP = model.states(batch, keys)[-1]
    targets_BSR, weights_BSR = elmo.next_words(batch["input_ids"], batch["segment_ids"])

    def sums(name: str, x_BSR: jax.Array) -> Sums:
        total_R = (x_BSR * weights_BSR).sum((0, 1))
        return {f"{direction}_{name}": total_R[i] for i, direction in enumerate(DIRECTIONS)}

    if keys is None:
        loss_BSR, correct_BSR = model.losses(top_BSRP, targets_BSR)
        return sums("loss", loss_BSR) | sums("correct", correct_BSR)
    c = config.elmo
    key = jax.random.wrap_key_data(batch["step_key"][0], impl="threefry2x32")
    negatives = elmo.draw_negatives(key, c.vocab_size, c.samples)
    return sums("sampled_loss", model.sampled_losses(top_BSRP, targets_BSR, negatives, keys))


def batch_loss(sums: Sums, weights: Sums) -> jax.Array:
    """The mean over both directions of the mean loss of a word."""
    of_words = [sums[f"{d}_sampled_loss"] / jnp.maximum(weights[d], 1.0) for d in DIRECTIONS]
    return (of_words[0] + of_words[1]) / 2


def metrics(totals: dict[str, float]) -> dict[str, float]:
    """Means over whatever was added up: `totals` holds the names of batch_sums and of batch_weights.

    `perplexity` is the mean of both directions' perplexities, as the paper gives it. Losses of the sampled
    softmax are no estimates of the others.
    """

    def mean(name: str) -> list[float]:
        return [totals[f"{d}_{name}"] / max(totals[d], 1.0) for d in DIRECTIONS]

    if f"{DIRECTIONS[0]}_loss" not in totals:
        of_words = mean("sampled_loss")
        named = {f"{d}_sampled_loss": x for d, x in zip(DIRECTIONS, of_words, strict=True)}
        return {"sampled_loss": sum(of_words) / 2, **named}
    losses, accuracies = mean("loss"), mean("correct")
    perplexities = [perplexity(loss) for loss in losses]
    return {
        "loss": sum(losses) / 2,
        "accuracy": sum(accuracies) / 2,
        "perplexity": sum(perplexities) / 2,
        **{f"{d}_perplexity": x for d, x in zip(DIRECTIONS, perplexities, strict=True)},
    }


def flops_per_step(config: ConfigDict, section: ConfigDict) -> float:
    """Floating-point operations of the matrix products that a step of full rows needs, forward and backward:
    6 for each multiplication of the forward pass. Each direction's state meets the sampled words alone."""
    words = section.batch_size * section.seq_length
    return 6.0 * words * (elmo.encoder_products(config) + 2 * config.elmo.projection * config.elmo.samples)


def batch_shapes(config: ConfigDict, section: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch of config.train or config.phase2."""
    b, s = section.batch_size, section.seq_length
    return {
        "input_ids": jax.ShapeDtypeStruct((b, s), jnp.int32),
        "segment_ids": jax.ShapeDtypeStruct((b, s), jnp.int32),
        "character_ids": jax.ShapeDtypeStruct((b, s, config.elmo.characters), jnp.int32),
        "step_key": jax.ShapeDtypeStruct((b, 2), jnp.uint32),
    }


def open_data(config: ConfigDict, source: Trained | None = None) -> Data:
    """Opens the store. Raises InputError for whatever does not fit."""
    if not config.data.store:
        raise InputError("--config.data.store is empty; name a folder written by python -m bertjax.prepare "
                         "--tokenizer=words")  # fmt: skip
    for field in ("tfrecord", "tfrecord_heldout", "vocab"):
        if config.data[field]:
            raise InputError(
                f"--config.data.{field}={config.data[field]}: ELMo reads a store; leave it empty"
            )
    store = open_store(config.data.store)
    tokenizer = load_tokenizer(store.path)
    words = Words(store, tokenizer, config.elmo.vocab_size, config.elmo.characters)
    notes: list[str] = []
    rows = {}
    for phase, name in enumerate(sections(config)):
        rows[name], of_epoch = _rows(config, name, words, phase, notes)
        if name == "train":
            config = with_epochs(config, of_epoch, "rows")
    return Data(
        config,
        rows,
        tokenizer,
        {"data.store sha256": store.sha256},
        constants={"unigram_entropy": words.unigram_entropy()},
        notes=tuple(notes),
    )


def _rows(config: ConfigDict, name: str, words: Words, phase: int, notes: list[str]) -> tuple[Rows, int]:
    """The rows of a phase, and how many an epoch of training has."""
    section, store = config[name], words.store

    def sentences(data: ConfigDict, seed: int, documents: np.ndarray) -> Sentences:
        return Sentences(
            words, data, seed=seed, phase=phase, seq_length=section.seq_length, documents=documents
        )

    train = sentences(config.data, config.seed, store.train_documents)
    if train.cut:
        notes.append(f"{store.path}: {train.cut} sentences have more than {section.seq_length - 2} words and "
                     f"are cut ({name})")  # fmt: skip

    def with_key(rows: RowSource) -> RowSource:
        def keyed(first: int, count: int) -> dict[str, np.ndarray]:
            keys = step_keys(config.seed, phase, first // section.batch_size, count)
            return rows(first, count) | {"step_key": keys}

        return keyed

    evals: tuple[EvalSet, ...] = ()
    if len(store.heldout_documents) and config.train.eval_every:
        once = ConfigDict(config.data.to_dict())
        once.weights = (1.0,) * len(store.inputs)
        heldout = sentences(once, EVAL_SEED, store.heldout_documents)
        evals = held_out_set(heldout.rows, heldout.epoch_rows(0), config)
    rows = Rows(with_key(train.rows), evals, section.batch_size, flops_per_step(config, section))
    return rows, train.epoch_rows(0)
