"""SWAG for an OpenAI GPT, by GPT's recipe for multiple choice (Radford et al. 2018, sections 3.3 and 4.1).

    python -m bertjax.main --config=configs/gpt_swag.py --config.examples.folder=SWAG \\
        --config.init_from=MODEL --config.workdir=DIR

Files and columns are swag.py's. Each choice is `start context delimiter choice extract`, a dense unit on the
state of its last token scores it, and softmax goes over the choices. Half of the language model's loss is
added.

Hardware: any. Time and score: not measured.
"""

from pathlib import Path

from bertjax.config import gpt_fine_tuning
from bertjax.config.files import load


def get_config():
    return gpt_fine_tuning(load(str(Path(__file__).with_name("swag.py"))))
