r"""BERT_LARGE with LAMB in 8,601 steps of very large batches, instead of the paper's million.

    python -m bertjax.main --config=configs/pretrain_large_lamb.py --config.data.store=STORE \
        --config.workdir=DIR

LAMB is You et al. 2020. Batches, steps, rates and warm-ups are those of NVIDIA's public DeepLearningExamples
(PyTorch/LanguageModeling/BERT/scripts/configs/pretrain_config.sh): phase 1 with 65,536 sequences of 128,
phase 2 with 32,768 of 512 and a schedule of its own. Warm-ups are 28.43% and 12.8% of the phase.

Hardware: 16 TPU v5p chips; docs/performance.md lists the memory that it takes.
Time: not measured. Score: not measured.
"""

from bertjax.config import default, set_size


def get_config():
    c = set_size(default(), "large")
    c.train.remat = c.phase2.remat = "dots"
    c.train.steps = 7038
    c.train.batch_rows = 65_536
    c.train.accumulation = 128
    c.train.log_every = 10
    c.train.eval_every = 200
    c.train.save_every = 200
    c.train.keep_every = 0
    c.optim.name = "lamb"
    c.optim.learning_rate = 6e-3
    c.optim.warmup_steps = 2001
    c.phase2.steps = 1563
    c.phase2.batch_rows = 32_768
    c.phase2.accumulation = 128
    c.phase2.max_predictions_per_seq = 80
    c.phase2.restart_schedule = True
    c.phase2.learning_rate = 4e-3
    c.phase2.warmup_steps = 200
    return c
