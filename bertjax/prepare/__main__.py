"""From raw text to a vocabulary and a token store, in one command that continues where it was stopped."""

import argparse
import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bertjax.data.pretraining.store import open_store
from bertjax.errors import InputError, naming, run_command
from bertjax.flags import Parser
from bertjax.prepare.build import Settings, arguments_of, build_store, compare_arguments
from bertjax.prepare.formats import FORMATS, format_of
from bertjax.prepare.interface import Input
from bertjax.prepare.train_vocab import GPT_MERGES

UNKNOWN_SHARE = 0.05  # above it, the vocabulary hardly fits the text
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
EXAMPLE = """example:
  python -m bertjax.prepare --input=books.txt --format=sentences --vocab_size=30000 --out=store

The formats, what the summary means and what to do after an error: docs/prepare.md."""


def main(argv: Sequence[str]) -> None:
    """The command. Raises InputError, Interrupted."""
    args = parse_args(argv)
    out = Path(args.out)
    settings = Settings(
        inputs=_inputs(args),
        vocab=args.vocab,
        vocab_size=args.vocab_size,
        tokenizer=args.tokenizer,
        vocab_sample_mb=args.vocab_sample_mb,
        cased=args.cased,
        heldout=args.heldout,
        processes=args.processes,
        allow_single_sentence_documents=args.allow_single_sentence_documents,
    )
    arguments = arguments_of(settings)
    _refuse_among_inputs(out, settings.inputs)
    try:
        with _locked(out):
            finished = (out / "store.json").is_file()
            if not finished:
                build_store(settings, arguments, out)
            manifest = open_store(out).manifest  # first, since a damaged one would name wrong arguments
            compare_arguments(out, manifest["arguments"], arguments)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if error.errno in NO_SPACE:
            raise InputError(
                f"{out}: {reason}; nothing that was saved is lost: make room and run the same command again"
            ) from error
        if error.filename is None:
            raise
        raise InputError(
            f"{error.filename}: cannot be read or written ({reason}); check the path and its permissions, or "
            "give another --out"
        ) from error
    if finished:
        print(f"{out}: is complete; every checksum is right; nothing to do")
    print(summary_text(out, manifest))


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The flags, each checked by itself. Raises InputError."""
    parser = Parser(command="prepare", description=__doc__, epilog=EXAMPLE,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    several: dict[str, Any] = {"nargs": "+", "action": "extend"}
    each = "for all inputs, or for each in order"
    add("--input", required=True, metavar="PATH", **several,
        help="a file, folder or glob (.gz, .bz2, .xz, .zst too), or a tfds name; or several")  # fmt: skip
    add("--format", required=True, metavar="NAME", **several,
        help=f"{', '.join(FORMATS)}, or your own as module:NAME; {each}")  # fmt: skip
    add("--out", required=True, metavar="STORE", help="folder to write; the same command again continues")
    vocabulary = parser.add_mutually_exclusive_group()
    vocabulary.add_argument(
        "--vocab", metavar="FILE", help="a vocab.txt, a SentencePiece .model, vocab.json or words.json to use"
    )
    vocabulary.add_argument("--vocab_size", type=int, metavar="N", help="train a vocabulary of N tokens "
                            f"(default of gpt_bpe: {GPT_MERGES:,} merges and the characters)")  # fmt: skip
    add("--tokenizer", choices=("wordpiece", "unigram", "bpe", "gpt_bpe", "words"), default="wordpiece",
        help="kind of vocabulary to train; unigram, bpe: SentencePiece; gpt_bpe: OpenAI GPT's; words: every "
        "word of the text, without --vocab_size (default: wordpiece)")  # fmt: skip
    add("--vocab_sample_mb", type=int, default=100, metavar="MB",
        help="most text to train it on (default: 100)")  # fmt: skip
    add("--cased", action="store_true", help="keep case and accents (default: lower-case)")
    add("--weight", type=float, metavar="W", **several, help=f"passes in an epoch, {each} (default: 1)")
    add("--text_field", metavar="NAME", **several, help=f"of jsonl and tfds records, {each} (default: text)")
    add("--split", metavar="NAME", **several, help=f"of tfds, {each} (default: train)")
    add("--language", metavar="CODE", **several,
        help=f"ISO 639-1, to cut sentences, {each} (default: en)")  # fmt: skip
    add("--heldout", type=float, default=0.01, metavar="SHARE",
        help="share of documents kept out of training, for evaluation (default: 0.01)")  # fmt: skip
    add("--processes", type=int, default=_cores(), metavar="N", help="worker processes (default: the cores)")
    add("--allow_single_sentence_documents", action="store_true",
        help="go on although few have two, for training without next-sentence prediction")  # fmt: skip
    args = parser.parse_args(argv)
    for name in args.format:
        format_of(name)
    for name, ok, rule in (
        ("vocab_size", args.vocab_size is None or args.vocab_size > 5, "must be above 5, the special tokens"),
        ("vocab_sample_mb", args.vocab_sample_mb > 0, "must be positive"),
        ("heldout", 0 <= args.heldout < 1, "must be at least 0 and below 1"),
        ("processes", args.processes > 0, "must be positive"),
    ):
        if not ok:
            raise InputError(f"--{name}={getattr(args, name)}: {rule}")
    if args.tokenizer == "words" and args.vocab_size is not None:
        raise InputError(f"--vocab_size={args.vocab_size}: --tokenizer=words keeps every word, and "
                         "config.model.vocab_size says how many are predicted; leave it out")  # fmt: skip
    if args.tokenizer not in ("words", "gpt_bpe") and args.vocab is None and args.vocab_size is None:
        raise InputError("one of the arguments --vocab --vocab_size is required; see --help")
    if args.cased and args.tokenizer == "gpt_bpe":
        raise InputError("--cased: --tokenizer=gpt_bpe is lower-case; leave one of them out")
    return args


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _inputs(args: argparse.Namespace) -> tuple[Input, ...]:
    def each(name: str, default: Any) -> list[Any]:
        values, count = getattr(args, name) or [default], len(args.input)
        if len(values) not in (1, count):
            raise InputError(f"--{name}: {len(values)} values for {count} inputs; give one, or one for each")
        return values * count if len(values) == 1 else values

    names = {"format": None, "weight": 1.0, "text_field": "text", "split": "train", "language": "en"}
    columns = [each(name, default) for name, default in names.items()]
    inputs = tuple(Input(*values) for values in zip(args.input, *columns, strict=True))
    for inp in inputs:
        format_of(inp.format).check(inp)
    return inputs


def _refuse_among_inputs(out: Path, inputs: Sequence[Input]) -> None:
    """There the store's files would be taken for text, and change the input for the next run."""
    for inp in inputs:
        folder = Path(inp.path).resolve()
        if format_of(inp.format).reads_any_file and folder.is_dir() and out.resolve().is_relative_to(folder):
            raise InputError(f"{out}: lies in --input={inp.path}; give --out a folder elsewhere")


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Makes the folder and keeps other runs away from it for as long as this process lives."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; --out names a folder")
    out.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in out.iterdir()} - {"progress.json.tmp"}
    if names and not names & {"store.json", "progress.json"}:
        raise InputError(f"{out}: has files but is no token store; give --out a new or an empty folder")
    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            with naming(str(out)):
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{out}: another bertjax.prepare is at work there; wait for its end") from error
        yield
    finally:
        os.close(folder)


