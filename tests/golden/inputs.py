"""The files that the cases of golden.cases read: text, stores, models in Hugging Face's format, examples.

Nothing here asks bertjax for a number: text and weights come from random.Random alone, in formats that others
have defined, so that a change in bertjax changes no input but the stores, which bertjax.prepare builds as a
user would.
"""

import json
import random
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tfrecord_fixture import make_features, write_file, write_vocab

from bertjax.prepare import __main__ as prepare

WORDS = [consonant + vowel for consonant in "bcdfghjklmnpqrtvwz" for vowel in "aeiou"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_D, _HEADS, _F, _POSITIONS = 32, 2, 128, 64


def write_inputs(folder):
    """Writes them all to an empty folder."""
    folder, rng = Path(folder), random.Random(0)
    write_bert(folder / "bert", 2)
    write_bert(folder / "bert_of_four_layers", 4)
    write_gpt(folder / "gpt")
    write_examples(folder / "examples", rng)
    for length, most in ((32, 5), (48, 7)):
        features = make_features(60, length, most)
        write_file(folder / f"examples_{length}.tfrecord", features[:48])
        write_file(folder / f"heldout_{length}.tfrecord", features[48:])
    write_vocab(folder / "tfrecord_vocab.txt")
    documents = ["\n".join(sentence(rng) for _ in range(rng.randrange(2, 8))) for _ in range(60)]
    (folder / "text.txt").write_text("\n\n".join(documents) + "\n")
    for store, *flags in (
        ("store", f"--vocab={folder}/bert/vocab.txt"),
        ("gpt_store", f"--vocab={folder}/gpt/vocab.json"),
        ("words", "--tokenizer=words"),
    ):
        prepare.main([f"--input={folder}/text.txt", "--format=sentences", "--heldout=0.1", "--processes=1",
                      f"--out={folder}/{store}", *flags])  # fmt: skip


def words(rng, least, most, endings=0.0):
    """From `least` to `most` words, of which each mostly follows from the one before it.

    Args:
      endings: the share of words that a tokenizer cuts in two.
    """
    number, found = rng.randrange(len(WORDS)), []
    for _ in range(rng.randrange(least, most + 1)):
        found.append(WORDS[number] + "s" * (rng.random() < endings))
        number = (7 * number + 1 + (rng.random() < 0.2)) % len(WORDS)
    return found


def sentence(rng):
    return " ".join(words(rng, 3, 9, endings=0.1))


def write_examples(folder, rng):
    """Tables for classes, numbers and choices; tagged sentences; questions with and without answers."""
    folder.mkdir()
    for name, count in (("train", 64), ("dev", 24), ("more", 10), ("test", 6)):
        (folder / f"{name}.tsv").write_text(table(rng, count))
        (folder / f"{name}.conll").write_text(tagged(rng, count))
        for version in ("", "_v2"):
            content = json.dumps(questions(rng, count, unanswerable=bool(version)))
            (folder / f"{name}{version}.json").write_text(content)


def table(rng, count):
    """The first word tells the class, the number is how many words two texts have, and the right choice
    begins with "ba"."""
    lines = ["label\tnumber\tchoice\tone\ttwo\tthree"]
    for i in range(count):
        one, two, three = (words(rng, 1, 3) for _ in range(3))
        label, choice = i % 3, rng.randrange(2)
        one[0] = ("ba", "ko", "zu")[label]
        two[0], three[0] = ("ba", "zu")[choice], ("zu", "ba")[choice]
        texts = [" ".join(text) for text in (one, two, three)]
        name, number = ("low", "middle", "high")[label], len(one) + len(two) - 4
        lines.append("\t".join([name, f"{number}.5", str(choice), *texts]))
    return "\n".join(lines) + "\n"


def tagged(rng, count):
    """Sentences in documents of four. "ba" begins an entity, which a word with an ending continues."""
    sentences = []
    for i in range(count):
        lines, inside = [], False
        for word in words(rng, 1, 9, endings=0.2):
            if rng.random() < 0.3:
                word, tag = "ba", "B-X"
            else:
                tag = "I-X" if inside and word.endswith("s") else "O"
            inside = tag != "O"
            lines.append(f"{word} {tag}")
        sentences.append(("-DOCSTART- O\n\n" if i % 4 == 0 else "") + "\n".join(lines))
    return "\n\n".join(sentences) + "\n"


def questions(rng, count, unanswerable):
    """SQuAD's JSON: what is asked for is the word after "zu", or two of them."""
    paragraphs = []
    for i in range(count):
        context = [word for word in words(rng, 6, 36) if word != "zu"]
        asked = {"id": f"q{i}", "question": " ".join(["zu", *words(rng, 1, 3)])}
        answers = []
        if not (unanswerable and i % 3 == 0):
            at = rng.randrange(len(context) - 2)
            context.insert(at, "zu")
            text = " ".join(context[at + 1 : at + 2 + i % 2])
            answers = [{"text": text, "answer_start": len(" ".join(context[: at + 1])) + 1}]
        if unanswerable:
            asked["is_impossible"] = not answers
        paragraphs.append({"context": " ".join(context), "qas": [asked | {"answers": answers}]})
    return {"version": "made", "data": [{"title": "made", "paragraphs": paragraphs}]}


def weights(rng, *shape, scale=0.2, around=0.0):
    """Float32 numbers drawn evenly from `around` - `scale` to `around` + `scale`."""
    numbers = [rng.uniform(around - scale, around + scale) for _ in range(int(np.prod(shape)))]
    return np.array(numbers, np.float32).reshape(shape)


def write_bert(folder, layers):
    """Hugging Face's folder of a BertModel."""
    rng = random.Random(layers)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"]
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": len(tokens), "hidden_size": _D,
        "num_hidden_layers": layers, "num_attention_heads": _HEADS, "intermediate_size": _F,
        "hidden_act": "gelu", "max_position_embeddings": _POSITIONS, "type_vocab_size": 2,
    }  # fmt: skip
    tensors = {}

    def dense(name, outputs, inputs):
        tensors[f"{name}.weight"] = weights(rng, outputs, inputs)
        tensors[f"{name}.bias"] = weights(rng, outputs)

    def norm(name):
        tensors[f"{name}.weight"] = weights(rng, _D, around=1.0)
        tensors[f"{name}.bias"] = weights(rng, _D)

    for name, rows, scale in (
        ("word", len(tokens), 1.0),
        ("position", _POSITIONS, 0.2),
        ("token_type", 2, 0.2),
    ):
        tensors[f"embeddings.{name}_embeddings.weight"] = weights(rng, rows, _D, scale=scale)
    norm("embeddings.LayerNorm")
    for i in range(layers):
        layer = f"encoder.layer.{i}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            dense(f"{layer}.attention.{name}", _D, _D)
        norm(f"{layer}.attention.output.LayerNorm")
        dense(f"{layer}.intermediate.dense", _F, _D)
        dense(f"{layer}.output.dense", _D, _F)
        norm(f"{layer}.output.LayerNorm")
    dense("pooler.dense", _D, _D)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    save_file(tensors, folder / "model.safetensors")


