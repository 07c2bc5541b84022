"""BERT's examples from a token store: the fields of config.data that decide their pairs and masks."""

from ml_collections import ConfigDict

from bertjax.data.pretraining.bert_examples import Examples
from bertjax.models import kind_of
from bertjax.models.interface import check_choice
from bertjax.tasks.interface import Require
from bertjax.tasks.pretraining import Wanted

MASKING = ("static", "dynamic", "next_token")


def section() -> ConfigDict:
    """The fields of config.data, beside those of the store."""
    c = ConfigDict()
    # "static": dupe_factor masked passes, then repeated; "dynamic": new in each epoch; "next_token": each
    # token is predicted from those before it, and none is masked.
    c.masking = "static"
    c.dupe_factor = 10
    c.short_seq_prob = 0.1
    c.masked_lm_prob = 0.15
    c.mask_split = (0.8, 0.1, 0.1)  # [MASK], random token, unchanged
    c.whole_word_mask = False
    c.next_sentence = True  # False: contiguous text only, no NSP labels
    return c


def check(config: ConfigDict, require: Require) -> None:
    """Requires what the fields must be together."""
    d, causal = config.data, config.model.causal
    check_choice("data.masking", d.masking, MASKING)
    require(len(d.mask_split) == 3 and min(d.mask_split) >= 0 and abs(sum(d.mask_split) - 1) < 1e-6,
            "data.mask_split", "must be three shares (mask, random, unchanged) that add up to 1")  # fmt: skip
    require(d.masking != "next_token" or causal, "data.masking",
            "a token that is predicted must not be seen; set model.causal=True")  # fmt: skip
    require(not (causal and d.next_sentence), "data.next_sentence",
            "[CLS] sees nothing of a causal model; set it to False")  # fmt: skip


def bert_examples(wanted: Wanted, data: ConfigDict, kind: type[Examples], predictions: int) -> Examples:
    """The examples by `data`, a config.data, as `kind`, each with `predictions` masked tokens at most."""
    return kind(
        wanted.store,
        wanted.tokenizer,
        kind_of(wanted.config.model.kind).row_form(wanted.tokenizer),
        data,
        seed=wanted.seed,
        phase=wanted.number,
        seq_length=wanted.phase.seq_length,
        max_predictions_per_seq=predictions,
        documents=wanted.documents,
    )