def summary_text(out: Path, manifest: dict[str, Any]) -> str:
    """The manifest's summary for a reader."""
    s, tokenizer = manifest["summary"], manifest["tokenizer"]
    case = "lower-case" if tokenizer["lower_case"] else "cased"
    lines = [
        f"store       {out} ({s['store_bytes'] / 1e6:,.1f} MB)",
        f"vocabulary  {tokenizer['kind']}, {tokenizer['vocab_size']:,} tokens, {case}",
        f"documents   {s['documents']:,}, of which {s['heldout_documents']:,} are held out",
        f"            {s['single_sentence_documents']:,} have a single sentence",
        f"            longest  {s['longest'][0]:,} tokens, {s['longest'][1]}",
        f"            shortest {s['shortest'][0]:,} tokens, {s['shortest'][1]}",
        f"sentences   {s['sentences']:,}, of {s['tokens_per_sentence']:.1f} tokens on average",
        f"tokens      {s['tokens']:,}, of which {s['unknown_share']:.3%} are [UNK]",
        f"            entropy of their frequencies {s['unigram_entropy']:.2f} nats a token",
        f"dropped     {s['dropped_sentences']:,} sentences without a token, "
        f"{s['dropped_documents']:,} documents without a sentence",
        f"time        {s['seconds']:,.1f} s for {s['text_bytes'] / 1e6:,.1f} MB of text, "
        f"{s['mb_per_second']:.2f} MB/s",
    ]
    if s["unknown_share"] > UNKNOWN_SHARE:
        lines.append("warning     many [UNK]: the vocabulary may be for another language or case")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
