"""The bridge from OpenAI GPT to BERT's left-to-right model: the differences that the BERT paper names (Devlin
et al. 2018, appendix A.4 of the version of May 2019), one at a time.

    python -m bertjax.main --config=configs/gpt_bridge.py:sep_cls --config.data.store=STORE \\
        --config.model.vocab_size=N --config.workdir=DIR

STORE has two inputs, first the books, then Wikipedia, in GPT's byte-pair encoding:

    python -m bertjax.prepare --input books/ wikipedia.xml.bz2 --format text wikipedia \\
        --tokenizer=gpt_bpe --out=STORE

The argument is one of

    gpt      no switch: pretrain_gpt.py for a million steps, as the BERT paper counts them, on books only
    corpus   books and Wikipedia, by data.weights
    sep_cls  rows are BERT's pairs, with start, delimiter and extract tokens and token types, which GPT
             meets in fine-tuning first, or never (data.special_tokens)
    batch    131,072 tokens a step instead of 32,768
    bert     BERT's left-to-right model, which is no GPT; its STORE is in WordPiece

or several switches with "+" between them, as corpus+sep_cls+batch. With sep_cls N is 3 more than prepare's
line "vocabulary" says. The fourth difference is of fine-tuning: GPT has one learning rate for all tasks, as
in gpt_glue.py (6.25e-5 by its own paper; the BERT paper says 5e-5), BERT the best on each dev set:

    python -m bertjax.sweep --config=configs/gpt_glue.py:all --glue=GLUE --config.init_from=DIR \\
        --out=OUT --grid=optim.learning_rate=5e-5,4e-5,3e-5,2e-5

All of them together are not yet `bert`. What is left: WordPiece; LayerNorm behind the embeddings; a dense
layer with LayerNorm, and a bias, before the vocabulary; weights drawn from a truncated normal; Adam without
bias correction, 1e-4 and a straight decay; rows of 128 tokens in nine tenths of the steps; in fine-tuning the
pooler, one order of a pair and no loss of the language model.

Hardware: 16 TPU chips (v4, v5e, v5p, v6e). Time: not measured. Score: not measured.
"""

from pathlib import Path

from bertjax.config import default
from bertjax.config.files import load
from bertjax.errors import InputError


def get_config(argument):
    if argument == "bert":
        c = default()
        c.model.causal = True
        c.data.masking = "next_token"
        c.data.next_sentence = False
        return c
    switches = set(argument.split("+")) - {"gpt"}
    if unknown := switches - {"corpus", "sep_cls", "batch"}:
        raise InputError(f"{unknown.pop()}: no such switch; there are gpt, corpus, sep_cls, batch and bert")
    c = load(str(Path(__file__).with_name("pretrain_gpt.py")))
    c.train.epochs, c.train.steps = 0.0, 1_000_000
    c.data.weights = (1.0, 1.0) if "corpus" in switches else (1.0, 0.0)
    if "sep_cls" in switches:
        c.data.special_tokens = True
        c.model.type_vocab_size = 2
        c.model.vocab_size += 3
    if "batch" in switches:
        c.train.batch_rows *= 4
    return c
