import re
import subprocess
import sys
from pathlib import Path

from bertjax.prepare import formats

TFDS_SCRIPT = """
import pathlib
import shutil
import sys
import numpy as np
import tensorflow_datasets as tfds
from bertjax.prepare.formats import input_bytes, parse_block, read_blocks
from bertjax.prepare.interface import Input
from bertjax.errors import InputError

class Toy(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        features = {"text": tfds.features.Text(), "n": np.int64,
                    "raw": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features),
                                     disable_shuffling=True)
    def _split_generators(self, manager):
        return {"train": self._generate_examples()}
    def _generate_examples(self):
        for i in range(100):
            yield i, {"text": f"Record {i} is here.\\n\\nIt has more.", "n": i, "raw": b"\\xff"}

Toy(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
expected = [[f"Record {i} is here.", "It has more."] for i in range(100)]
for path in ("toy", "toy:1.0.0", sys.argv[1] + "/toy/1.0.0"):
    inp = Input(path, "tfds")
    blocks = list(read_blocks(inp, 500))
    assert len(blocks) > 5 and blocks[-1].read_bytes == input_bytes(inp), blocks
    assert [document for block in blocks for document in parse_block(inp, block)] == expected
old = sys.argv[1] + "/old/toy/1.0.0"
shutil.copytree(sys.argv[1] + "/toy/1.0.0", old)
info = pathlib.Path(old, "dataset_info.json")
info.write_text(info.read_text().replace("array_record", "tfrecord"))
cut = sys.argv[1] + "/cut/toy/1.0.0"
shutil.copytree(sys.argv[1] + "/toy/1.0.0", cut)
shard = next(pathlib.Path(cut).glob("*array_record*"))
shard.write_bytes(shard.read_bytes()[:-1000])
wrong = [Input(path, "tfds") for path in ("toy:2.0.0", "no_set", "imdb_reviews", old, cut)]
wrong += [Input("toy", "tfds", text_field=field) for field in ("body", "n", "raw")]
for inp in [*wrong, Input("toy", "tfds", split="test")]:
    try:
        [parse_block(inp, block) for block in read_blocks(inp, 1 << 20)]
        print("no error")
    except InputError as error:
        assert "\\n" not in str(error)
        print(error)
assert "tensorflow" not in sys.modules
"""


def test_tfds_without_tensorflow(tmp_path: Path) -> None:
    # In a process of its own, since another test may have imported tensorflow.
    done = subprocess.run(
        [sys.executable, "-c", TFDS_SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        env={
            "TFDS_DATA_DIR": str(tmp_path),
            "PYTHONPATH": str(Path(formats.__file__).parents[2]),
            "HOME": str(tmp_path),
        },
    )
    assert done.returncode == 0, done.stderr
    expected = [
        "toy:2.0.0: cannot be opened by tfds",
        "no_set: cannot be opened by tfds .Dataset no_set not found",
        "imdb_reviews: not prepared in .*; run: tfds build imdb_reviews --file_format=array_record",
        "prepared as .*, not ArrayRecord; run: tfds build toy --file_format=array_record --overwrite",
        "split 'train' is broken .*; prepare it again",
        "no feature 'body' among n, raw, text",
        "feature 'n' is int\\w*, not text",
        "feature 'raw' is not UTF-8",
        "no split 'test'; choose from train",
    ]
    messages = done.stdout.splitlines()[-len(expected) :]  # after what tfds itself prints
    for message, pattern in zip(messages, expected, strict=True):
        assert re.search(pattern, message), message
