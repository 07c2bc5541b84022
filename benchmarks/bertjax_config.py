"""bertjax's config of a measured step; the part after ":" is the benchmark's flags as JSON."""

import json

from bertjax import config as config_lib


def get_config(arg):
    flags = json.loads(arg)
    c = config_lib.default()
    c.model.update(
        vocab_size=flags["vocab_size"],
        hidden_size=flags["hidden"],
        num_hidden_layers=flags["layers"],
        num_attention_heads=flags["heads"],
        intermediate_size=4 * flags["hidden"],
        hidden_dropout_prob=flags["dropout"],
        attention_probs_dropout_prob=flags["dropout"],
        dtype=flags["dtype"],
        scan_layers=flags["device"] != "cpu",  # as in the recipes for each
    )
    c.train.update(
        batch_rows=flags["batch"],
        seq_length=flags["seq_length"],
        max_predictions_per_seq=flags["predictions"],
    )
    c.phase2.steps = 0
    c.eval.batch_rows = flags["batch"]
    # The others' update rule; the rate hardly changes from its peak in so few of the schedule's steps.
    c.optim.update(name="adamw", learning_rate=flags["learning_rate"], warmup_steps=0)
    return c
