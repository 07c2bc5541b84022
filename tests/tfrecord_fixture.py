"""A writer of the release's example files, byte by byte, that shares nothing with the reader under test."""

import random
import struct
from pathlib import Path

from plain_examples import FIRST, PAD, Example, Recipe, examples_of
from store_fixture import VOCAB

from bertjax.data.tokenizers.tokenizer import SPECIAL_TOKENS

_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reflected


def _step(x):
    for _ in range(8):
        x = x >> 1 ^ _POLYNOMIAL * (x & 1)
    return x


_TABLE = [_step(x) for x in range(256)]


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def checksum(data):
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def framed(data):
    length = struct.pack("<Q", len(data))
    return length + checksum(length) + data + checksum(data)


def varint(n):
    n %= 2**64  # negative numbers are their two's complement
    out = b""
    while n >= 128:
        out += bytes([n % 128 + 128])
        n //= 128
    return out + bytes([n])


def field(number, content):
    """A length-delimited protobuf field."""
    return varint(number * 8 + 2) + varint(len(content)) + content


def serialised(features):
    """A tf.train.Example of {name: integers, or floats}."""
    entries = b""
    for name, values in features.items():
        if any(isinstance(value, float) for value in values):
            kind, packed = 2, b"".join(struct.pack("<f", value) for value in values)
        else:
            kind, packed = 3, b"".join(map(varint, values))
        entries += field(1, field(1, name.encode()) + field(2, field(kind, field(1, packed))))
    return field(1, entries)


def features_of(example: Example, recipe: Recipe):
    """What the release writes of an example."""

    def padded(values, length, by=0):
        return [*values, *[by] * (length - len(values))]

    s, p = recipe.seq_length, recipe.max_predictions
    labels = [example.original[i] for i in example.positions]
    return {
        "input_ids": padded(example.tokens, s, PAD),
        "input_mask": padded([1] * len(example.tokens), s),
        "segment_ids": padded(example.types, s),
        "masked_lm_positions": padded(example.positions, p),
        "masked_lm_ids": padded(labels, p),
        "masked_lm_weights": padded([1.0] * len(labels), p, 0.0),
        "next_sentence_labels": [int(example.pair.is_random)],
    }


def make_features(count, seq_length=16, max_predictions=3, seed=0):
    """[{name: values}] of examples of made-up documents over the vocabulary of store_fixture."""
    rng = random.Random(seed)
    documents = [
        [[rng.randrange(FIRST, VOCAB) for _ in range(rng.randint(3, 8))] for _ in range(rng.randint(2, 8))]
        for _ in range(count)
    ]
    recipe = Recipe(seq_length, max_predictions)
    found = examples_of(documents, recipe, [False] * VOCAB, seed, 1)
    return [features_of(example, recipe) for example, _ in zip(found, range(count), strict=False)]


def write_file(path, features):
    """Writes a file of examples and returns its path as a string."""
    Path(path).write_bytes(b"".join(framed(serialised(each)) for each in features))
    return str(path)


def write_vocab(path, size=VOCAB):
    """Writes the vocab.txt of `size` tokens that the examples are over, and returns its path as a string."""
    tokens = [*SPECIAL_TOKENS, *(f"w{i}" for i in range(FIRST, size))]
    Path(path).write_text("".join(f"{token}\n" for token in tokens))
    return str(path)
