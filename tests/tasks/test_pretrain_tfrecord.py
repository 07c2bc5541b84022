"""Pre-training from the release's example files, from the config to the last checkpoint."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from finetune_fixture import open_data
from store_fixture import VOCAB, toy_config
from tfrecord_fixture import make_features, write_file, write_vocab

from bertjax import sharding
from bertjax.checkpoint import load_params
from bertjax.config.checks import check
from bertjax.errors import InputError
from bertjax.logs import read_metrics
from bertjax.mesh import make_mesh
from bertjax.tasks.pretrain import TASK as pretrain
from bertjax.train import train
from bertjax.trained_model import load_trained


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The fields of a config that name files of two lengths, for training and held out, and a vocabulary."""
    folder = tmp_path_factory.mktemp("files")
    features = make_features(90)
    long = make_features(40, 32, 5)
    paths = [
        write_file(folder / "a.tfrecord", features[:30]), write_file(folder / "b.tfrecord", features[30:70]),
        write_file(folder / "long.tfrecord", long[:30]),
    ]  # fmt: skip
    heldout = [
        write_file(folder / "heldout", features[70:]), write_file(folder / "heldout_long", long[30:]),
    ]  # fmt: skip
    return {
        "data.tfrecord": ",".join(paths),
        "data.tfrecord_heldout": ",".join(heldout),
        "data.vocab": write_vocab(folder / "vocab.txt"),
        "train.steps": 4,
        "phase2.steps": 4,
        "eval.enabled": True,
        "train.eval_every": 0,
    }


def test_a_run_trains_evaluates_and_resumes_bit_for_bit(files, tmp_path):
    fields = files | {"seed": 1, "optim.learning_rate": 1e-3, "train.save_every": 3}
    whole = train(toy_config("", tmp_path / "whole", **fields))
    metrics = read_metrics(str(tmp_path / "whole" / "metrics.jsonl"))
    held_out = [row for row in metrics if "eval/mlm_loss" in row]
    assert [row["step"] for row in held_out] == [4, 8]
    assert "eval/nsp_accuracy" in whole
    assert not any("entropy" in name for name in whole)
    # The checkpoint is a model like any other, with its vocabulary.
    assert load_trained(str(tmp_path / "whole")).tokenizer.vocab_size == VOCAB

    params, _, step = load_params(str(tmp_path / "whole"))
    assert step == 8
    # The same from the checkpoint of step 6 on, in the middle of the second phase.
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "8")
    train(toy_config("", tmp_path / "resumed", **fields))
    resumed, _, step = load_params(str(tmp_path / "resumed"))
    assert step == 8
    assert read_metrics(str(tmp_path / "resumed" / "metrics.jsonl"))[-1]["step"] == 8
    jax.tree.map(np.testing.assert_array_equal, resumed, params)


def test_held_out_rows_are_every_record_once(files):
    data = open_data(toy_config(**files))
    for name, (total, s) in {"train": (20, 16), "phase2": (10, 32)}.items():
        rows = data.rows[name]
        assert rows.evals[0].num_rows == total
        batch = rows.evals[0].rows(0, total + 4)
        assert batch["input_ids"].shape == (total + 4, s)
        assert len({row.tobytes() for row in batch["input_ids"][:total]}) == total
        assert not any(x[total:].any() for x in batch.values())
    few = open_data(toy_config(**files, **{"eval.max_rows": 4})).rows["train"]
    assert few.evals[0].num_rows == 4
    assert not few.evals[0].rows(4, 4)["segment_ids"].any()
    for none in ({"data.tfrecord_heldout": ""}, {"eval.enabled": False}):
        assert open_data(toy_config(**files | none)).rows["train"].evals == ()


def test_batches_have_the_shapes_that_the_step_is_compiled_for(files):
    config = toy_config(**files)
    data = open_data(config)
    for section, rows in data.rows.items():
        shapes = pretrain.batch_shapes(config, config[section])
        batch = rows.train(3, config[section].batch_rows)
        assert {n: (x.shape, x.dtype) for n, x in batch.items()} == {
            n: (x.shape, x.dtype) for n, x in shapes.items()
        }


