"""The marks that each kind of model reads around texts, and the vocabularies that it cannot read."""

import pytest
from gpt_fixture import make_tokenizer

from bertjax.data.tokenizers.tokenizer import (
    SPECIAL_TOKENS,
    add_task_tokens,
    word_tokenizer,
    wordpiece_tokenizer,
)
from bertjax.data.tokenizers.words import MARKS
from bertjax.errors import InputError
from bertjax.models import KINDS

WORDPIECE = wordpiece_tokenizer([*SPECIAL_TOKENS, "cat"], lower_case=True, name="made")
WORDS = word_tokenizer([*MARKS, "cat"], lower_case=True)
GPT_BPE = make_tokenizer()


@pytest.mark.parametrize(
    ("kind", "tokenizer", "before", "between", "after"),
    [
        ("bert", WORDPIECE, "[CLS]", ["[SEP]"], "[SEP]"),
        ("gpt", add_task_tokens(GPT_BPE), "_start_", ["_delimiter_"], "_classify_"),
        ("elmo", WORDS, "<S>", ["</S>", "<S>"], "</S>"),
    ],
)
def test_the_marks(kind, tokenizer, before, between, after):
    form, tokens = KINDS[kind].row_form(tokenizer), tokenizer.tokens
    assert (tokens[form.before], [tokens[i] for i in form.between], tokens[form.after]) == (
        before, between, after,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "tokenizer", "message"),
    [
        ("bert", WORDS, r"\(words\) has no \[CLS\] and \[SEP\], which a BERT reads"),
        ("bert", GPT_BPE, r"\(gpt_bpe\) has no \[CLS\] and \[SEP\], which a BERT reads"),
        ("bert", add_task_tokens(GPT_BPE), r"\(gpt_bpe\) has no \[CLS\] and \[SEP\]"),
        ("gpt", GPT_BPE, "has no start, delimiter and extract tokens; name a model that was fine-tuned"),
        ("gpt", WORDPIECE, r"\(wordpiece\) has no start, delimiter and extract tokens"),
        ("elmo", WORDPIECE, "an ELMo reads words, but the vocabulary is of wordpiece tokens"),
    ],
)
def test_a_vocabulary_without_them_is_refused(kind, tokenizer, message):
    with pytest.raises(InputError, match=message) as error:
        KINDS[kind].row_form(tokenizer)
    assert "\n" not in str(error.value)
