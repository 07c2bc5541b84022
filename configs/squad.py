"""SQuAD by the paper's recipe (Devlin et al. 2018, sections 4.2 and 4.3): squad.py:v1.1 or squad.py:v2.0.

    python -m bertjax.main --config=configs/squad.py:v1.1 --config.examples.folder=SQUAD \\
        --config.init_from=MODEL --config.workdir=DIR

SQUAD holds train-v1.1.json and dev-v1.1.json, or those of v2.0. docs/finetuning.md says how to train on
TriviaQA first, and how to put several runs together.

Hardware: any. Time and score: not measured.
"""

from bertjax.config import default
from bertjax.errors import InputError

# (batch, epochs)
VERSIONS = {"v1.1": (32, 3.0), "v2.0": (48, 2.0)}


def get_config(version):
    if version not in VERSIONS:
        raise InputError(f"{version}: no such version of SQuAD; it is one of {', '.join(VERSIONS)}")
    c = default("answer")
    c.examples.train = f"train-{version}.json"
    c.examples.dev = (f"dev-{version}.json",)
    c.examples.unanswerable = version == "v2.0"
    c.train.batch_windows, c.train.epochs = VERSIONS[version]
    c.train.seq_length = 384
    c.optim.learning_rate = 5e-5
    return c
