"""The piece of a text that answers a question: a vector for its beginning and one for its end, and a softmax
over the positions of the row (Devlin et al. 2018, sections 4.2 and 4.3; run_squad.py of the 2018 release).

As in the release there is no dropout before the head (an LSTM of config.head has its own), "no answer" is the
span of [CLS], and the softmax goes over padding too, unless config.examples.padding_logits is False.

Shapes: B rows, S sequence, W windows, Q questions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bertjax.data.finetuning.squad import DEV, TEST, TRAIN, read_questions
from bertjax.data.finetuning.squad_answers import Prediction, find_answer, score_answers, write_answers
from bertjax.data.finetuning.squad_windows import LOST, Encoded, Windows, encode_questions, find_answers
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import InputError
from bertjax.models import bert
from bertjax.models.layers import cross_entropy
from bertjax.tasks import classify
from bertjax.tasks.finetuning import (
    EncodedRows,
    encoder_flops,
    eval_name,
    file_paths,
    fine_tuned_config,
    fingerprints,
    need_model,
)
from bertjax.tasks.interface import Data, EvalSet, Outputs, Rows, Sums
from bertjax.trained_model import Trained

HEAD = "question_answering"  # of bertjax.models.bert.HEADS
FINE_TUNES = True
_NO_LOGIT = -1e9  # at padding that takes no part

batch_loss, metrics, batch_weights = classify.batch_loss, classify.metrics, classify.batch_weights


def init_params(config: ConfigDict, key: jax.Array) -> bert.Params:
    """Parameters of the encoder with its span head as a nested dict of float32 arrays."""
    return bert.init_params(config.model, key, bert.HEADS[HEAD], head=config.head)


def batch_sums(config: ConfigDict, params: bert.Params, batch: bert.Batch, keys: jax.Array | None) -> Sums:
    """Mean losses of beginning and end, summed over a batch or a part of it."""
    logits_BS2 = _logits(config, params, batch, keys)
    start_B, _ = cross_entropy(logits_BS2[..., 0], batch["start_positions"])
    end_B, _ = cross_entropy(logits_BS2[..., 1], batch["end_positions"])
    return {"loss": ((start_B + end_B) / 2 * batch["label_weights"]).sum()}


def batch_outputs(config: ConfigDict, params: bert.Params, batch: bert.Batch) -> dict[str, jax.Array]:
    """float32 logits of a beginning and an end at each position, [B, config.train.seq_length]."""
    logits_BS2 = _logits(config, params, batch, None)
    fill = ((0, 0), (0, config.train.seq_length - logits_BS2.shape[1]))
    return {
        name: jnp.pad(logits_BS2[..., i], fill, constant_values=_NO_LOGIT)
        for i, name in enumerate(("start", "end"))
    }


def _logits(config: ConfigDict, params: bert.Params, batch: bert.Batch, keys: jax.Array | None) -> jax.Array:
    model = bert.bind(config.model, params, config.head)
    logits_BS2 = model.spans(model.head_states(batch, keys=keys, frozen=config.train.freeze_encoder))
    if config.examples.padding_logits:
        return logits_BS2
    return jnp.where(batch["segment_ids"][:, :, None] > 0, logits_BS2, _NO_LOGIT)


def flops_per_step(config: ConfigDict, section: ConfigDict) -> float:
    """Floating-point operations of the encoder's products in a step of windows that each fill a row."""
    return encoder_flops(config, np.array([section.seq_length]))


