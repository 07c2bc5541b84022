import pytest

from bertjax.data.finetuning.conll import conll_lines, read_conll, to_iob2
from bertjax.errors import InputError

TEXT = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP B-MISC

Peter NNP I-NP I-PER
-DOCSTART- -X- O O
Blackburn NNP I-NP I-PER
"""


def test_sentences_documents_and_schemes(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(TEXT)
    first, second, third = read_conll(str(path), tagged=True)
    assert first.words == ("EU", "rejects", "German", "call")
    assert first.tags == ("B-ORG", "O", "B-MISC", "B-MISC")  # the file's scheme is IOB1
    assert (first.line, second.line, third.line) == (3, 8, 10)
    assert first.document == second.document != third.document
    untagged = read_conll(str(path), tagged=False)
    assert [s.tags for s in untagged] == [(), (), ()]
    assert untagged[0].words == first.words


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ("I-A I-A B-A I-B", "B-A I-A B-A B-B"),
        ("S-A B-A I-A E-A E-A", "B-A B-A I-A I-A B-A"),
        ("O I-A O", "O B-A O"),
    ],
)
def test_iob2(tags, wanted):
    assert to_iob2(tags.split()) == wanted.split()


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(TEXT)
    sentences = read_conll(str(path), tagged=True)
    out = tmp_path / "out.conll"
    out.write_text("".join(conll_lines(sentences, [["O"] * len(s.words) for s in sentences])))
    assert out.read_text().splitlines()[:2] == ["EU B-ORG O", "rejects O O"]
    again = read_conll(str(out), tagged=True)
    assert [s.words for s in again] == [s.words for s in sentences]
    assert again[1].document != again[2].document


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"EU\n", ":1: expected a word and a tag, found one column"),
        (b"EU I-ORG\nx ORG\n", ":2: 'ORG' is no tag; expected O, or B-"),
        (b"EU B-\n", ":1: 'B-' is no tag"),
        (b"EU O\ncaf\xe9 O\n", ":2: byte 0xe9 is not UTF-8"),
        (b"\n\n", ": has no sentence"),
    ],
)
def test_broken_files(tmp_path, content, message):
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_conll(str(path), tagged=True)
    assert str(error.value).startswith(f"{path}{message}")
    with pytest.raises(InputError, match="no such file"):
        read_conll(str(tmp_path / "none"), tagged=True)
