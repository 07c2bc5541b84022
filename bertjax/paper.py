"""Figures of Devlin et al. 2018 (the version of May 2019) for the tasks that it fine-tunes, in per cent."""

from collections.abc import Mapping
from typing import NamedTuple


class Figure(NamedTuple):
    """A figure of the paper, and the figure of a run that it stands beside."""

    name: str  # as the paper's table calls it
    metric: str  # of a run's metrics.jsonl
    base: float | None  # BERT_BASE; None: not given
    large: float  # BERT_LARGE
    where: str  # what it was measured on


_SERVER = "GLUE's test server"
# By the name of GLUE's task, or of the config with what it was asked for. The best setting is chosen by the
# first.
FIGURES: dict[str, tuple[Figure, ...]] = {
    "mnli": (
        Figure("MNLI-m accuracy", "eval/accuracy", 84.6, 86.7, _SERVER),
        Figure("MNLI-mm accuracy", "eval_dev_mismatched/accuracy", 83.4, 85.9, _SERVER),
    ),
    "qqp": (Figure("QQP F1", "eval/f1", 71.2, 72.1, _SERVER),),
    "qnli": (Figure("QNLI accuracy", "eval/accuracy", 90.5, 92.7, _SERVER),),
    "sst2": (Figure("SST-2 accuracy", "eval/accuracy", 93.5, 94.9, _SERVER),),
    "cola": (Figure("CoLA Matthews correlation", "eval/matthews_correlation", 52.1, 60.5, _SERVER),),
    "stsb": (Figure("STS-B Spearman correlation", "eval/spearman", 85.8, 86.5, _SERVER),),
    "mrpc": (Figure("MRPC F1", "eval/f1", 88.9, 89.3, _SERVER),),
    "rte": (Figure("RTE accuracy", "eval/accuracy", 66.4, 70.1, _SERVER),),
    "squad-v1.1": (
        Figure("SQuAD v1.1 F1", "eval/f1", 88.5, 90.9, "dev"),
        Figure("SQuAD v1.1 exact match", "eval/exact_match", 80.8, 84.1, "dev"),
    ),
    "squad-v2.0": (
        Figure("SQuAD v2.0 F1", "eval/f1", None, 81.9, "dev"),
        Figure("SQuAD v2.0 exact match", "eval/exact_match", None, 78.7, "dev"),
    ),
    "ner": (Figure("CoNLL-2003 F1", "eval/f1", 96.4, 96.6, "dev"),),
    "swag": (Figure("SWAG accuracy", "eval/accuracy", 81.6, 86.6, "dev"),),
}
GLUE_AVERAGE = Figure("GLUE average", "", 79.6, 82.1, _SERVER)


def glue_average(figures: Mapping[str, float | None]) -> float | None:
    """The paper's: the mean over GLUE's figures, MNLI's two counted as two and WNLI left out.

    Args:
      figures: by the names of FIGURES.

    Returns:
      None if one is not there.
    """
    names = [figure.name for task in FIGURES.values() for figure in task if figure.where == _SERVER]
    values = [figures.get(name) for name in names]
    return None if None in values else sum(values) / len(values)  # type: ignore[arg-type]
