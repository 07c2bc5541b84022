"""Texts as rows of token ids, and rows as batches.

Shapes: B rows, S sequence.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bertjax.data.row_form import RowForm
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import InputError, check_utf8, show

_LENGTHS = 32  # tokens

Text = str | tuple[str, str]  # a text, or two that belong together


class Row(NamedTuple):
    """A text, or two, between their marks (RowForm), as tokens."""

    ids: list[int]
    types: list[int]  # 0 up to what follows A, 1 after it


def encode(
    tokenizer: Tokenizer, form: RowForm, texts: Sequence[Text], most: int, truncate: bool = False
) -> list[Row]:
    """The rows of some texts; "[MASK]" written in one is plain text.

    Args:
      form: the marks around texts.
      most: tokens that the model takes.
      truncate: whether a longer row is shortened, token by token at the end of the longer text, as the 2018
        release's run_classifier.py does.

    Raises:
      InputError: a row is longer and `truncate` is not set; a text comes from bytes that are not UTF-8.
    """
    pairs = [(text, "") if isinstance(text, str) else text for text in texts]
    both = [text for pair in pairs for text in pair]
    for part in both:
        check_utf8(part)
    ids = tokenizer.encode_batch(both)
    rows = []
    for pair, text, a, b in zip(pairs, texts, ids[::2], ids[1::2], strict=True):
        second = not isinstance(text, str)
        room = most - 2 - (len(form.between) if second else 0)
        if len(a) + len(b) > room and not truncate:
            tokens = len(a) + len(b) + most - room
            raise InputError(f"{show(pair[0])}: has {tokens} tokens, the model takes {most}; "
                             "shorten it, or cut it with --truncate")  # fmt: skip
        len_a, len_b = len(a), len(b)
        while len_a + len_b > room:
            if len_a > len_b:
                len_a -= 1
            else:
                len_b -= 1
        first = [form.before, *a[:len_a], form.between[0] if second else form.after]
        rest = [*form.between[1:], *b[:len_b], form.after] if second else []
        rows.append(Row(first + rest, [0] * len(first) + [1] * len(rest)))
    return rows


def batch_length(longest: int, most: int) -> int:
    """S of a batch by its longest row, rounded up, so that few shapes are compiled."""
    return min(-(-longest // _LENGTHS) * _LENGTHS, most)


def make_batch(rows: Sequence[Row], pad_id: int, length: int) -> dict[str, np.ndarray]:
    """The encoder's batch: int32 [B, S] arrays of `length` tokens a row, filled up with padding."""
    ids_BS = np.full((len(rows), length), pad_id, np.int32)
    types_BS, segments_BS = np.zeros_like(ids_BS), np.zeros_like(ids_BS)
    for i, row in enumerate(rows):
        ids_BS[i, : len(row.ids)] = row.ids
        types_BS[i, : len(row.ids)] = row.types
        segments_BS[i, : len(row.ids)] = 1
    positions_BS = np.broadcast_to(np.arange(length, dtype=np.int32), ids_BS.shape)
    return {
        "input_ids": ids_BS,
        "token_type_ids": types_BS,
        "position_ids": positions_BS,
        "segment_ids": segments_BS,
    }
