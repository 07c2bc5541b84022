"""The tokenisation that benchmarks.prepare compares with: one process, a loop over lines, ids in a list.

python benchmarks/plain_tokenize.py INPUT VOCAB OUT: tokenises each line of INPUT that is not blank with the
tokenizers library's BertWordPieceTokenizer, lower-casing, and writes the ids to OUT as uint16.
"""

import sys

import numpy as np
from tokenizers import BertWordPieceTokenizer


def main(source: str, vocab: str, out: str) -> None:
    tokenizer = BertWordPieceTokenizer(vocab, lowercase=True)
    ids: list[int] = []
    with open(source, encoding="utf-8") as file:
        for line in file:
            line = line.strip()
            if line:
                ids += tokenizer.encode(line, add_special_tokens=False).ids
    np.array(ids, np.uint16).tofile(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