def write_gpt(folder, layers=2):
    """Hugging Face's folder of an OpenAIGPTLMHeadModel, whose vocabulary has the first words whole."""
    rng = random.Random(100)
    merges = [(word[0], f"{word[1]}</w>") for word in WORDS[:43]]
    tokens = ["<unk>", *_LETTERS, *(f"{letter}</w>" for letter in _LETTERS), *map("".join, merges)]
    config = {
        "architectures": ["OpenAIGPTLMHeadModel"], "model_type": "openai-gpt", "vocab_size": len(tokens),
        "n_embd": _D, "n_layer": layers, "n_head": _HEADS, "n_positions": _POSITIONS, "afn": "gelu",
    }  # fmt: skip
    tensors = {
        "transformer.tokens_embed.weight": weights(rng, len(tokens), _D),
        "transformer.positions_embed.weight": weights(rng, _POSITIONS, _D),
    }
    for i in range(layers):
        layer = f"transformer.h.{i}"
        for name, inputs, outputs in (
            ("attn.c_attn", _D, 3 * _D), ("attn.c_proj", _D, _D),
            ("mlp.c_fc", _D, _F), ("mlp.c_proj", _F, _D),
        ):  # fmt: skip
            tensors[f"{layer}.{name}.weight"] = weights(rng, inputs, outputs)
            tensors[f"{layer}.{name}.bias"] = weights(rng, outputs)
        for name in ("ln_1", "ln_2"):
            tensors[f"{layer}.{name}.weight"] = weights(rng, _D, around=1.0)
            tensors[f"{layer}.{name}.bias"] = weights(rng, _D)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("".join(f"{' '.join(merge)}\n" for merge in merges))
    save_file(tensors, folder / "model.safetensors")
