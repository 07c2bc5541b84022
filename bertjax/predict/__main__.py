"""Asks a trained model: python -m bertjax.predict fill-mask --model=WORKDIR 'A text with a [MASK] in it.'"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby
from typing import Any

import numpy as np
from tqdm import tqdm

from bertjax import metrics
from bertjax.convert.load import load
from bertjax.data.finetuning.conll import Sentence, conll_lines, read_conll
from bertjax.data.finetuning.records import read_label, read_number, read_table, read_text
from bertjax.data.finetuning.sequences import encode
from bertjax.data.finetuning.squad import ENDINGS, TEST, Question, read_questions
from bertjax.data.finetuning.squad_answers import NO_SPAN
from bertjax.errors import InputError, check_utf8, run_command, show
from bertjax.flags import Parser
from bertjax.models.head_features import HEAD_LAYERS
from bertjax.models.interface import NUMBER
from bertjax.predict.embedding_files import ENDINGS as VECTOR_ENDINGS
from bertjax.predict.embedding_files import check_path, open_writer
from bertjax.predict.predictor import POOLINGS, Guesses, Predictor, chunks, softmax
from bertjax.predict.read_inputs import (
    check_inputs,
    context_and_choices,
    pair,
    read_texts,
    text_or_pair,
    words,
)
from bertjax.tasks import answer as answer_task
from bertjax.trained_model import Trained


def format_guesses(text: str, masks: list[Guesses]) -> str:
    """The text, and a line of guesses for each of its masks."""
    lines = [text]
    for number, guesses in enumerate(masks, 1):
        head = f"{number}: " if len(masks) > 1 else ""
        lines.append("    " + head + "  ".join(f"{token} {share:.1%}" for token, share in guesses))
    return "\n".join(lines)


def main(args: Sequence[str]) -> None:
    """Reads the flags and runs the sub-command. Raises InputError."""
    parser = Parser(command="predict", description="Asks a trained model.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    found = {name: _add_command(commands, name, *rest) for name, rest in _commands().items()}
    _add_own_flags(found)
    for name in ("next-sentence", "classify", "choose", "embed"):
        found[name].add_argument(
            "--truncate", action="store_true", help="cut what is longer than the model takes"
        )
    flags = parser.parse_args(args)
    flags.run(flags)


def _commands() -> dict[str, tuple[Callable[[argparse.Namespace], None], str, str, str, str]]:
    """What each sub-command runs, what a line of --input holds, what texts are given instead of it; help."""
    return {
        "fill-mask": (
            _fill_mask, "one text", "texts",
            "guess the words that [MASK] stands for",
            "Prints the likeliest tokens for each [MASK] of each text, with their probabilities.",
        ),
        "next-sentence": (
            _next_sentence, "two texts, with a tab between them,", "two and two,",
            "tell whether one text follows another",
            "Prints the probability that the second of two texts follows the first.",
        ),
        "classify": (
            _classify, "one text, or two with a tab between them,", "texts",
            "give each text or pair its class or number",
            "Prints the likeliest class of each text or pair with its probability, or its number.",
        ),
        "choose": (
            _choose, "a context and its choices, with tabs between them,", "a context and its choices",
            "tell which of several texts goes on from a text",
            "Prints each context and its choices with their probabilities, the likeliest first.",
        ),
        "tag": (
            _tag, "one sentence, with spaces between its words,", "sentences",
            "tag the words of sentences",
            "Prints each sentence with the likeliest tag of each word, as word/TAG.",
        ),
        "answer": (
            _answer, "a question and a text, with a tab between them,", "questions with their texts",
            "find the answer to a question in a text",
            "Prints the answer to each question with its probability. --input may be a file in SQuAD's "
            "format (.json) or its JSON Lines (.jsonl) too.",
        ),
        "embed": (
            _embed, "one text, or two with a tab between them,", "texts",
            "write hidden states to a file",
            "Writes the hidden states of each text to an .npz or HDF5 file as 'embeddings' [texts, hidden]. "
            "With --pool=tokens that is [tokens of all texts, hidden], 'tokens' and 'starts' [texts + 1], "
            "the first token of each text and the end.",
        ),
    }  # fmt: skip


def _add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], text: str, given: str, *about: str
) -> argparse.ArgumentParser:
    """A sub-command with the flags that all have."""
    help_line, description = about
    command: argparse.ArgumentParser = commands.add_parser(name, help=help_line, description=description)
    add = command.add_argument
    add("--model", required=True, metavar="PATH",
        help="the workdir of a run, a Hugging Face folder, or a folder of Google's 2018 release")  # fmt: skip
    add("--input", metavar="FILE", help=f"{text} a line (default: standard input)")
    add("--json", action="store_true", help="print a JSON object a line")
    add("--allow_pickle", action="store_true", help="read pytorch_model.bin; builds tensors, runs no code")
    add("texts", nargs="*", metavar="TEXT", help=f"{given} instead of --input")
    command.set_defaults(run=run)
    return command


def _add_own_flags(commands: dict[str, argparse.ArgumentParser]) -> None:
    """The flags that one sub-command has alone."""
    commands["fill-mask"].add_argument(
        "--top_k", type=int, default=5, metavar="N", help="guesses for each mask (default: 5)"
    )
    add = commands["classify"].add_argument
    add("--columns", default="", metavar="A[,B]",
        help="--input is a table (.tsv, .csv, .jsonl) with the texts in these columns")  # fmt: skip
    add("--label", default="", metavar="COLUMN",
        help="the table's labels: the answers are scored by them, on standard error")  # fmt: skip
    commands["tag"].add_argument(
        "--conll", action="store_true", help="--input is in the CoNLL format, and so is what is printed"
    )
    add = commands["answer"].add_argument
    add("--unanswerable", action="store_true",
        help="the model may say that there is no answer (default: if it was trained to here)")  # fmt: skip
    add("--null_threshold", type=float, metavar="X",
        help='log odds of "no answer" above which that is the answer (default: the run\'s, or '
        "0)")  # fmt: skip
    add = commands["embed"].add_argument
    add("--out", metavar="FILE", help=f"where to ({', '.join(VECTOR_ENDINGS)}); or use --json")
    add("--pool", choices=POOLINGS, default="mean",
        help="mean over the tokens (default), the state of [CLS], the pooler's output, or all "
        "tokens")  # fmt: skip
    add("--layer", type=_layer, default=-1, metavar="N",
        help="0: embeddings; 1 and up: layers; -1: the last (default); or what config.head.layers may be, "
        f"such as {', '.join(list(HEAD_LAYERS)[3:])}")  # fmt: skip


def _fill_mask(flags: argparse.Namespace) -> None:
    if flags.top_k < 1:
        raise InputError(f"--top_k={flags.top_k}: must be positive")
    texts = read_texts(flags)
    model = _open(flags)
    for chunk in chunks(texts):
        for text, masks in zip(chunk, model.fill_mask(chunk, flags.top_k), strict=True):
            if flags.json:
                guesses = [[{"token": token, "probability": p} for token, p in mask] for mask in masks]
                _print_json({"text": text, "masks": guesses})
            else:
                _print(format_guesses(text, masks))


def _next_sentence(flags: argparse.Namespace) -> None:
    if len(flags.texts) % 2:
        raise InputError(f"{len(flags.texts)} texts; give two and two")
    check_inputs(flags)
    if flags.texts:
        pairs: Iterator[Any] = iter(list(zip(flags.texts[::2], flags.texts[1::2], strict=True)))
    else:
        pairs = read_texts(flags, pair)
    model = _open(flags)
    for chunk in chunks(pairs):
        for (a, b), share in zip(chunk, model.next_sentence(chunk, flags.truncate), strict=True):
            if flags.json:
                _print_json({"text": a, "next": b, "probability": share})
            else:
                _print(f"{share:6.1%}  {a} | {b}")


def _classify(flags: argparse.Namespace) -> None:
    if flags.label and not flags.columns:
        raise InputError(f"--label={flags.label}: is a table's; name the columns of its texts with --columns")
    texts = None if flags.columns else read_texts(flags, text_or_pair)
    trained, model = _open_for(flags, ("sequence_classification", "multi_label_classification"), "classify")
    both_orders = bool(trained.meta["resolved_config"].get("examples.both_orders"))
    gold: list[Any] = []
    if texts is None:
        texts, gold = _read_columns(flags, trained)
    found = []
    for chunk in chunks(texts):
        for text, logits in zip(chunk, model.classify(chunk, flags.truncate, both_orders), strict=True):
            shown = text if isinstance(text, str) else " | ".join(text)
            if trained.head == "multi_label_classification":
                shares = 1 / (1 + np.exp(-logits))
                by_label = dict(zip(trained.labels, shares.tolist(), strict=True))
                there = [label for label, share in by_label.items() if share > 0.5]
                answer: dict[str, Any] = {"labels": there, "probabilities": by_label}
                named = ", ".join(f"{label} {by_label[label]:.1%}" for label in there) or "(no label)"
                line = f"{named}  {shown}"
            elif trained.labels == NUMBER:
                answer = {"number": float(logits[0])}
                line = f"{logits[0]:8.4f}  {shown}"
            else:
                shares = softmax(logits)
                best = int(shares.argmax())
                by_label = dict(zip(trained.labels, shares.tolist(), strict=True))
                answer = {"label": trained.labels[best], "probabilities": by_label}
                line = f"{trained.labels[best]} {shares[best]:.1%}  {shown}"
            found.append(logits)
            if flags.json:
                _print_json({"text": text, **answer})
            else:
                _print(line)
    if gold:
        _print_scores(trained, np.array(gold), np.array(found))


def _read_columns(flags: argparse.Namespace, model: Trained) -> tuple[Iterator[Any], list[Any]]:
    """The texts of a table and, if there is a column for them, their labels' numbers."""
    columns = flags.columns.split(",")
    if flags.texts or not flags.input or len(columns) > 2:
        raise InputError(f"--columns={flags.columns}: names one column or two of a table that --input names")
    records, gold = read_table(flags.input), list[Any]()
    texts = [read_text(record, columns[0], columns[1] if len(columns) > 1 else "") for record in records]
    if not flags.label:
        return iter(texts), gold
    if model.head == "multi_label_classification":
        raise InputError(
            f"--label={flags.label}: the model gives any number of labels, which are not scored here"
        )
    if model.labels == NUMBER:
        return iter(texts), [read_number(record, flags.label) for record in records]
    return iter(texts), [read_label(record, flags.label, model.labels) for record in records]