def test_rows_do_not_depend_on_who_asks_for_which(files):
    """A process of several asks for parts of a batch; a mesh of eight devices has the rows of one."""
    config = toy_config(**files)
    rows = open_data(config).rows["train"].train
    whole = rows(40, 16)
    mesh = make_mesh(config, jax.devices())
    on_mesh = sharding.make_global(mesh, rows, 40, 16)
    for name, x in whole.items():
        np.testing.assert_array_equal(x, np.concatenate([rows(p, 4)[name] for p in range(40, 56, 4)]))
        np.testing.assert_array_equal(x, on_mesh[name])


def test_the_run_is_bound_to_the_content_of_its_files(files, tmp_path):
    features = make_features(30)
    one, two = write_file(tmp_path / "1", features[:20]), write_file(tmp_path / "2", features[20:])
    vocab = Path(write_vocab(tmp_path / "vocab.txt"))

    def fingerprints(*paths, vocab=files["data.vocab"]):
        fields = {"phase2.steps": 0, "data.tfrecord": ",".join(paths), "data.tfrecord_heldout": ""}
        return open_data(toy_config(**files | fields | {"data.vocab": str(vocab)})).fingerprints

    bound = fingerprints(one, two)
    assert bound.keys() == {"data.tfrecord sha256", "data.vocab sha256"}
    assert fingerprints(one, write_file(tmp_path / "0", features[20:]), vocab=vocab) == bound
    assert fingerprints(one)["data.tfrecord sha256"] != bound["data.tfrecord sha256"]
    [label] = features[20]["next_sentence_labels"]
    changed = write_file(
        tmp_path / "3", [features[20] | {"next_sentence_labels": [1 - label]}, *features[21:]]
    )
    assert fingerprints(one, changed)["data.tfrecord sha256"] != bound["data.tfrecord sha256"]
    vocab.write_text(vocab.read_text().replace("w7\n", "v7\n"))
    assert fingerprints(one, two, vocab=vocab)["data.vocab sha256"] != bound["data.vocab sha256"]


def test_what_does_not_fit_is_one_line(files, store, tmp_path):
    other = write_vocab(tmp_path / "vocab.txt", VOCAB + 1)
    for change, message in (
        ({"data.store": store}, "data.store=.*: --config.data.tfrecord is set too; leave one of"),
        ({"data.vocab": ""}, "data.vocab is empty; name the vocab.txt"),
        ({"data.vocab": other}, "vocab_size=96: the vocabulary of .* has 97 tokens; set"),
        ({"data.tfrecord": "/nowhere"}, "/nowhere: no such file"),
        ({"phase2.steps": 0}, "long.tfrecord: its examples have 32 tokens, but --config.train.seq_length=16"),
        ({"train.seq_length": 64}, "a.tfrecord: its examples have 16 tokens, but .*=64"),
        ({"phase2.max_predictions_per_seq": 6}, "5 values of masked_lm_.* set --config.phase2.max_pre.*=5"),
        ({"data.tfrecord_heldout": write_file(tmp_path / "x", make_features(3))},
         "tfrecord_heldout=.*: no file with examples of 32 tokens"),
        ({"model.type_vocab_size": 1}, "it must be 2"),
        ({"data.tfrecord": "", "data.store": store}, "tfrecord_heldout=.* is read with"),
        ({"data.tfrecord": "", "data.tfrecord_heldout": "", "data.store": store}, "vocab=.* is read"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message) as error:
            open_data(toy_config(**files | change))
        assert "\n" not in str(error.value)
    with pytest.raises(
        InputError, match=r"data.pack=2: examples of data.tfrecord are not packed; set it to 1"
    ):
        check(toy_config(**files, **{"data.pack": 2}))
    with pytest.raises(InputError, match=r"train.epochs=1.0: with data.tfrecord set it to 0.0"):
        check(toy_config(**files, **{"train.epochs": 1.0}))
