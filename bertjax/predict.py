"""Asks a trained model: python -m bertjax.predict fill-mask --model=WORKDIR 'A text with a [MASK] in it.'"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import InputError, run_command
from bertjax.flags import Parser
from bertjax.models import bert
from bertjax.trained import load_trained

MASK = "[MASK]"
_ROWS = 16  # texts computed together
_LENGTHS = 32  # rows are filled up to a multiple of so many tokens, so that few shapes are compiled

Guesses = list[tuple[str, float]]  # (token, probability), the likeliest first


def fill_mask(
    config: ConfigDict, params: Any, tokenizer: Tokenizer, texts: Sequence[str], top_k: int
) -> list[list[Guesses]]:
    """The likeliest tokens at each [MASK] of each text. Computed in float32, whatever config.dtype.

    Args:
      config: config.model.
      params: of bertjax.models.bert.BertForPreTraining.
      texts: each with one [MASK] or several, which are guessed independently.
      top_k: guesses for each; no more than the vocabulary has.

    Returns:
      For each text and each of its masks, in order, `top_k` tokens with their probabilities.

    Raises:
      InputError: a text without [MASK], with more tokens than the model has positions, or from bytes that
        are not UTF-8.
    """
    config = ConfigDict({**config.to_dict(), "dtype": "float32"})
    rows = [_encode(tokenizer, text, config.max_position_embeddings) for text in texts]

    def softmax(params: Any, batch: Any) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return jax.nn.softmax(bert.bind(config, params)(batch)[0])

    predict = jax.jit(softmax)
    found: list[list[Guesses]] = []
    for first in range(0, len(rows), _ROWS):
        some = rows[first : first + _ROWS]
        batch, counts = _batch(some, tokenizer, config.max_position_embeddings)
        for masks_MV, count in zip(np.asarray(predict(params, batch)), counts, strict=True):
            found.append([_best(tokenizer, masks_MV[i, : config.vocab_size], top_k) for i in range(count)])
    return found


def _encode(tokenizer: Tokenizer, text: str, most: int) -> list[int]:
    """[CLS] text [SEP]. The tokenizer takes "[MASK]" for plain text, so what lies between is encoded."""
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    try:
        text.encode()
    except UnicodeEncodeError as error:  # a surrogate: Python's stand-in for a wrong byte of an argument
        raise InputError(f"{shown!r}: is not UTF-8; convert the text") from error
    parts = tokenizer.encode_batch(text.split(MASK))
    if len(parts) == 1:
        raise InputError(f"{shown!r}: has no {MASK}; put one where a word is to be guessed")
    ids = [tokenizer.cls_id, *parts[0]]
    for part in parts[1:]:
        ids += [tokenizer.mask_id, *part]
    ids.append(tokenizer.sep_id)
    if len(ids) > most:
        raise InputError(f"{shown!r}: has {len(ids)} tokens, the model takes {most}; shorten it")
    return ids


def _batch(rows: list[list[int]], tokenizer: Tokenizer, most: int) -> tuple[dict[str, np.ndarray], list[int]]:
    """The model's batch, and how many masks each row has."""
    length = min(-(-max(map(len, rows)) // _LENGTHS) * _LENGTHS, most)
    ids_BS = np.full((len(rows), length), tokenizer.pad_id, np.int32)
    segments_BS = np.zeros_like(ids_BS)
    for i, row in enumerate(rows):
        ids_BS[i, : len(row)] = row
        segments_BS[i, : len(row)] = 1
    masks = [np.flatnonzero(ids == tokenizer.mask_id) for ids in ids_BS]
    positions_BM = np.zeros((len(rows), max(map(len, masks))), np.int32)
    for i, found in enumerate(masks):
        positions_BM[i, : len(found)] = found
    batch = {
        "input_ids": ids_BS,
        "token_type_ids": np.zeros_like(ids_BS),
        "position_ids": np.broadcast_to(np.arange(length, dtype=np.int32), ids_BS.shape),
        "segment_ids": segments_BS,
        "masked_lm_positions": positions_BM,
        "next_sentence_positions": np.zeros((len(rows), 1), np.int32),
    }
    return batch, [len(found) for found in masks]


def _best(tokenizer: Tokenizer, probabilities_V: np.ndarray, top_k: int) -> Guesses:
    best = np.argsort(-probabilities_V, kind="stable")[:top_k]
    return [(tokenizer.tokens[i], float(probabilities_V[i])) for i in best]


def format_guesses(text: str, masks: list[Guesses]) -> str:
    """The text, and a line of guesses for each of its masks."""
    lines = [text]
    for number, guesses in enumerate(masks, 1):
        head = f"{number}: " if len(masks) > 1 else ""
        lines.append("    " + head + "  ".join(f"{token} {share:.1%}" for token, share in guesses))
    return "\n".join(lines)


def main(args: Sequence[str]) -> None:
    """Reads the flags and runs the sub-command. Raises InputError."""
    parser = Parser(prog="python -m bertjax.predict", description="Asks a trained model.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = commands.add_parser(
        "fill-mask",
        help="guess the words that [MASK] stands for",
        description="Prints the likeliest tokens for each [MASK] of each text, with their probabilities.",
    )
    add.add_argument("--model", required=True, metavar="WORKDIR", help="of the run")
    add.add_argument("--top_k", type=int, default=5, metavar="N", help="guesses for each mask (default: 5)")
    add.add_argument("--json", action="store_true", help="print a JSON object a line")
    add.add_argument("texts", nargs="*", metavar="TEXT", help="default: one a line from standard input")
    add.set_defaults(run=_fill_mask)
    flags = parser.parse_args(args)
    flags.run(flags)


def _fill_mask(flags: argparse.Namespace) -> None:
    if flags.top_k < 1:
        raise InputError(f"--top_k={flags.top_k}: must be positive")
    texts = flags.texts or list(_lines_of_stdin())
    model = load_trained(flags.model)
    expected = jax.eval_shape(lambda: bert.init_params(model.config, jax.random.key(0)))
    if jax.tree.map(np.shape, model.params) != jax.tree.map(np.shape, expected):
        raise InputError(f"{flags.model}: not a pre-trained model; name the workdir of a pre-training run")
    answers = fill_mask(model.config, model.params, model.tokenizer, texts, flags.top_k)
    for text, masks in zip(texts, answers, strict=True):
        if flags.json:
            guesses = [[{"token": token, "probability": p} for token, p in mask] for mask in masks]
            print(json.dumps({"text": text, "masks": guesses}, ensure_ascii=False))
        else:
            print(format_guesses(text, masks))


def _lines_of_stdin() -> Iterator[str]:
    """Standard input's lines but blank ones."""
    if sys.stdin.isatty():
        raise InputError("no text; give texts as arguments, or one a line on standard input")
    found = []
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            found.append(line.decode().strip())
        except UnicodeDecodeError as error:
            raise InputError(
                f"standard input:{number}: byte 0x{line[error.start]:02x} is not UTF-8; convert the text"
            ) from error
    if not any(found):
        raise InputError("standard input has no text; give one a line")
    yield from filter(None, found)


if __name__ == "__main__":
    run_command(main)
