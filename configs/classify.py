"""Your own texts, each with a class or a number, from TSV, CSV or JSON Lines files.

    python -m bertjax.main --config=configs/classify.py --config.examples.train=train.csv \\
        --config.examples.dev="('dev.csv',)" --config.examples.text_a=review --config.examples.label=stars \\
        --config.init_from=MODEL --config.workdir=DIR

--config.examples.text_b=COLUMN makes it pairs; --config.examples.number=True
--config.examples.metric=correlations predicts numbers. The labels are those of the training file, and are
saved with the model. docs/finetuning.md has the rest.

classify.py:gpt fine-tunes an OpenAI GPT, classify.py:elmo an ELMo.

Hardware: any. Time and score: as your data; not measured.
"""

from bertjax.config import default


def get_config(kind="bert"):
    c = default("classify", kind)
    c.examples.text_a = "text"
    c.optim.learning_rate = 3e-5
    return c
