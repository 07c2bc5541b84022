"""Named entities, or any tags of words, from files in the CoNLL format (Devlin et al. 2018, section 5.3).

    python -m bertjax.main --config=configs/ner.py --config.examples.folder=CONLL \\
        --config.init_from=MODEL --config.workdir=DIR

CONLL holds train.txt, dev.txt and test.txt with tags in the last column (IOB1, IOB2 or IOBES). The paper
gives BERT the sentences around as well: --config.examples.document_context=True, for which the files need
-DOCSTART- lines.

Hardware: any. Time and score: not measured.
"""

from bertjax.config import default


def get_config():
    c = default("tag")
    c.examples.train = "train.txt"
    c.examples.dev = ("dev.txt", "test.txt")
    c.optim.learning_rate = 5e-5
    return c
