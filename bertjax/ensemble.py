"""Puts the answers of several question-answering runs together:

    python -m bertjax.ensemble RUN RUN ... --out=FOLDER [--data=dev-v1.1.json]

Reads each run's *_nbest_predictions.json and writes the same files for all together. The probability of an
answer is its mean over the runs, 0 in a run that does not name it, and the likeliest answer is given. Where
questions may have no answer (v2.0), the log odds of "no answer" are its probability's to the best answer's.
"""

import math
import os
from argparse import RawTextHelpFormatter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from bertjax.data.finetuning.squad import DEV, OtherVersion, read_questions
from bertjax.data.finetuning.squad_answers import (
    NBEST,
    NULL_ODDS,
    Candidate,
    Prediction,
    score_answers,
    write_answers,
)
from bertjax.errors import InputError, quoted, run_command
from bertjax.files import read_json
from bertjax.flags import Parser
from bertjax.models import bert
from bertjax.tasks.answer import TASK

_SMALLEST = 1e-300  # a probability whose logarithm is still finite
_ADVICE = "take the file as a run wrote it"
_Candidates = Mapping[str, Sequence[Candidate]]  # by question id


def main(args: Sequence[str]) -> None:
    """Reads the flags, merges, writes, and prints the figures if there are answers. Raises InputError."""
    parser = Parser(command="ensemble", description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the workdir of a finished run")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where to; not a run's")
    parser.add_argument("--data", metavar="FILE", help="the dev set that predictions are scored with")
    parser.add_argument(
        "--null_threshold", type=float, default=TASK.examples(bert.KIND).null_threshold, metavar="X",
        help='log odds above which the answer is "no answer" (default: %(default)s)',
    )  # fmt: skip
    flags = parser.parse_args(args)
    if not math.isfinite(flags.null_threshold):
        raise InputError(f"--null_threshold={flags.null_threshold}: must be a finite number")
    folders = [os.path.realpath(run) for run in flags.runs]
    if len(set(folders)) < 2 or len(set(folders)) < len(folders):
        raise InputError(f"{' '.join(flags.runs)}: name two or more runs, each once")
    if os.path.realpath(flags.out) in folders:
        raise InputError(f"--out={flags.out}: is a run, whose predictions would be lost; name another folder")
    stems = [Path(flags.data).stem] if flags.data else _stems(flags.runs[0])
    merged = {stem: _merge_runs(flags.runs, stem) for stem in stems}
    golds = {}
    if flags.data:
        [(answers, unanswerable)] = merged.values()
        try:
            questions = read_questions(flags.data, DEV, unanswerable)
        except OtherVersion as error:
            kind = "with" if unanswerable else "without"
            raise InputError(f"{flags.data}: of another version of SQuAD than the runs, which were trained "
                             f"{kind} unanswerable questions; name their dev set") from error  # fmt: skip
        golds = {question.id: [answer.text for answer in question.answers] for question in questions}
        if golds.keys() != answers.keys():
            raise InputError(f"{flags.data}: has other questions than the runs answered; name their dev set")
    os.makedirs(flags.out, exist_ok=True)
    for stem, (answers, unanswerable) in merged.items():
        write_answers(flags.out, stem, answers, unanswerable, flags.null_threshold)
        print(f"{os.path.join(flags.out, stem)}: {len(answers)} questions answered by {len(folders)} runs")
        if golds:
            figures = score_answers(golds, answers, unanswerable, flags.null_threshold)
            print("  ".join(f"{name} {value:.4f}" for name, value in figures.items()))


def _stems(run: str) -> list[str]:
    if not os.path.isdir(run):
        raise InputError(f"{run}: no such folder; name the workdir of a run")
    stems = [name.removesuffix(NBEST) for name in sorted(os.listdir(run)) if name.endswith(NBEST)]
    if not stems:
        raise InputError(f"{run}: has no *{NBEST}; name a run that is finished and answers questions")
    return stems


def _merge_runs(runs: Sequence[str], stem: str) -> tuple[dict[str, Prediction], bool]:
    """The merged answers of one file, and whether they may be "no answer"."""
    unanswerable = [os.path.isfile(os.path.join(run, stem + NULL_ODDS)) for run in runs]
    if len(set(unanswerable)) > 1:
        raise InputError(f"{stem}: some runs were trained with unanswerable questions and some without; "
                         "put those of a kind together")  # fmt: skip
    read = [_read_candidates(os.path.join(run, stem + NBEST)) for run in runs]
    for run, candidates in zip(runs, read, strict=True):
        if candidates.keys() != read[0].keys():
            raise InputError(f"{run}: its {stem}{NBEST} has other questions than that of {runs[0]}")
    most = TASK.examples(bert.KIND).n_best_size
    answers = {name: merge([of_run[name] for of_run in read], most, unanswerable[0]) for name in read[0]}
    return answers, unanswerable[0]


def _read_candidates(path: str) -> _Candidates:
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file; every run must have answered the same files")
    content = read_json(path, _ADVICE)
    for name, entries in content.items():
        if not (isinstance(entries, list) and entries and all(map(_is_candidate, entries))):
            raise InputError(f"{path}: question {quoted(name)}: not a list of answers, each with a text, a "
                             f"probability from 0 to 1 and two logits; {_ADVICE}")  # fmt: skip
    return {name: [Candidate(**entry) for entry in entries] for name, entries in content.items()}


def _is_candidate(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() == set(Candidate._fields)
        and isinstance(entry["text"], str)
        and all(type(entry[name]) in (int, float) for name in Candidate._fields[1:])
        and 0 <= entry["probability"] <= 1
    )


def merge(models: Sequence[Sequence[Candidate]], n_best_size: int, unanswerable: bool) -> Prediction:
    """The answer of several models to one question, by the rule above.

    Answers of one probability stay in the order in which the models name them. The two logits of an entry are
    halves of the logarithm of its probability, so that their sum orders the entries as a single model's does.
    """
    sums: dict[str, float] = {}
    for candidate in chain.from_iterable(models):
        sums[candidate.text] = sums.get(candidate.text, 0.0) + candidate.probability
    order = sorted(sums, key=sums.__getitem__, reverse=True)
    kept = order[:n_best_size] + [text for text in order[n_best_size:] if unanswerable and not text]
    candidates = []
    for text in kept:
        share = sums[text] / len(models)
        half = math.log(max(share, _SMALLEST)) / 2
        candidates.append(Candidate(text, share, half, half))
    best = next((c for c in candidates if c.text), Candidate("", 0.0, 0.0, 0.0))
    null = next((c for c in candidates if not c.text), Candidate("", 0.0, 0.0, 0.0))
    odds = null.start_logit + null.end_logit - best.start_logit - best.end_logit
    return Prediction(best.text, tuple(candidates), odds)


if __name__ == "__main__":
    run_command(main)
