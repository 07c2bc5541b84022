"""GLUE by ELMo, the benchmark's baseline (Wang et al. 2018, section 5.1): elmo_glue.py:mrpc, or another of
glue.py's tasks.

    python -m bertjax.main --config=configs/elmo_glue.py:mrpc --config.examples.folder=GLUE/MRPC \\
        --config.init_from=ELMO --config.workdir=DIR

A frozen ELMo, the learned mix of its layers, a biLSTM of two layers with 1,500 cells in each direction, for
pairs attention between the texts and a second biLSTM, an MLP with 512 units. The baseline reads GloVe vectors
beside ELMo; here it reads ELMo alone. Optimizer and epochs are ours.

Hardware: any. Time and score: not measured.
"""

import runpy
from pathlib import Path

GLUE = runpy.run_path(str(Path(__file__).with_name("glue.py")))


def get_config(task):
    c = GLUE["get_config"](task, "elmo")
    c.head.lstm_size = 1500
    c.head.dropout_prob = 0.2
    c.train.freeze_encoder = True
    c.train.epochs = 10.0
    c.optim.name = "adamw"
    c.optim.learning_rate = 1e-3
    c.optim.weight_decay = 0.0
    c.optim.clip_norm = 5.0
    return c