def _print_scores(model: Trained, gold: np.ndarray, logits: np.ndarray) -> None:
    if model.labels == NUMBER:
        figures = metrics.correlations(gold, logits[:, 0])
    else:
        figures = metrics.matthews(gold, logits.argmax(-1))
    shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
    print(f"{len(gold)} examples: {shown}", file=sys.stderr)
    if model.labels != NUMBER:
        table = metrics.class_table(metrics.per_class(gold, logits.argmax(-1), model.labels), aligned=True)
        print(table, end="", file=sys.stderr)


def _choose(flags: argparse.Namespace) -> None:
    if flags.texts:
        check_inputs(flags)
        questions: Iterator[Any] = iter([context_and_choices("\t".join(flags.texts))])
    else:
        questions = read_texts(flags, context_and_choices)
    _, model = _open_for(flags, ("multiple_choice",), "choose")
    for chunk in chunks(questions):
        for (context, choices), scores in zip(chunk, model.choose(chunk, flags.truncate), strict=True):
            shares = softmax(scores)
            order = np.argsort(-shares, kind="stable")
            if flags.json:
                answer = {"choice": int(order[0]), "probabilities": shares.tolist()}
                _print_json({"context": context, "choices": choices, **answer})
            else:
                _print("\n".join([context, *(f"    {shares[i]:6.1%}  {choices[i]}" for i in order)]))


