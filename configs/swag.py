"""SWAG, which of four endings goes on from a sentence (Devlin et al. 2018, section 4.4).

    python -m bertjax.main --config=configs/swag.py --config.examples.folder=SWAG \\
        --config.init_from=MODEL --config.workdir=DIR

SWAG holds the data set's own train.csv, val.csv and test.csv. The first text is sent1, the second is sent2
with an ending. The paper fine-tunes for 3 epochs in batches of 16 at 2e-5.

Hardware: any. Time and score: not measured.
"""

from bertjax.config import default


def get_config(kind="bert"):
    c = default("choose", kind)
    c.examples.update(
        train="train.csv",
        dev=("val.csv",),
        test=("test.csv",),
        text_a="sent1",
        text_b="sent2",
        choices=("ending0", "ending1", "ending2", "ending3"),
    )
    c.train.batch_examples = 16
    c.optim.learning_rate = 2e-5
    return c
