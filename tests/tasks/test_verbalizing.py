"""What a language model would say of a text."""

import pytest

import wheretune as wt
from helpers.models import tiny_model
from wheretune.errors import DataError
from wheretune.records.base import Spec
from wheretune.tasks.verbalizing import next_tokens


def test_the_label_is_the_first_token_of_a_verbaliser_or_of_the_target_column():
    _, tokenizer = tiny_model("gpt2")
    id_of = tokenizer.convert_tokens_to_ids
    spec = wt.DataSpec("here", Spec("auto", {"verbalizer": {"0": "bad plot", "1": "good"}}))
    data = wt.load_data(spec, rows=[{"text": "a", "label": 1}, {"text": "the", "label": 0}])
    assert next_tokens(data, tokenizer) == ((id_of("bad"), id_of("good")), {0: 1, 1: 0})
    spec = wt.DataSpec("here", Spec("auto", {"target_column": "next"}))
    rows = [{"text": "a", "next": "plot of it"}, {"text": "the", "next": "good"}, {"text": "in", "next": "plot"}]
    tokens, of_row = next_tokens(wt.load_data(spec, labels="optional", rows=rows), tokenizer)
    assert [tokens[of_row[i]] for i in range(3)] == [id_of("plot"), id_of("good"), id_of("plot")] and len(tokens) == 2


def test_a_token_that_is_only_a_space_is_passed_over():
    _, tokenizer = tiny_model("qwen2")  # one token a byte: every word begins with the space
    spec = wt.DataSpec("here", Spec("auto", {"target_column": "next"}))
    data = wt.load_data(spec, labels="optional", rows=[{"text": "a", "next": n} for n in ("1", "27", "1 of 3")])
    tokens, of_row = next_tokens(data, tokenizer)
    assert [tokenizer.decode(tokens[of_row[i]]) for i in range(3)] == ["1", "2", "1"]
    same = wt.load_data(spec, labels="optional", rows=[{"text": "a", "next": n} for n in ("1", "12")])
    with pytest.raises(DataError, match="begins with the same token"):
        next_tokens(same, tokenizer)


@pytest.mark.parametrize(
    ("verbalizer", "said"),
    [
        ({"0": "good movie", "1": "good plot"}, "'0' and '1' begin with the same token"),
        ({"0": "good"}, "'1' is in one only"),
        ({"0": "good", "1": "bad", "2": "hot"}, "'2' is in one only"),
        ({"0": "good", "1": "unheardof"}, "no token for 'unheardof'"),
    ],
)
def test_a_verbaliser_that_cannot_be_used(verbalizer, said):
    _, tokenizer = tiny_model("gpt2")
    rows = [{"text": "a", "label": 1}, {"text": "the", "label": 0}]
    spec = wt.DataSpec("here", Spec("auto", {"verbalizer": verbalizer}))
    with pytest.raises(DataError, match=said) as refused:
        next_tokens(wt.load_data(spec, rows=rows), tokenizer)
    assert refused.value.field == "verbalizer"