def _tag(flags: argparse.Namespace) -> None:
    check_inputs(flags)
    if flags.conll and not flags.input:
        raise InputError("--conll: is the format of a file; name it with --input=FILE")
    file = read_conll(flags.input, tagged=False) if flags.conll else []
    lines = () if flags.conll else enumerate(read_texts(flags, words))  # each is a document of its own
    texts = file or (Sentence(tuple(of_line), (), 0, number) for number, of_line in lines)
    trained, model = _open_for(flags, ("token_classification",), "tag words")
    context = trained.meta["resolved_config"].get("examples.document_context", False)
    documents = (list(document) for _, document in groupby(texts, key=lambda sentence: sentence.document))
    tags = []
    for chunk in chunks(documents):
        sentences = list(chain.from_iterable(chunk))
        answers = model.best_tags(sentences, _seq_length(trained, model), context)
        for sentence, (best, shares) in zip(sentences, answers, strict=True):
            found = [trained.labels[i] for i in best]
            if flags.json:
                _print_json({"words": sentence.words, "tags": found, "probabilities": shares.tolist()})
            elif flags.conll:
                tags.append(found)
            else:
                _print(" ".join(f"{word}/{tag}" for word, tag in zip(sentence.words, found, strict=True)))
    if tags:
        sys.stdout.writelines(conll_lines(file, tags))


