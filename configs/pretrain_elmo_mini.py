"""A small ELMo: one layer of 256 cells in each direction, for megabytes of text on a CPU.

    python -m bertjax.prepare --input=text/ --format=sentences --tokenizer=words --cased --out=STORE
    python -m bertjax.main --config=configs/pretrain_elmo_mini.py --config.data.store=STORE \\
        --config.workdir=DIR

Hardware: any; time and perplexity on 2 CPU cores are in docs/pretraining.md.
"""

from bertjax.config import default


def get_config():
    c = default("bidirectional_lm")
    c.model.dtype = "float32"
    c.model.vocab_size = 20_000
    c.model.characters = 20
    c.model.filters = ((1, 16), (2, 16), (3, 32), (4, 64), (5, 128))
    c.model.highway_layers = 1
    c.model.cells = 256
    c.model.projection = 64
    c.model.layers = 1
    c.train.samples = 1024
    c.data.pack = 8
    c.train.steps = 3_000
    c.train.batch_rows = 32
    c.train.seq_length = 64
    c.train.eval_every = 500
    c.train.save_every = 500
    c.train.keep_last = 1
    c.train.keep_every = 0
    c.optim.name = "adamw"
    c.optim.learning_rate = 3e-3
    c.optim.warmup_steps = 100
    c.optim.weight_decay = 0.0
    c.optim.clip_norm = 10.0
    c.eval.batch_rows = 32
    return c
