"""Makes a token store of a corpus: reads blocks, tokenises them in workers, writes them in order, counts.

The parent alone writes. After an interruption `build_store` continues behind the last block that is on disk.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bertjax.data.pretraining.store import (
    TOKENIZER_FILES,
    StoreWriter,
    remake,
    split_documents,
    write_json,
)
from bertjax.data.tokenizers.tokenizer import (
    Tokenizer,
    gpt_tokenizer,
    load_tokenizer,
    sentencepiece_tokenizer,
    word_tokenizer,
    wordpiece_tokenizer,
)
from bertjax.data.tokenizers.words import in_order
from bertjax.errors import InputError, Interrupted
from bertjax.files import read_json
from bertjax.prepare.formats import format_of, input_bytes, read_blocks
from bertjax.prepare.interface import Block, Input
from bertjax.prepare.train_vocab import (
    GPT_MERGES,
    Sample,
    train_gpt_bpe,
    train_sentencepiece,
    train_wordpiece,
)
from bertjax.prepare.workers import Tokens, Workers, sentences_of, tokenise_block, words_of

BLOCK_BYTES = 1 << 20  # a worker's job
SAVE_SECONDS = 5.0  # work that a crash can cost
REPORT_SECONDS = 10.0  # between lines where stderr is no terminal
SINGLE_SENTENCE_SHARE = 0.9  # above it, the corpus is taken for one whose documents are cut apart
EARLY_DOCUMENTS = 10_000  # enough to see that, long before the end of a large corpus
_ADDED = (
    "text_bytes",
    "unknown_tokens",
    "single_sentence_documents",
    "dropped_sentences",
    "dropped_documents",
)


@dataclass(frozen=True)
class Settings:
    """What is made of what. Defaults are the command's."""

    inputs: tuple[Input, ...]
    vocab: str | None  # a file to use; None trains one
    vocab_size: int | None  # of the one to train; None is gpt_bpe's own, and for "words" all of them
    tokenizer: str  # its kind: "wordpiece", "unigram", "bpe", "gpt_bpe" or "words"
    vocab_sample_mb: int  # most text to train it on
    cased: bool
    heldout: float  # share of the documents
    processes: int
    allow_single_sentence_documents: bool


def arguments_of(settings: Settings) -> dict[str, Any]:
    """What decides the store's bytes, as a JSON value: a half-made store goes on only under the same.

    Raises InputError if an input is missing, or the vocabulary file is unusable.
    """
    arguments = {
        "inputs": _inputs(settings),
        "cased": settings.cased,
        "heldout": settings.heldout,
        "block_bytes": BLOCK_BYTES,
    }
    if settings.vocab:
        sha256 = load_tokenizer(settings.vocab, lower_case=not settings.cased).sha256
        return {**arguments, "vocab": settings.vocab, "vocab_sha256": sha256}
    return {
        **arguments,
        "vocab_size": settings.vocab_size,
        "tokenizer": settings.tokenizer,
        "vocab_sample_mb": settings.vocab_sample_mb,
    }


def _inputs(settings: Settings) -> list[dict[str, Any]]:
    return [{**asdict(inp), **_state(inp)} for inp in settings.inputs]


def _state(inp: Input) -> dict[str, int]:
    files = format_of(inp.format).files(inp)
    newest = max((os.stat(file).st_mtime_ns for file in files), default=0)
    return {"bytes": input_bytes(inp), "files": len(files), "modified_ns": newest}


