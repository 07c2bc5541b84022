"""Pre-training on the finished examples of the 2018 release's create_pretraining_data.py, whose pairs and
masks no field decides."""

from ml_collections import ConfigDict

from bertjax.data.pretraining.tf_examples import TfExamples, fingerprint, open_files
from bertjax.data.pretraining.tfrecord import RecordFile, Records
from bertjax.data.tokenizers.tokenizer import load_tokenizer
from bertjax.errors import InputError
from bertjax.sections import phases
from bertjax.tasks.interface import Data, EvalSet, Require, Rows
from bertjax.tasks.pretraining import EVAL_SEED, Pretraining, held_out_set

# Fields of config.data that are read with a token store only.
_OF_STORE = ("store", "weights", "pack", "masking", "dupe_factor", "short_seq_prob", "masked_lm_prob",
             "mask_split", "whole_word_mask")  # fmt: skip


def section() -> ConfigDict:
    """The fields of config.data that name the files."""
    c = ConfigDict()
    # Instead of a store, as a comma-separated list of files, folders and globs; of the other fields only
    # next_sentence is read.
    c.tfrecord = ""
    c.tfrecord_heldout = ""  # likewise, for evaluation; "": none
    c.vocab = ""  # the vocab.txt that they were made with
    return c


def check(config: ConfigDict, require: Require) -> None:
    """Requires what the fields must be together."""
    d = config.data
    require(not (d.store and d.tfrecord), "data.store",
            "--config.data.tfrecord is set too; leave one of them empty")  # fmt: skip
    require(
        d.pack == 1 or not d.tfrecord, "data.pack", "examples of data.tfrecord are not packed; set it to 1"
    )
    require(not (d.tfrecord and config.train.epochs), "train.epochs",
            "with data.tfrecord set it to 0.0, and train.steps")  # fmt: skip
    for name in ("tfrecord_heldout", "vocab"):
        require(bool(d.tfrecord) or not d[name], f"data.{name}",
                "is read with --config.data.tfrecord only, not with a store; leave it empty")  # fmt: skip


def void(config: ConfigDict) -> dict[str, str]:
    """Fields that the files make void."""
    if not config.data.tfrecord:
        return {}
    return {f"data.{name}": "is decided in the files of data.tfrecord; leave it out" for name in _OF_STORE}


def open_data(task: Pretraining, config: ConfigDict) -> Data:
    """Opens the files. Raises InputError for whatever does not fit."""
    data = config.data
    heldout = data.tfrecord_heldout if config.eval.enabled else ""
    if not data.vocab:
        raise InputError(
            "--config.data.vocab is empty; name the vocab.txt that the files of --config.data.tfrecord were "
            "made with"
        )
    tokenizer = load_tokenizer(data.vocab)
    task.check_vocabulary(config, tokenizer, data.vocab)
    lengths = {name: config[name].seq_length for name in phases(config)}
    files = open_files("--config.data.tfrecord", data.tfrecord, lengths)
    heldout_files = open_files("--config.data.tfrecord_heldout", heldout, lengths) if heldout else {}

    def open_rows(phase: int, name: str) -> Rows:
        def examples(files: dict[int, list[RecordFile]], seed: int) -> TfExamples:
            return TfExamples(
                Records(files[lengths[name]]),
                tokenizer,
                seed=seed,
                phase=phase,
                seq_length=lengths[name],
                max_predictions_per_seq=config[name].max_predictions_per_seq,
                next_sentence=data.next_sentence,
                section=name,
            )

        train = examples(files, config.seed)
        evals: tuple[EvalSet, ...] = ()
        if heldout:
            once = examples(heldout_files, EVAL_SEED)
            evals = held_out_set(once.rows, len(once), config)
        return Rows(train.rows, evals, config[name].batch_rows, task.flops_per_step(config, config[name]))

    return Data(
        config,
        {name: open_rows(phase, name) for phase, name in enumerate(phases(config))},
        tokenizer,
        {"data.tfrecord sha256": fingerprint(files), "data.vocab sha256": tokenizer.sha256},
    )
