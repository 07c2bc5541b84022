"""GLUE for an OpenAI GPT, by GPT's recipe (Radford et al. 2018, sections 3.2, 3.3 and 4.1): gpt_glue.py:cola
and so on, as in glue.py.

    python -m bertjax.main --config=configs/gpt_glue.py:mrpc --config.examples.folder=GLUE/MRPC \\
        --config.init_from=MODEL --config.workdir=DIR

Files, columns and metrics are glue.py's. A text is `start text extract`, a pair `start A delimiter B
extract`, and a dense layer on the state of the last token tells the class; the tokens that MODEL lacks are
drawn anew. Pairs that are alike or not (MRPC, QQP, STS-B) are read in both orders, and the two states added.
Half of the language model's loss is added. Adam at 6.25e-5, batches of 32, 3 epochs, warm-up over 0.2% of the
steps.

Hardware: any. Time and score: not measured.
"""

import runpy
from pathlib import Path

GLUE = runpy.run_path(str(Path(__file__).with_name("glue.py")))
SIMILARITY = ("mrpc", "qqp", "stsb")


def recipe(config):
    """GPT's recipe (Radford et al. 2018, section 4.1), which configs/gpt_swag.py follows too."""
    config.train.batch_examples, config.train.epochs, config.head.lm_weight = 32, 3.0, 0.5
    config.optim.name, config.optim.eps = "adamw", 1e-8
    config.optim.learning_rate, config.optim.warmup_proportion = 6.25e-5, 0.002
    return config


def get_config(task):
    c = recipe(GLUE["get_config"](task, "gpt"))
    c.examples.both_orders = task in SIMILARITY
    return c