def compare_arguments(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raises an InputError that names every difference."""
    found = _differences(old, new, "--")
    before, after = old["inputs"], new["inputs"]
    if len(before) != len(after):
        found.append(f"{len(before)} inputs were given, now {len(after)}")
    else:
        for a, b in zip(before, after, strict=True):
            found += _differences(a, b, f"{b['path']}: ")
    if found:
        raise InputError(
            f"{out}: was made with other arguments or another input: {'; '.join(found)}; use the former "
            "ones, another --out, or remove the folder"
        )


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str) -> list[str]:
    names = [name for name in {**old, **new} if name != "inputs" and old.get(name) != new.get(name)]
    return [f"{prefix}{name} was {old.get(name)}, is {new.get(name)}" for name in names]


def build_store(settings: Settings, arguments: dict[str, Any], out: Path) -> None:
    """Begins or continues the store in the folder `out` and finishes it.

    Args:
      arguments: arguments_of(settings).

    Raises:
      InputError: other arguments than those of the blocks that the half-made store holds; a file of it that
        was changed; unusable text or vocabulary; documents that next-sentence prediction cannot use; a
        worker that died.
      Interrupted: by SIGINT or SIGTERM; what is done is saved.
      OSError: the disk is full, for one; what progress.json covers is whole.
    """
    path = out / "progress.json"
    progress = read_json(path, remake(out)) if path.is_file() else None
    if progress and progress["counts"]["blocks"]:
        compare_arguments(out, progress["arguments"], arguments)
    elif not progress or progress["arguments"] != arguments:  # a start that kept no text binds nobody
        counts = {**dict.fromkeys(("blocks", "seconds", *_ADDED), 0), "longest": None, "shortest": None,
                  "input_documents": [0] * len(settings.inputs)}  # fmt: skip
        progress = {"arguments": arguments, "tokenizer": None, "writer": None, "counts": counts}
        write_json(path, progress)
    with Workers(settings.processes) as workers:
        if progress["tokenizer"] is None:
            tokenizer = _make_tokenizer(settings, workers)
            for name in TOKENIZER_FILES:
                (out / name).unlink(missing_ok=True)  # an earlier start's may be of another kind
            tokenizer.save(out)
            progress["tokenizer"] = _description(tokenizer)
            write_json(path, progress)
        else:
            tokenizer = _load_tokenizer(out, progress["tokenizer"])
        writer = StoreWriter(out, progress["tokenizer"]["vocab_size"], progress["writer"])
        try:
            _tokenise(settings, out, progress, workers, writer)
            _check_documents(settings, progress["counts"], writer.documents)
            if _inputs(settings) != arguments["inputs"]:
                raise InputError(
                    f"{out}: an input changed while it was read; remove the folder and run again"
                )
            writer.finish(out, _manifest(settings, progress, writer), sorted(tokenizer.files))
        finally:
            writer.close()


def _description(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "kind": tokenizer.kind,
        "lower_case": tokenizer.lower_case,
        "vocab_size": tokenizer.vocab_size,
        "sha256": tokenizer.sha256,
    }


def _load_tokenizer(out: Path, description: dict[str, Any]) -> Tokenizer:
    tokenizer = load_tokenizer(out)
    if _description(tokenizer) != description or not all((out / name).is_file() for name in tokenizer.files):
        raise InputError(
            f"{out}: its vocabulary has changed since the store was begun; remove the folder and run again"
        )
    return tokenizer


def _make_tokenizer(settings: Settings, workers: Workers) -> Tokenizer:
    if settings.vocab:
        return load_tokenizer(settings.vocab, lower_case=not settings.cased)
    if settings.tokenizer == "words":
        return _list_words(settings, workers)
    sample = Sample(settings.vocab_sample_mb * 1_000_000)
    meter = _Meter("reading for the vocabulary", settings.inputs)

    def jobs() -> Iterator[tuple[int, Input, Block]]:
        for index, (number, block) in enumerate(_blocks(settings.inputs)):
            if sample.wanted(index):
                yield index, settings.inputs[number], block
            meter.show(number, block)

    for (index, _, _), sentences in workers.map(sentences_of, jobs()):
        sample.add(index, sentences)
    meter.close()
    _say(f"training a {settings.tokenizer} vocabulary on {sample.bytes / 1e6:.1f} MB of text")
    lower_case, name = not settings.cased, "the trained vocabulary"
    size = settings.vocab_size
    if settings.tokenizer == "gpt_bpe":
        tokens, merges = train_gpt_bpe(sample, size)
        tokenizer = gpt_tokenizer(tokens, merges, name)
        size = size or tokenizer.vocab_size - len(merges) + GPT_MERGES
    elif size is None:
        raise InputError("--vocab_size is needed to train a vocabulary")
    elif settings.tokenizer == "wordpiece":
        tokens = train_wordpiece(sample, size, lower_case)
        tokenizer = wordpiece_tokenizer(tokens, lower_case, name)
    else:
        model = train_sentencepiece(sample, size, settings.tokenizer, lower_case)
        tokenizer = sentencepiece_tokenizer(model, name, lower_case)
    if tokenizer.vocab_size < size:
        _say(f"the text has pieces for {tokenizer.vocab_size} tokens only, not for {size}")
    workers.check()
    return tokenizer


def _list_words(settings: Settings, workers: Workers) -> Tokenizer:
    """A tokenizer of all words of the text: what characters a word has is kept nowhere else."""
    meter, counts = _Meter("counting words", settings.inputs), Counter[str]()
    lower_case = not settings.cased
    blocks = ((lower_case, settings.inputs[number], block) for number, block in _blocks(settings.inputs))
    names = {inp: number for number, inp in enumerate(settings.inputs)}
    for (_, inp, block), found in workers.map(words_of, blocks):
        counts.update(found)
        meter.show(names[inp], block)
    meter.close()
    return word_tokenizer(in_order(counts), lower_case)


def _blocks(inputs: Sequence[Input]) -> Iterator[tuple[int, Block]]:
    for number, inp in enumerate(inputs):
        for block in read_blocks(inp, BLOCK_BYTES):
            yield number, block


def _tokenise(
    settings: Settings, out: Path, progress: dict[str, Any], workers: Workers, writer: StoreWriter
) -> None:
    """Appends the blocks that `progress` does not have yet, and saves it now and then and at the end."""
    counts, sha256 = progress["counts"], progress["tokenizer"]["sha256"]
    first, saved = counts["blocks"], time.monotonic()
    began = saved - counts["seconds"]
    meter = _Meter("tokenising", settings.inputs)
    if first:
        _say(f"continuing behind block {first}: {writer.documents:,} documents are in the store")
    numbers: list[int] = []  # the input of each block from `first` on

    def jobs() -> Iterator[tuple[str, str, Input, Block]]:
        for index, (number, block) in enumerate(_blocks(settings.inputs)):
            if index >= first:
                numbers.append(number)
                yield str(out), sha256, settings.inputs[number], block

    def save() -> None:
        counts["seconds"] = time.monotonic() - began
        progress["writer"] = writer.state()
        write_json(out / "progress.json", progress)

    try:
        for (_, _, _, block), result in workers.map(tokenise_block, jobs()):
            number = numbers[counts["blocks"] - first]
            writer.append(result.tokens, result.sentence_tokens, result.document_sentences)
            _count(counts, number, result)
            meter.show(number, block)
            if writer.documents >= EARLY_DOCUMENTS > writer.documents - len(result.document_sentences):
                _refuse_single_sentences(settings, counts, writer.documents)
            if time.monotonic() - saved >= SAVE_SECONDS:
                save()
                saved = time.monotonic()
    except Interrupted as error:
        save()
        blocks = counts["blocks"]
        raise Interrupted(
            f"{blocks} blocks are saved in {out}; run the same command again to continue"
        ) from error
    except InputError:
        save()
        raise
    finally:
        meter.close()
    save()


def _count(counts: dict[str, Any], number: int, result: Tokens) -> None:
    counts["blocks"] += 1
    counts["input_documents"][number] += len(result.document_sentences)
    for name in _ADDED:
        counts[name] += getattr(result, name)
    if result.longest and (not counts["longest"] or result.longest[0] > counts["longest"][0]):
        counts["longest"] = list(result.longest)
    if result.shortest and (not counts["shortest"] or result.shortest[0] < counts["shortest"][0]):
        counts["shortest"] = list(result.shortest)


def _check_documents(settings: Settings, counts: dict[str, Any], documents: int) -> None:
    for inp, found in zip(settings.inputs, counts["input_documents"], strict=True):
        if not found:
            raise InputError(f"{inp.path}: no documents in it; is the format really {inp.format}?")
    if documents < 2:
        raise InputError(
            f"{settings.inputs[0].path}: one document only, but next-sentence prediction draws from another; "
            "put a blank line between documents (--format=sentences), or give a file for each "
            "(--format=text)"
        )
    train, heldout = split_documents(documents, settings.heldout)
    if len(train) < 2:
        raise InputError(
            f"--heldout={settings.heldout}: {len(heldout)} of {documents} documents are held out, but "
            "at least 2 must be left for training; give more documents or --heldout=0"
        )
    _refuse_single_sentences(settings, counts, documents)


def _refuse_single_sentences(settings: Settings, counts: dict[str, Any], documents: int) -> None:
    single = counts["single_sentence_documents"]
    if single > SINGLE_SENTENCE_SHARE * documents and not settings.allow_single_sentence_documents:
        raise InputError(
            f"{settings.inputs[0].path}: {single} of {documents} documents have a single sentence, so every "
            "next-sentence label would be random; put blank lines between documents only, not between "
            "sentences, or add --allow_single_sentence_documents and train without next-sentence prediction"
        )


def _manifest(settings: Settings, progress: dict[str, Any], writer: StoreWriter) -> dict[str, Any]:
    counts, inputs, first = progress["counts"], [], 0
    for inp, documents in zip(settings.inputs, counts["input_documents"], strict=True):
        inputs.append({"path": inp.path, "format": inp.format, "weight": inp.weight,
                       "first_document": first, "end_document": first + documents})  # fmt: skip
        first += documents
    summary = {
        "documents": writer.documents,
        "heldout_documents": len(split_documents(writer.documents, settings.heldout)[1]),
        "sentences": writer.sentences,
        "tokens": writer.tokens,
        "tokens_per_sentence": writer.tokens / writer.sentences,
        "unknown_share": counts["unknown_tokens"] / writer.tokens,
        "unigram_entropy": writer.unigram_entropy(),
        **{name: counts[name] for name in (*_ADDED, "longest", "shortest")},
        "store_bytes": writer.bytes,
        "seconds": round(counts["seconds"], 3),
        "mb_per_second": round(counts["text_bytes"] / 1e6 / max(counts["seconds"], 1e-3), 3),
    }
    return {
        "tokenizer": progress["tokenizer"],
        "inputs": inputs,
        "heldout": settings.heldout,
        "summary": summary,
        "arguments": progress["arguments"],
    }


class _Meter:
    """Progress on stderr, in on-disk bytes of all inputs: a bar on a terminal, else a line now and then."""

    def __init__(self, what: str, inputs: Sequence[Input]):
        sizes = [input_bytes(inp) for inp in inputs]
        self.what, self.total = what, sum(sizes)
        self.before = [sum(sizes[:number]) for number in range(len(sizes))]
        self.began = self.reported = time.monotonic()
        self.start: int | None = None
        self.bar: tqdm | None = None
        if sys.stderr.isatty():
            self.bar = tqdm(total=self.total, desc=what, unit="B", unit_scale=True)

    def show(self, number: int, block: Block) -> None:
        """`block`, of the input `number`, is done."""
        done = self.before[number] + block.read_bytes
        if self.start is None:
            self.start = done
            if self.bar is not None:
                self.bar.initial = self.bar.n = done  # what was done before counts for no speed
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            return
        now = time.monotonic()
        if now - self.reported < REPORT_SECONDS:
            return
        self.reported = now
        rate = (done - self.start) / (now - self.began)
        left = f", {(self.total - done) / rate:.0f} s left" if rate else ""
        _say(f"{self.what}: {done / 1e6:,.1f} of {self.total / 1e6:,.1f} MB, {rate / 1e6:.2f} MB/s{left}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
