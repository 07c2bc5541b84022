"""Prepares sets with tfds' own builders out of files in the benchmarks' layouts: SOURCE DATA_DIR.

In a process of its own, since it prints and imports much. It has no network, and needs none.
"""

import sys
from pathlib import Path


class Downloaded:
    """In place of tfds' downloads: files that are there."""

    downloaded_size = 0

    def __init__(self, files):
        self.files = files

    def download(self, urls):
        return self.files

    download_and_extract = download


def main(source, data_dir):
    import numpy as np
    import tensorflow_datasets as tfds
    from tensorflow_datasets.datasets.squad.squad_dataset_builder import Builder as Squad
    from tensorflow_datasets.text.conll2003.conll2003 import Conll2003
    from tensorflow_datasets.text.glue import Glue

    class Moods(tfds.core.GeneratorBasedBuilder):
        """A set that is no benchmark's."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            label = tfds.features.ClassLabel(names=["sad", "glad"])
            features = {"body": tfds.features.Text(), "mood": label, "stars": np.int64,
                        "places": tfds.features.Sequence(np.int64)}  # fmt: skip
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, manager):
            splits = {"train": (8, True), "unsupervised": (2, False)}
            return {name: self._generate_examples(*split) for name, split in splits.items()}

        def _generate_examples(self, number, labelled):
            for i in range(number):
                yield (
                    i,
                    {"body": f"w{20 + i}", "mood": i % 2 if labelled else -1, "stars": i, "places": [i, i]},
                )

    def prepare(builder_class, files, config=None):
        builder = builder_class(config=config, data_dir=data_dir, file_format="array_record")
        builder._make_download_manager = lambda **_: Downloaded(files)
        builder.download_and_prepare()

    glue, diagnostic = Path(source, "GLUE"), Path(source, "GLUE/diagnostic/diagnostic.tsv")
    for config in ("cola", "sst2", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"):
        prepare(Glue, str(glue), config)
    prepare(Glue, str(diagnostic), "ax")
    msr = {name: str(glue / f"{name}.txt") for name in ("train", "test", "dev_ids")}
    prepare(Glue, msr, "mrpc")
    for version in ("v1.1", "v2.0"):
        files = {name: str(Path(source, f"SQUAD/{name}-{version}.json")) for name in ("train", "dev")}
        prepare(Squad, files, version)
    prepare(Conll2003, Path(source, "CONLL"))
    prepare(Moods, "")
    assert "tensorflow" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
