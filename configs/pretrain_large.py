"""BERT_LARGE by the paper's recipe: 900,000 steps of 256 x 128 tokens, then 100,000 of 256 x 512.

    python -m bertjax.main --config=configs/pretrain_large.py --config.data.store=STORE --config.workdir=DIR

Hardware: 16 TPU chips (v4, v5e, v5p, v6e); docs/performance.md lists the memory that it takes.
Time: not measured. Score: not measured.
"""

from bertjax.config import default, set_size


def get_config():
    c = set_size(default(), "large")
    c.train.remat = c.phase2.remat = (
        "dots"  # without it a step of 512 tokens takes more than a v5e chip's memory
    )
    return c