def _answer(flags: argparse.Namespace) -> None:
    if flags.input and flags.input.endswith(ENDINGS):
        check_inputs(flags)
        questions: Iterator[Question] = iter(read_questions(flags.input, TEST, unanswerable=False))
    else:
        pairs = enumerate(read_texts(flags, pair))
        questions = (_question(str(i), *texts) for i, texts in pairs)
    trained, model = _open_for(flags, ("question_answering",), "answer")
    # A run's own settings; a model from elsewhere comes without any.
    of_run, examples = trained.meta["resolved_config"], answer_task.TASK.examples(trained.kind)
    examples.update({name: of_run[f"examples.{name}"] for name in examples if f"examples.{name}" in of_run})
    examples.unanswerable |= flags.unanswerable
    if flags.null_threshold is not None:
        examples.null_threshold = flags.null_threshold
    seq_length = _seq_length(trained, model)
    if seq_length < examples.max_query_length + 4:
        raise InputError(f"{flags.model}: takes {seq_length} tokens, too few for a question and a text")
    for chunk in chunks(questions):
        answers = model.answer(chunk, examples, seq_length)
        for question in chunk:
            answer = answers[question.id]
            text = answer.choose(examples.unanswerable, examples.null_threshold)
            shares = {candidate.text: candidate.probability for candidate in answer.candidates}
            if answer.candidates == (NO_SPAN,):
                text, shares = "", {"": 1.0}
            if flags.json:
                more = {"null_odds": answer.null_odds} if examples.unanswerable else {}
                _print_json({"id": question.id, "question": question.text, "answer": text,
                             "probability": shares[text], **more})  # fmt: skip
            else:
                _print(f"{text or '(no answer)'} {shares[text]:.1%}  {question.text}")


def _question(number: str, text: str, context: str) -> Question:
    for part in (text, context):
        check_utf8(part)
        if not part.strip():
            raise InputError(f"{show(text)}: expected a question and a text with a tab between them")
    return Question(number, str(text), context, (), "")


def _embed(flags: argparse.Namespace) -> None:
    if bool(flags.out) == flags.json:
        raise InputError("give either --out=FILE or --json")
    if flags.out:
        check_path("--out", flags.out)
    texts = read_texts(flags, text_or_pair)
    model = _open(flags)

    def embedded() -> Iterator[tuple[list[Any], list[np.ndarray], list[list[str]]]]:
        """Texts, their states and, with --pool=tokens, their tokens, some at a time."""
        for chunk in chunks(texts):
            tokens: list[list[str]] = [[] for _ in chunk]
            if flags.pool == "tokens":
                rows = encode(model.tokenizer, model.reader.form, chunk, model.most, flags.truncate)
                tokens = [[model.tokenizer.tokens[i] for i in row.ids] for row in rows]
            yield chunk, model.embed(chunk, flags.pool, flags.layer, flags.truncate), tokens

    if flags.json:
        for some in embedded():
            for text, x, of_text in zip(*some, strict=True):
                more = {"tokens": of_text} if flags.pool == "tokens" else {}
                _print_json({"text": text, **more, "embedding": x.tolist()})
        return
    with open_writer(flags.out) as file:
        end = 0
        for _, found, tokens in embedded():
            if flags.pool == "tokens":
                ends = end + np.cumsum([0, *map(len, tokens)])
                names = np.array([token for of_text in tokens for token in of_text], object)
                file.add(embeddings=np.concatenate(found), tokens=names, starts=ends[1 if end else 0 :])
                end = int(ends[-1])
            else:
                file.add(embeddings=np.stack(found))
    print(f"{flags.out}: {', '.join(f'{name} {shape}' for name, shape in file.shapes.items())}")


def _layer(text: str) -> int | str:
    if text in HEAD_LAYERS:
        return text
    try:
        return int(text)
    except ValueError as error:
        names = ", ".join(HEAD_LAYERS)
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor one of {names}") from error


def _open(flags: argparse.Namespace) -> Predictor:
    return Predictor(load(flags.model, allow_pickle=flags.allow_pickle))


def _open_for(flags: argparse.Namespace, heads: Sequence[str], what: str) -> tuple[Trained, Predictor]:
    """The model, which must have one of the heads, and what asks it."""
    model = load(flags.model, allow_pickle=flags.allow_pickle)
    if model.head not in heads:
        raise InputError(f"{flags.model}: a model for {model.head}; name one that was trained to {what}")
    return model, Predictor(model)


def _seq_length(trained: Trained, model: Predictor) -> int:
    """Tokens of a window: the run's, or for a model from elsewhere as many as it takes."""
    return int(min(trained.meta["resolved_config"].get("train.seq_length", model.most), model.most))


def _print(text: str) -> None:
    tqdm.write(text, file=sys.stdout)  # leaves the progress bar below


def _print_json(value: dict[str, Any]) -> None:
    _print(json.dumps(value, ensure_ascii=False))


if __name__ == "__main__":
    run_command(main)
