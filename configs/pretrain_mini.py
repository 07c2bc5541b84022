"""BERT of 4 layers and 256 units (Turc et al. 2019, "mini"), for text of tens of megabytes on a CPU.

    python -m bertjax.main --config=configs/pretrain_mini.py --config.data.store=STORE --config.workdir=DIR

STORE holds a vocabulary of 16,384 tokens (python -m bertjax.prepare --vocab_size=16384 ...), of tens of
megabytes of text or more.

Hardware: 2 CPU cores. Time: about 45 minutes. Score on 43 MB: held-out masked-LM loss 4.24, next-sentence
accuracy 0.83 (see docs/pretraining.md).
"""

from bertjax.config import default, set_size


def get_config():
    c = set_size(default(), "mini")
    c.model.vocab_size = 16384
    c.model.dtype = "float32"
    c.model.scan_layers = False
    c.model.max_position_embeddings = 128
    # BERT_BASE's 0.02 * sqrt(768 / hidden_size): what a layer adds to what it reads is as large as there.
    c.model.initializer_range = 0.035
    # Few passes over little text, masked anew each time: a small model has no time to overfit.
    c.model.hidden_dropout_prob = 0.0
    c.model.attention_probs_dropout_prob = 0.0
    c.data.masking = "dynamic"
    # Attention finds what to look at far sooner in short rows; longer ones follow, as in the paper's recipe.
    c.train.steps = 1500
    c.train.batch_rows = 128
    c.train.seq_length = 32
    c.train.max_predictions_per_seq = 5
    c.train.accumulation = 4  # parts that stay in a CPU's cache
    c.train.log_every = 50
    c.train.eval_every = 500
    c.train.save_every = 500
    c.train.keep_every = 0
    c.phase2.steps = 3500
    c.phase2.batch_rows = 64
    c.phase2.accumulation = 4
    c.phase2.seq_length = 64
    c.phase2.max_predictions_per_seq = 10
    c.optim.learning_rate = 5e-4
    c.optim.warmup_steps = 200
    c.eval.batch_rows = 64
    c.eval.max_rows = 2048
    return c
