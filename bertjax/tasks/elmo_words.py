"""What the tasks on ELMo share: texts as words with their characters, whatever the words are.

A task's own words are numbered as they come, since ELMo looks at their characters alone; the rule by which
text is cut is that of the model's store.

Shapes: B rows, S words of a row, C characters of a word.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bertjax.data.tokenizers.characters import AnyWords
from bertjax.data.tokenizers.words import MARKS
from bertjax.tasks.interface import Data, Rows, RowSource
from bertjax.trained_model import Trained


def any_words(source: Trained) -> tuple[AnyWords, Trained]:
    """Numbers for a task's words, and the model with a tokenizer that gives them."""
    words = AnyWords(source.tokenizer, source.config.elmo.characters)
    return words, dataclasses.replace(source, tokenizer=words.tokenizer)


def with_characters(data: Data, words: AnyWords, source: Trained) -> Data:
    """The data whose batches have character_ids too, int32 [B, S, C], and whose tokenizer is the model's."""

    def added(rows: RowSource) -> RowSource:
        def source_of(first: int, count: int) -> dict[str, np.ndarray]:
            batch = rows(first, count)
            return batch | {"character_ids": words.characters(batch["input_ids"])}

        return source_of

    def of_phase(rows: Rows) -> Rows:
        evals = tuple(dataclasses.replace(each, rows=added(each.rows)) for each in rows.evals)
        return dataclasses.replace(rows, train=added(rows.train), evals=evals)

    rows = {name: of_phase(each) for name, each in data.rows.items()}
    return dataclasses.replace(data, rows=rows, tokenizer=source.tokenizer)


def words_of_texts(batch: Mapping[str, jax.Array]) -> jax.Array:
    """int32 [B, S]: 1 at the words of the first text, 2 at those of the second, 0 at marks and padding."""
    words_BS = (batch["segment_ids"] > 0) & (batch["input_ids"] >= MARKS.index("<UNK>"))
    return jnp.where(words_BS, batch["token_type_ids"] + 1, 0)


def elmo_shapes(config: ConfigDict, section: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and type of what `with_characters` adds to a batch."""
    shape = section.batch_size, section.seq_length, config.elmo.characters
    return {"character_ids": jax.ShapeDtypeStruct(shape, jnp.int32)}
