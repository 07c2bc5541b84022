"""BERT of 2 layers and 128 units, for a laptop or CI: `make demo` runs it.

    python -m bertjax.main --config=configs/pretrain_tiny.py --config.data.store=STORE --config.workdir=DIR

Hardware: 2 CPU cores. Time and score: see docs/pretraining.md.
"""

from bertjax.config import default, set_size


def get_config():
    c = set_size(default(), "tiny")
    c.model.vocab_size = 8192
    c.model.dtype = "float32"
    c.model.scan_layers = False
    c.model.max_position_embeddings = 128
    c.data.masking = "dynamic"
    c.train.steps = 2000
    c.train.batch_size = 64
    c.train.seq_length = 64
    c.train.max_predictions_per_seq = 10
    c.train.log_every = 50
    c.train.eval_every = 500
    c.train.save_every = 500
    c.train.keep_every = 0
    c.phase2.steps = 0
    c.optim.learning_rate = 2e-3
    c.optim.warmup_steps = 200
    c.eval.batch_size = 64
    return c
