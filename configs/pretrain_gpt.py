"""OpenAI GPT by its paper's recipe (Radford et al. 2018, section 4.1): 100 epochs in batches of 64 x 512
tokens.

    python -m bertjax.prepare --input=books/ --format=text --tokenizer=gpt_bpe --out=STORE
    python -m bertjax.main --config=configs/pretrain_gpt.py --config.data.store=STORE --config.workdir=DIR \\
        --config.model.vocab_size=N

STORE has GPT's byte-pair encoding, of 40,000 merges; N is the number in prepare's line "vocabulary", and may
be left out with the released model's own vocabulary of 40,478 tokens. Adam with a cosine from 2.5e-4 to 0,
dropout 0.1, weights from N(0, 0.02). docs/pretraining.md has the rest.

Hardware: 16 TPU chips (v4, v5e, v5p, v6e); docs/performance.md lists the memory that it takes.
Time: not measured. Score: not measured.
"""

from bertjax.config import default


def get_config():
    c = default("language_model")
    c.train.epochs = 100.0
    c.train.batch_rows = 64
    c.train.seq_length = 512
    c.optim.name = "adamw"
    c.optim.learning_rate = 2.5e-4
    c.optim.warmup_steps = 2000
    c.optim.decay = "cosine"
    c.optim.eps = 1e-8
    c.eval.batch_rows = 64
    return c
