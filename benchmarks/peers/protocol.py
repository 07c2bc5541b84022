"""How a peer talks to benchmarks.pretrain_step and finetune_step: lines of JSON on stdin and stdout.

A peer is started with the settings (JSON) and the batch (.npz) as arguments. It builds its model and step,
answers {"parameters", "versions", "loss"} after one step, then for every line "K" runs K steps and answers
{"seconds", "loss"}. It ends when stdin does.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np


def serve(setup: Callable[[SimpleNamespace, dict], tuple[Callable[[int], float], int, dict]]) -> None:
    """Runs a peer.

    Args:
      setup: from (settings, batch) makes (run, parameters, versions). run(K) takes K training steps, returns
        the last step's loss, and returns only when the device is done. parameters: how many the model trains.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log, not between the answers
    settings = SimpleNamespace(**json.loads(sys.argv[1]))
    with np.load(sys.argv[2], allow_pickle=False) as file:
        batch = {name: file[name] for name in file.files}
    run, parameters, versions = setup(settings, batch)
    print(
        json.dumps({"loss": run(1), "parameters": parameters, "versions": versions}), file=answers, flush=True
    )
    for line in sys.stdin:
        start = time.perf_counter()
        loss = run(int(line))
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "loss": loss}), file=answers, flush=True)
