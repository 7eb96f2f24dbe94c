"""Texts that a tokenizer makes nothing of."""

import pytest

from wheretune import from_texts
from wheretune.data.tokens import encode, with_tokens
from wheretune.errors import DataError


class Letters:
    """One token per letter, and none for what is no letter."""

    def __init__(self, special=0):
        self.special = special

    def num_special_tokens_to_add(self, pair):
        return self.special

    def __call__(self, texts, **settings):
        return {"input_ids": [[7] * self.special + [ord(letter) for letter in text if letter.isalpha()]
                              for text in texts]}  # fmt: skip


def test_a_text_without_tokens_is_counted_apart():
    data = from_texts(["a", "...", "b"], ["x", "y", "y"])
    with pytest.raises(DataError, match="a text that makes no tokens in row 2"):
        encode(data, Letters(), 8)
    kept = with_tokens(data, Letters())
    assert kept.rows == (0, 2) and kept.labels == (0, 1) and kept.unread == {1: "a text that makes no tokens"}
    assert [row["row"] for row in encode(kept, Letters(), 8)] == [0, 2]
    assert with_tokens(data, Letters(special=1)) is data
    with pytest.raises(DataError, match="no text of memory makes a token"):
        with_tokens(from_texts(["...", "!"]), Letters())
