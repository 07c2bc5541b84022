"""SWAG for an OpenAI GPT, by GPT's recipe for multiple choice (Radford et al. 2018, sections 3.3 and 4.1).

    python -m bertjax.main --config=configs/gpt_swag.py --config.examples.folder=SWAG \\
        --config.init_from=MODEL --config.workdir=DIR

Files and columns are swag.py's. Each choice is `start context delimiter choice extract`, a dense unit on the
state of its last token scores it, and softmax goes over the choices. Half of the language model's loss is
added.

Hardware: any. Time and score: not measured.
"""

import runpy
from pathlib import Path

SWAG, GPT = (runpy.run_path(str(Path(__file__).with_name(name))) for name in ("swag.py", "gpt_glue.py"))


def get_config():
    return GPT["recipe"](SWAG["get_config"]("gpt"))
