"""Your own texts, each with any number of labels, from TSV, CSV or JSON Lines files.

    python -m bertjax.main --config=configs/multi_label.py --config.examples.train=train.csv \\
        --config.examples.dev="('dev.csv',)" --config.examples.text_a=abstract \\
        --config.examples.label=topics --config.init_from=MODEL --config.workdir=DIR

The labels are in one column with "|" between them (--config.examples.separator names another mark), or in a
column of 0 and 1 each: --config.examples.label_columns="('toxic', 'insult')".
--config.examples.positive_weights="(1.0, 8.5)" weighs the loss of rare labels where they are there.
docs/finetuning.md has the rest.

multi_label.py:gpt fine-tunes an OpenAI GPT, multi_label.py:elmo an ELMo.

Hardware: any. Time and score: as your data; not measured.
"""

from bertjax.config import default


def get_config(kind="bert"):
    c = default("multi_label", kind)
    c.examples.text_a = "text"
    c.optim.learning_rate = 3e-5
    return c
