"""The marks that a model reads around texts."""

from typing import NamedTuple


class RowForm(NamedTuple):
    """Token ids of the marks of a row that holds one text, or two.

    One text is `before A after`, two are `before A between B after`. BERT's marks are [CLS], [SEP] and [SEP];
    GPT's start, delimiter and extract; a model of words has each text between a begin and an end.
    """

    before: int
    between: tuple[int, ...]  # the first belongs to A's token type, the others to B's
    after: int
