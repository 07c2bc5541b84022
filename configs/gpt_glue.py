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

from pathlib import Path

from bertjax.config import gpt_fine_tuning
from bertjax.config.files import load

SIMILARITY = ("mrpc", "qqp", "stsb")


def get_config(task):
    c = gpt_fine_tuning(load(f"{Path(__file__).with_name('glue.py')}:{task}"))
    c.examples.both_orders = task in SIMILARITY
    return c
