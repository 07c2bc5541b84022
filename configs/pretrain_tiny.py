"""BERT of 2 layers and 128 units, for a laptop or CI: `make demo` runs it.

    python -m bertjax.main --config=configs/pretrain_tiny.py --config.data.store=STORE --config.workdir=DIR

Hardware: 2 CPU cores. Time: 3 minutes. Score: held-out masked-LM loss 4.54 (see docs/pretraining.md).
"""

from bertjax.config import default, set_size


def get_config():
    c = set_size(default(), "tiny")
    c.model.vocab_size = 4096
    c.model.dtype = "float32"
    c.model.scan_layers = False
    c.model.max_position_embeddings = 128
    # Narrow layers need larger weights than BERT_BASE for attention to tell positions apart from the start;
    # with 0.02 the loss stays near the unigram entropy for longer.
    c.model.initializer_range = 0.08
    # Six passes over little text, masked anew each time: a small model has no time to overfit.
    c.model.hidden_dropout_prob = 0.0
    c.model.attention_probs_dropout_prob = 0.0
    c.data.masking = "dynamic"
    # Attention finds what to look at far sooner in short rows; longer ones follow, as in the paper's recipe.
    c.train.steps = 1500
    c.train.batch_rows = 128
    c.train.seq_length = 32
    c.train.max_predictions_per_seq = 5
    c.train.accumulation = 4  # parts that stay in a CPU's cache: a step takes 15% to 35% less time
    c.train.log_every = 100
    c.train.eval_every = 500
    c.train.save_every = 500
    c.train.keep_every = 0
    c.phase2.steps = 500
    c.phase2.batch_rows = 64
    c.phase2.accumulation = 4
    c.phase2.seq_length = 64
    c.phase2.max_predictions_per_seq = 10
    c.optim.learning_rate = 1e-3
    c.optim.warmup_steps = 200
    c.eval.batch_rows = 64
    return c
