"""Your own questions on texts, answered by a piece of the text, from JSON in SQuAD's format or JSON Lines.

    python -m bertjax.main --config=configs/qa.py --config.examples.folder=FOLDER \\
        --config.init_from=MODEL --config.workdir=DIR

FOLDER holds train.jsonl and dev.jsonl; --config.examples.train=train.json takes another file.
--config.examples.unanswerable=True if some questions have no answer. docs/finetuning.md has the rest.

Hardware: any. Time and score: as your data; not measured.
"""

from bertjax.config import default


def get_config():
    c = default("answer")
    c.examples.train = "train.jsonl"
    c.examples.dev = ("dev.jsonl",)
    c.train.seq_length = 384
    c.optim.learning_rate = 5e-5
    return c
