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


# The tables of its own runs: {row: {column: figure}}; bertjax.tables.rows has the columns' names.
PaperTable = dict[str, dict[str, float]]


def _figures(columns: str, rows: Mapping[str, tuple[float | None, ...]]) -> PaperTable:
    names = columns.split(", ")
    return {
        row: {name: x for name, x in zip(names, values, strict=True) if x is not None}
        for row, values in rows.items()
    }


# Section 5.1, on dev sets.
PRETRAINING_TASKS = _figures(
    "MNLI-m, QNLI, MRPC, SST-2, SQuAD F1",
    {
        "BERT": (84.4, 88.4, 86.7, 92.7, 88.5),
        "No NSP": (83.9, 84.9, 86.5, 92.6, 87.9),
        "LTR & No NSP": (82.1, 84.3, 77.5, 92.1, 77.8),
        "+ BiLSTM": (82.1, 84.1, 75.7, 91.6, 84.9),
    },
)
# Section 5.2, on dev sets, by the paper's layers, units and heads.
MODEL_SIZE = _figures(
    "perplexity, MNLI-m, MRPC, SST-2",
    {
        "3/768/12": (5.84, 77.9, 79.8, 88.4),
        "6/768/3": (5.24, 80.6, 82.2, 90.7),
        "6/768/12": (4.68, 81.9, 84.8, 91.3),
        "12/768/12": (3.99, 84.4, 86.7, 92.9),
        "12/1024/16": (3.54, 85.7, 86.9, 93.3),
        "24/1024/16": (3.23, 86.6, 87.8, 93.7),
    },
)
# Section 5.3, CoNLL-2003's dev set.
FEATURES = _figures(
    "NER F1",
    {
        "fine-tuned": (96.4,),
        "embeddings": (91.0,),
        "second-to-last": (95.6,),
        "last": (94.9,),
        "sum of the last four": (95.9,),
        "concatenation of the last four": (96.1,),
        "sum of all": (95.5,),
    },
)
# Appendix C.2, on dev sets, by the shares of [MASK], the same token and a random one.
MASKING = _figures(
    "MNLI-m, NER F1, NER F1 of features",
    {
        "80/10/10": (84.2, 95.4, 94.9),
        "100/0/0": (84.3, 94.9, 94.0),
        "80/0/20": (84.1, 95.2, 94.6),
        "80/20/0": (84.4, 95.2, 94.7),
        "0/20/80": (83.7, 94.8, 94.6),
        "0/0/100": (83.6, 94.9, 94.6),
    },
)
# Section 4.1, GLUE's test server; section 5.3, CoNLL-2003's dev set.
SYSTEMS = _figures(
    "MNLI-m, QQP F1, QNLI, SST-2, CoLA MCC, STS-B Spearman, MRPC F1, RTE, NER F1",
    {
        "BERT": (84.6, 71.2, 90.5, 93.5, 52.1, 85.8, 88.9, 66.4, 96.4),
        "OpenAI GPT": (82.1, 70.3, 87.4, 91.3, 45.4, 80.0, 82.3, 56.0, None),
        "ELMo": (76.4, 64.8, 79.8, 90.4, 36.0, 73.3, 84.9, 56.8, 95.7),
    },
)
