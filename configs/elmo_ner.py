"""Named entities by ELMo (Peters et al. 2018, section 4): a frozen ELMo, the learned mix of its layers, a
biLSTM of two layers with 200 cells in each direction, a conditional random field.

    python -m bertjax.main --config=configs/elmo_ner.py --config.examples.folder=CONLL \\
        --config.init_from=ELMO --config.workdir=DIR

CONLL is as for ner.py; ELMO is the workdir of a run of pretrain_elmo.py. The paper gives the biLSTM word
vectors and characters of its own beside ELMo; here it reads ELMo alone. Adam at 1e-3, dropout 0.5 and
clipping at norm 5 are the paper's; linear decay and the number of epochs are ours.

Hardware: any. Time and score: docs/finetuning.md has those of a very small ELMo.
"""

from bertjax.config import default


def get_config():
    c = default("tag", "elmo")
    c.examples.train = "train.txt"
    c.examples.dev = ("dev.txt", "test.txt")
    c.train.freeze_encoder = True
    c.train.epochs = 25.0
    c.optim.name = "adamw"
    c.optim.learning_rate = 1e-3
    c.optim.weight_decay = 0.0
    c.optim.clip_norm = 5.0
    return c
