"""The piece of a text that answers a question: a vector for its beginning and one for its end, and a softmax
over the positions of the row (Devlin et al. 2018, sections 4.2 and 4.3; run_squad.py of the 2018 release).

As in the release there is no dropout before the head, "no answer" is the span of [CLS], and the softmax goes
over padding too, unless config.examples.padding_logits is False. Shapes: B rows, S sequence.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bertjax.data.finetuning.squad import Question, read_questions
from bertjax.data.finetuning.squad_answers import Prediction, answer_all, score_answers, write_answers
from bertjax.data.finetuning.squad_windows import Windows, encode_questions, file_windows, training_windows
from bertjax.models.interface import Batch, ModelKind, Params, Reader, Sums
from bertjax.models.layers import cross_entropy
from bertjax.sections import batch_size
from bertjax.tasks.example_rows import EncodedRows, Places
from bertjax.tasks.finetuning import TRAIN, Examples, FineTuning, files_section
from bertjax.tasks.interface import Outputs, Require, Shapes, bind

Asked = Examples[list[Question]]
Answers = dict[str, Prediction]
_NO_LOGIT = -1e9  # at padding that takes no part


class Answer(FineTuning[list[Question]]):
    name, head, unit, reads_every_state = "answer", "question_answering", "windows", True

    def examples(self, kind: ModelKind) -> ConfigDict:
        """The defaults of the 2018 release's run_squad.py; lengths are in tokens."""
        c = files_section()
        c.train, c.dev = "train.json", ("dev.json",)
        c.max_query_length = 64  # a longer question is cut
        c.doc_stride = 128  # from the beginning of one window of a long text to that of the next
        c.max_answer_length, c.n_best_size = 30, 20
        c.unanswerable = False  # SQuAD v2.0: some questions have no answer
        c.null_threshold = 0.0  # log odds of "no answer" to the best answer above which it is given
        c.padding_logits = True  # False: padding takes no part, and rows are as long as they need be
        return c

    def check(self, config: ConfigDict, require: Require) -> None:
        super().check(config, require)
        require(config.train.seq_length >= config.examples.max_query_length + 4, "examples.max_query_length",
                f"leaves no room for text in train.seq_length={config.train.seq_length}")  # fmt: skip

    def pairs(self, config: ConfigDict) -> bool:
        return True

    def read(self, config: ConfigDict, path: str, use: str) -> list[Question]:
        return read_questions(path, use, config.examples.unanswerable)

    def encode(
        self, config: ConfigDict, reader: Reader, records: list[Question], path: str, use: str,
        notes: list[str],
    ) -> tuple[EncodedRows, tuple[Windows, Reader]]:  # fmt: skip
        c, most, tokenizer = config.examples, config.train.seq_length, reader.tokenizer
        encoded = encode_questions(records, tokenizer, c.max_query_length)
        arrays: dict[str, np.ndarray] = {}
        if use == TRAIN:
            windows, arrays, note = training_windows(encoded, tokenizer, reader.form, most, c.doc_stride)
            notes.append(f"{c.train}: {note}")
        else:
            windows = file_windows(encoded, reader.form, most, c.doc_stride)
        count = len(windows.encoded.questions)
        rows = EncodedRows(windows, arrays, tokenizer.pad_id, most, c.padding_logits, count)
        return rows, (windows, reader)

    def batch_sums(
        self, config: ConfigDict, params: Params, batch: Batch, keys: jax.Array | None, remat: str = "none"
    ) -> Sums:
        """Mean losses of beginning and end."""
        logits_BS2 = _span_logits(config, params, batch, keys, remat)
        start_B, _ = cross_entropy(logits_BS2[..., 0], batch["start_positions"])
        end_B, _ = cross_entropy(logits_BS2[..., 1], batch["end_positions"])
        return {"loss": ((start_B + end_B) / 2 * batch["label_weights"]).sum()}

    def batch_outputs(self, config: ConfigDict, params: Params, batch: Batch) -> Batch:
        """float32 logits of a beginning and an end at each position, [B, config.train.seq_length]."""
        logits_BS2 = _span_logits(config, params, batch, None, "none")
        fill = ((0, 0), (0, config.train.seq_length - logits_BS2.shape[1]), (0, 0))
        logits_BS2 = jnp.pad(logits_BS2, fill, constant_values=_NO_LOGIT)
        return {"start": logits_BS2[..., 0], "end": logits_BS2[..., 1]}

    def batch_labels(self, config: ConfigDict, phase: ConfigDict) -> Shapes:
        ids, weights = (jax.ShapeDtypeStruct((batch_size(phase),), x) for x in (jnp.int32, jnp.float32))
        return {"start_positions": ids, "end_positions": ids, "label_weights": weights}

    def figures(self, config: ConfigDict) -> list[str]:
        return list(score_answers({}, {}, config.examples.unanswerable, config.examples.null_threshold))

    def predictions(self, config: ConfigDict, examples: Asked, outputs: Outputs, places: Places) -> Answers:
        """The answer to each question, by its id."""
        windows, reader = examples.more
        in_order = {name: x[places.rows] for name, x in outputs.items()}
        return answer_all(windows, in_order, reader.tokenizer, config.examples)

    def score(self, config: ConfigDict, examples: Asked, found: Answers) -> dict[str, float]:
        golds = {question.id: [answer.text for answer in question.answers] for question in examples.records}
        return score_answers(golds, found, config.examples.unanswerable, config.examples.null_threshold)

    def write(self, config: ConfigDict, examples: Asked, found: Answers, folder: str) -> None:
        c = config.examples
        write_answers(folder, examples.stem, found, c.unanswerable, c.null_threshold)


def _span_logits(
    config: ConfigDict, params: Params, batch: Batch, keys: jax.Array | None, remat: str
) -> jax.Array:
    model = bind(config, params, remat)
    logits_BS2: jax.Array = model.span_logits(batch, keys=keys, frozen=config.train.freeze_encoder)
    if config.examples.padding_logits:
        return logits_BS2
    return jnp.where(batch["segment_ids"][:, :, None] > 0, logits_BS2, _NO_LOGIT)


TASK = Answer()
