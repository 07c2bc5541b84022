"""Named entities, or any tags of words, from files in the CoNLL format (Devlin et al. 2018, section 5.3).

    python -m bertjax.main --config=configs/ner.py --config.examples.folder=CONLL \\
        --config.init_from=MODEL --config.workdir=DIR

CONLL holds train.txt, dev.txt and test.txt with tags in the last column (IOB1, IOB2 or IOBES). The paper
gives BERT the sentences around as well: --config.examples.document_context=True, for which the files need
-DOCSTART- lines.

Hardware: 2 CPU cores for small models. Time and score: docs/finetuning.md.
"""

from bertjax.config import default


def get_config():
    c = default()
    c.task = "tag"
    c.examples.train = "train.txt"
    c.examples.dev = ("dev.txt", "test.txt")
    c.train.epochs = 3.0
    c.train.batch_size = 32
    c.train.seq_length = 128
    c.train.log_every = 50
    c.train.eval_every = 1_000_000  # after the last step
    c.train.save_every = 500
    c.train.keep_last = 1
    c.train.keep_every = 0
    c.phase2.steps = 0
    c.optim.learning_rate = 5e-5
    c.optim.warmup_proportion = 0.1
    c.eval.batch_size = 32
    return c
