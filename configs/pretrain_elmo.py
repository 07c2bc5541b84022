"""ELMo's language models at the paper's size (Peters et al. 2018): ten epochs of the 1B Word Benchmark.

    python -m bertjax.prepare --input=1B/ --format=sentences --tokenizer=words --cased \\
        --allow_single_sentence_documents --out=STORE
    python -m bertjax.main --config=configs/pretrain_elmo.py --config.data.store=STORE --config.workdir=DIR

The sizes are ELMo's defaults. The original (bilm-tf) reads 3 x 128 streams of 20 words a step,
7,680 words, with state carried over, and trains with Adagrad at 0.2, gradients clipped at norm 10. Here a row
is up to 8 whole sentences of 64 words in all, 128 rows a step hold about as many words, and the optimizer is
Adam with warm-up and linear decay: its rate, and all of its settings but the clipping, are ours.

Hardware: see docs/performance.md for what it needs. Time and score: not measured.
"""

from bertjax.config import default


def get_config():
    c = default("bidirectional_lm")
    c.data.pack = 8
    c.train.steps = 1_000_000
    c.train.batch_rows = 128
    c.train.seq_length = 64
    c.optim.name = "adamw"
    c.optim.learning_rate = 4e-4
    c.optim.weight_decay = 0.0
    c.optim.clip_norm = 10.0
    c.eval.batch_rows = 128
    return c
