"""GLUE by the paper's recipe (Devlin et al. 2018, section 4.1): glue.py:cola, sst2, mrpc, stsb, qqp, mnli,
mnli+ax, qnli, rte or wnli.

    python -m bertjax.main --config=configs/glue.py:mrpc --config.examples.folder=GLUE/MRPC \\
        --config.init_from=MODEL --config.workdir=DIR

GLUE/MRPC holds the benchmark's own files. The paper fine-tunes for 3 epochs in batches of 32 and takes the
best of the learning rates 5e-5, 4e-5, 3e-5 and 2e-5 on the dev set: python -m bertjax.sweep does that.
mnli+ax also writes predictions for the diagnostic set, GLUE/diagnostic/diagnostic.tsv, which MNLI's model
answers.

Hardware: any. Time and score: not measured.
"""

from bertjax.config import default
from bertjax.errors import InputError

PAIR = {"text_a": "sentence1", "text_b": "sentence2"}
ENTAILMENT = ("entailment", "not_entailment")
# What differs from config.examples' defaults. The labels' order is that of the release's run_classifier.py.
TASKS = {
    "cola": {
        "columns": ("source", "label", "mark", "sentence"), "text_a": "sentence", "labels": ("0", "1"),
        "metric": "matthews",
    },
    "sst2": {"text_a": "sentence", "labels": ("0", "1")},
    "mrpc": {
        "text_a": "#1 String", "text_b": "#2 String", "label": "Quality", "labels": ("0", "1"),
        "metric": "f1",
    },
    "stsb": PAIR | {"label": "score", "number": True, "metric": "correlations"},
    "qqp": {
        "text_a": "question1", "text_b": "question2", "label": "is_duplicate", "labels": ("0", "1"),
        "metric": "f1",
    },
    "mnli": PAIR | {
        "dev": ("dev_matched.tsv", "dev_mismatched.tsv"), "label": "gold_label",
        "labels": ("contradiction", "entailment", "neutral"),
    },
    "qnli": {"text_a": "question", "text_b": "sentence", "labels": ENTAILMENT},
    "rte": PAIR | {"labels": ENTAILMENT},
    "wnli": PAIR | {"labels": ("0", "1")},
}  # fmt: skip


TASKS["mnli+ax"] = TASKS["mnli"] | {"test": ("../diagnostic/diagnostic.tsv",)}


def get_config(task, kind="bert"):
    if task not in TASKS:
        raise InputError(f"{task}: no such task; it is one of {', '.join(TASKS)}")
    c = default("classify", kind)
    for name, value in TASKS[task].items():
        c.examples[name] = value
    c.optim.learning_rate = 2e-5
    return c
