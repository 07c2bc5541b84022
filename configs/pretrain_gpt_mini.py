"""OpenAI GPT of 4 layers and 256 units, for text of a few megabytes or more on a CPU.

    python -m bertjax.prepare --input=FILES --format=sentences --tokenizer=gpt_bpe --vocab_size=8192 \\
        --out=STORE
    python -m bertjax.main --config=configs/pretrain_gpt_mini.py --config.data.store=STORE \\
        --config.workdir=DIR

Hardware: 2 CPU cores. Time and score of all its steps: not measured (of 300 small ones, docs/pretraining.md).
"""

from pathlib import Path

from bertjax.config import set_size
from bertjax.config.files import load


def get_config():
    c = set_size(load(str(Path(__file__).with_name("pretrain_gpt.py"))), "mini")
    c.model.vocab_size = 8192
    c.model.dtype = "float32"
    c.model.scan_layers = False
    c.model.max_position_embeddings = 128
    c.model.initializer_range = 0.06  # near 1 / sqrt(hidden_size): a layer adds as much as it reads
    c.model.hidden_dropout_prob = 0.0
    c.model.attention_probs_dropout_prob = 0.0
    c.data.pack = 8  # few documents are as long as a row at this length; those that are not share one
    c.train.epochs = 0.0
    c.train.steps = 2000
    c.train.batch_rows = 32
    c.train.seq_length = 128
    c.train.accumulation = 4  # parts that stay in a CPU's cache
    c.train.log_every = 50
    c.train.eval_every = 500
    c.train.save_every = 500
    c.train.keep_every = 0
    c.optim.learning_rate = 1e-3
    c.optim.warmup_steps = 200
    c.eval.batch_rows = 32
    return c
