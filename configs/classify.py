"""Your own texts, each with a class or a number, from TSV, CSV or JSON Lines files.

    python -m bertjax.main --config=configs/classify.py --config.examples.train=train.csv \\
        --config.examples.dev="('dev.csv',)" --config.examples.text_a=review --config.examples.label=stars \\
        --config.init_from=MODEL --config.workdir=DIR

--config.examples.text_b=COLUMN makes it pairs; --config.examples.number=True
--config.examples.metric=correlations predicts numbers. The labels are those of the training file, and are
saved with the model. docs/finetuning.md has the rest.

Hardware: any. Time and score: as your data; not measured.
"""

from bertjax.config import default


def get_config():
    c = default()
    c.task = "classify"
    c.examples.text_a = "text"
    c.train.epochs = 3.0
    c.train.batch_size = 32
    c.train.seq_length = 128
    c.train.log_every = 50
    c.train.eval_every = 1_000_000  # after the last step
    c.train.save_every = 500
    c.train.keep_last = 1
    c.train.keep_every = 0
    c.phase2.steps = 0
    c.optim.learning_rate = 3e-5
    c.optim.warmup_proportion = 0.1
    c.eval.batch_size = 32
    return c