def batch_shapes(config: ConfigDict, section: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch whose longest row is full."""
    b, s = section.batch_size, section.seq_length
    names = ("input_ids", "token_type_ids", "position_ids", "segment_ids")
    return {
        **{name: jax.ShapeDtypeStruct((b, s), jnp.int32) for name in names},
        **{name: jax.ShapeDtypeStruct((b,), jnp.int32) for name in ("start_positions", "end_positions")},
        "label_weights": jax.ShapeDtypeStruct((b,), jnp.float32),
    }


def figures(config: ConfigDict) -> list[str]:
    """Names of what a dev set is measured by."""
    return list(score_answers({}, {}, config.examples.unanswerable, config.examples.null_threshold))


def open_data(config: ConfigDict, source: Trained | None) -> Data:
    """Reads the files of config.examples. Raises InputError for whatever does not fit."""
    c = config.examples
    if config.train.seq_length < c.max_query_length + 4:
        raise InputError(
            f"--config.examples.max_query_length={c.max_query_length}: leaves no room for text in "
            f"train.seq_length={config.train.seq_length}"
        )
    source, paths = need_model(config, source, pairs=True), file_paths(c)
    train = read_questions(paths[TRAIN][0], TRAIN, c.unanswerable)
    files = [(path, use) for use in (DEV, TEST) for path in paths[use]]
    held_out = [read_questions(path, use, c.unanswerable) for path, use in files]
    tokenizer = source.tokenizer

    def cut(encoded: Encoded) -> Windows:
        windows = Windows(encoded, tokenizer, config.train.seq_length, c.doc_stride)
        if not len(windows):
            raise InputError(f"{encoded.questions[0].where}: neither its context nor any other of the file "
                             "has a token; name another file")  # fmt: skip
        return windows

    encoded = encode_questions(train, tokenizer, c.max_query_length)
    spans, exact = find_answers(encoded, tokenizer)
    kept = np.flatnonzero(spans[:, 0] != LOST)
    if not len(kept):
        raise InputError(f"{train[0].where}: no answer can be told from the words around it; nothing is left")
    encoded = Encoded([train[i] for i in kept], [encoded.queries[i] for i in kept], encoded.contexts,
                      encoded.context_of[kept])  # fmt: skip
    config = fine_tuned_config(config, source, (), len(kept))
    windows = cut(encoded)
    starts, ends = windows.positions(spans[kept])
    arrays = {
        "start_positions": starts,
        "end_positions": ends,
        "label_weights": np.ones(len(windows), np.float32),
    }
    answered = np.bincount(windows.question[starts > 0], minlength=len(kept)) > 0
    note = (
        f"{c.train}: {len(windows)} windows of {len(train)} questions; answers that no window holds: "
        f"{((spans[kept, 0] >= 0) & ~answered).sum()}, that are not whole tokens: {(~exact[kept]).sum()}; "
        f"left out for their white space: {len(train) - len(kept)}"
    )
    rows = EncodedRows(windows, arrays, tokenizer.pad_id, config.train.seq_length, c.padding_logits)
    evals: list[EvalSet] = []
    for (path, use), questions in zip(files, held_out, strict=True):
        of_set = cut(encode_questions(questions, tokenizer, c.max_query_length))
        evals.append(_eval_set(config, of_set, tokenizer, path, scored=use == DEV))
    return Data(
        config,
        {
            "train": Rows(
                rows.shuffled(config.seed, config.train.batch_size),
                tuple(evals),
                config.train.batch_size,
                encoder_flops(config, rows.lengths),
            )
        },
        tokenizer,
        fingerprints(c),
        notes=(note,),
    )


def _eval_set(config: ConfigDict, windows: Windows, tokenizer: Tokenizer, path: str, scored: bool) -> EvalSet:
    c, stem = config.examples, Path(path).stem
    rows = EncodedRows(windows, {}, tokenizer.pad_id, config.train.seq_length, c.padding_logits)
    questions = windows.encoded.questions
    golds = {question.id: [answer.text for answer in question.answers] for question in questions}

    last: list[tuple[Outputs, dict[str, Prediction]]] = []

    def answers(outputs: Outputs) -> dict[str, Prediction]:
        if not last or last[0][0] is not outputs:  # once, where they are both scored and written
            last[:] = [(outputs, answer_all(windows, rows.in_order(outputs), tokenizer, c))]
        return last[0][1]

    def score(outputs: Outputs) -> dict[str, float]:
        return score_answers(golds, answers(outputs), c.unanswerable, c.null_threshold)

    def write(outputs: Outputs, folder: str) -> None:
        write_answers(folder, stem, answers(outputs), c.unanswerable, c.null_threshold)

    return EvalSet(
        name=eval_name(c, path),
        rows=rows.sorted(config.eval.batch_size),
        num_rows=len(rows),
        score=score if scored else None,
        write=write,
    )


def answer_all(
    windows: Windows,
    outputs: Mapping[str, Sequence[np.ndarray] | np.ndarray],
    tokenizer: Tokenizer,
    examples: ConfigDict,
) -> dict[str, Prediction]:
    """The answer to each question, by its id.

    Args:
      outputs: batch_outputs of the windows, in order: "start" and "end" [W, S].
      examples: config.examples.
    """
    found = {}
    for i, question in enumerate(windows.encoded.questions):
        some = slice(*windows.first_window[i : i + 2])
        found[question.id] = find_answer(
            windows, i, outputs["start"][some], outputs["end"][some], tokenizer,
            n_best_size=examples.n_best_size, max_answer_length=examples.max_answer_length,
            unanswerable=examples.unanswerable,
        )  # fmt: skip
    return found
