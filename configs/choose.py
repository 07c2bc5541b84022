"""Your own multiple choice, from TSV, CSV or JSON Lines files: a context and its choices in columns.

    python -m bertjax.main --config=configs/choose.py --config.examples.train=train.csv \\
        --config.examples.dev="('dev.csv',)" --config.examples.text_a=question \\
        --config.examples.choices="('right', 'left')" --config.examples.label=answer \\
        --config.init_from=MODEL --config.workdir=DIR

The label is the right choice's number, from 0 in the order of examples.choices; or
--config.examples.labels="('A', 'B')" says what stands for each. --config.examples.text_b=COLUMN names a text
that every choice begins with. docs/finetuning.md has the rest.

choose.py:gpt fine-tunes an OpenAI GPT.

Hardware: any. Time and score: as your data; not measured.
"""

from bertjax.config import default


def get_config(kind="bert"):
    c = default("choose", kind)
    c.examples.text_a = "context"
    c.examples.choices = ("choice0", "choice1")
    c.train.batch_examples = 16
    c.optim.learning_rate = 2e-5
    return c
