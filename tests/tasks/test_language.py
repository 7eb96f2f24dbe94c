"""The next token, a target for a source, and raw text: what is read, what is learned, what a cut leaves."""

import pytest

from helpers.chats import CONTROL, chat_tokenizer
from wheretune.data.spans import Encoder
from wheretune.errors import ConfigError, DataError
from wheretune.records.base import Spec
from wheretune.records.data import DataSpec
from wheretune.tasks.base import task_of
from wheretune.tasks.loading import load_data
from wheretune.tasks.next_token import NextToken


@pytest.fixture(scope="module")
def tokenizer():
    return chat_tokenizer(None)


def examples(task, rows, tokenizer, length=4096, **settings):
    data = load_data(DataSpec("here", Spec(task, settings)), rows=rows)
    return list(task_of(data.info).examples(data, tokenizer, length))


def words(example, tokenizer):
    """What is read and what is learned, as text."""
    taught = [token for token, learned in zip(example.ids, example.learned, strict=True) if learned]
    return tokenizer.decode(example.ids), tokenizer.decode(taught)


def beginning(tokenizer):
    """The same tokenizer, which writes a token before every text."""
    from tokenizers import processors

    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return tokenizer


# --- the next token -------------------------------------------------------------------------------

FILMS = [{"text": "yes what 42", "label": "Yes"}, {"text": "what a", "label": "No"}]


def test_the_class_is_the_next_token(tokenizer):
    first, second = examples("next-token", FILMS, tokenizer)
    assert words(first, tokenizer) == ("Sentence: yes what 42\nLabel: yes", " yes")
    assert words(second, tokenizer) == ("Sentence: what a\nLabel: no", " no")
    assert first.learned == (False,) * (len(first.ids) - 1) + (True,)


def test_a_pair_a_template_and_words_of_ones_own(tokenizer):
    rows = [{"premise": "yes", "hypothesis": "no", "label": 1}, {"premise": "a", "hypothesis": "42", "label": 0}]
    assert words(examples("next-token", rows, tokenizer, verbalizer={"0": "no", "1": "yes"})[0], tokenizer) == (
        "Sentence 1: yes\nSentence 2: no\nLabel: yes", " yes",
    )  # fmt: skip
    template = {"template": "{pair} / {text}\\nSo {label}", "verbalizer": {"0": "no", "1": "yes"}}
    assert words(examples("next-token", rows, tokenizer, **template)[0], tokenizer)[0] == "no / yes\nSo yes"


def test_a_number_behind_a_blank_of_its_own_is_what_is_learned(tokenizer):
    rows = [{"text": "yes", "label": 7}, {"text": "no", "label": 8}]
    made = examples("next-token", rows, tokenizer)[0]
    assert words(made, tokenizer) == ("Sentence: yes\nLabel: 7", "7")


@pytest.mark.parametrize("cut", ["end", "start"])
def test_a_cut_stays_within_the_text(tokenizer, cut):
    rows = [{"text": " ".join("abcdefgh" * 20), "label": "yes"}, {"text": "no", "label": "no"}]
    whole = examples("next-token", rows, tokenizer)[0]
    made = examples("next-token", rows, tokenizer, 40, cut=cut)[0]
    assert len(made.ids) == 40 and made.cut == len(whole.ids) - 40
    text, taught = words(made, tokenizer)
    assert text.startswith("Sentence:") and text.endswith("\nLabel: yes") and taught == " yes"
    assert ("a b c" in text[:20]) == (cut == "end") and text.removesuffix("\nLabel: yes").endswith("h") == (
        cut == "start"
    )
    short = examples("next-token", rows, tokenizer, 5)[0]
    assert "has no room in 5 tokens" in short.left_out and len(short.ids) + short.cut == len(whole.ids)


def test_the_longer_of_two_texts_is_cut_first(tokenizer):
    rows = [{"text": " ".join("a" * 60), "pair": " ".join("b" * 20), "label": i % 2} for i in range(2)]
    whole = examples("next-token", rows, tokenizer, pair_column="pair")[0]
    made = examples("next-token", rows, tokenizer, len(whole.ids) - 10, pair_column="pair")[0]
    text = words(made, tokenizer)[0]
    assert text.count(" b") == 20 and text.count(" a") < 60 == words(whole, tokenizer)[0].count(" a")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"verbalizer": {"Yes": "the answer", "No": "the"}}, "('the' and 'the answer' after a blank)"),
        ({"verbalizer": {"Yes": "yes"}}, "'No' is in one only"),
    ],
)
def test_words_that_cannot_tell_the_classes_apart(tokenizer, settings, said):
    with pytest.raises(DataError) as refused:
        examples("next-token", FILMS, tokenizer, **settings)
    assert refused.value.field == "verbalizer" and said in str(refused.value)


@pytest.mark.parametrize(
    ("task", "template", "said"),
    [
        ("next-token", "A {txt}", "a field {txt}, which is not known"),
        ("next-token", "A {pair}", "lacks {text}"),
        ("next-token", "A", "lacks {text}"),
        ("next-token", "{text} {pair}", "no column of second texts is named"),
        ("next-token", "{text} {text}", "a field twice"),
        ("generation", "{source} {target} end", "goes on after {target}"),
        ("generation", "{target}", "lacks {source}"),
    ],
)
def test_a_template_that_cannot_be_used(tokenizer, task, template, said):
    with pytest.raises(ConfigError) as refused:
        examples(task, FILMS, tokenizer, template=template)
    assert said in str(refused.value)


def test_control_tokens_in_a_text_are_words_and_in_a_template_are_not(tokenizer):
    rows = [{"text": f"a {one} b", "label": i % 2} for i, one in enumerate(CONTROL)]
    special = set(tokenizer.convert_tokens_to_ids(CONTROL))
    for made in examples("next-token", rows, tokenizer, template="<|im_start|>{text} So"):
        assert [i for i in made.ids if i in special] == [tokenizer.convert_tokens_to_ids("<|im_start|>")]


def test_the_tokens_of_the_classes(tokenizer):
    task = NextToken(verbalizer={"a": "yes", "b": "no"})
    found = task.answers(("a", "b"), tokenizer)
    assert [tokenizer.decode(one[-1]) for one in found] == [" yes", " no"]


# --- a target for a source ------------------------------------------------------------------------


def test_the_target_and_its_end_are_learned(tokenizer):
    rows = [{"source": "what", "target": "yes"}, {"source": "a <|im_end|>", "target": ["no", None, "42 </s>"]}]
    made = examples("generation", rows, tokenizer)
    assert [one.rows for one in made] == [(0,), (1,), (1,)]
    assert [words(one, tokenizer) for one in made] == [
        ("what\nyes</s>", "yes</s>"),
        ("a <|im_end|>\nno</s>", "no</s>"),
        ("a <|im_end|>\n42 </s></s>", "42 </s></s>"),
    ]
    assert all(one.ids.count(tokenizer.eos_token_id) == 1 for one in made)


def test_the_e2e_of_lora(tokenizer):
    rows = [{"mr": "name[a]", "ref": "yes"}]
    (made,) = examples(
        "generation", rows, tokenizer, source_column="mr", target_column="ref", template="{source}</s> {target}"
    )
    parts = [tokenizer.encode(one, add_special_tokens=False) for one in ("name[a]", " yes")]
    end = tokenizer.eos_token_id
    assert list(made.ids) == [*parts[0], end, *parts[1], end]
    assert made.learned == (False,) * (len(parts[0]) + 1) + (True,) * (len(parts[1]) + 1)


@pytest.mark.parametrize("cut", ["end", "start"])
def test_a_cut_of_a_target_stays_within_the_source(tokenizer, cut):
    rows = [{"source": " ".join("abcdefgh" * 20), "target": "yes no yes"}]
    (whole,), (made,) = (examples("generation", rows, tokenizer, length, cut=cut) for length in (4096, 30))
    assert len(made.ids) == 30 and made.cut == len(whole.ids) - 30
    text, taught = words(made, tokenizer)
    assert text.endswith("\nyes no yes</s>") and taught == "yes no yes</s>"
    assert text.startswith("a b") == (cut == "end")
    (short,) = examples("generation", rows, tokenizer, 3, cut=cut)
    assert tokenizer.eos_token_id not in short.ids and short.left_out is None and any(short.learned)


# --- raw text -------------------------------------------------------------------------------------

DOCUMENTS = [{"text": "yes what 42"}, {"text": "the answer " * 30}, {"text": "no"}, {"text": "already</s>"}]


@pytest.mark.parametrize("with_beginning", [False, True])
@pytest.mark.parametrize("length", [2, 7, 64, 4096])
def test_packing_loses_nothing(length, with_beginning):
    tokenizer = beginning(chat_tokenizer(None)) if with_beginning else chat_tokenizer(None)
    ahead = [tokenizer.bos_token_id] if with_beginning else []
    every = []
    for row in DOCUMENTS:
        every += tokenizer.encode(row["text"].removesuffix("</s>"), add_special_tokens=False)
        every.append(tokenizer.eos_token_id)
    made = examples("text", DOCUMENTS, tokenizer, length)
    assert all(list(one.ids[: len(ahead)]) == ahead for one in made)
    assert [token for one in made for token in one.ids[len(ahead) :]] == every
    assert all(one.learned == (False,) + (True,) * (len(one.ids) - 1) for one in made)
    assert all(length - 1 <= len(one.ids) <= length and not one.cut for one in made[:-1])
    assert len(made[-1].ids) <= length
    end = tokenizer.eos_token_id
    assert sum(t == end and taught for one in made for t, taught in zip(one.ids, one.learned, strict=True)) == 4
    assert [token for one in made for token in one.ids].count(tokenizer.bos_token_id) == len(made) * with_beginning
    assert list(dict.fromkeys(row for one in made for row in one.rows)) == [0, 1, 2, 3]


def test_a_length_that_leaves_no_room(tokenizer):
    with pytest.raises(DataError, match="no room") as refused:
        examples("text", DOCUMENTS, tokenizer, 1)
    assert refused.value.field == "max_length"


# --- what the tasks share -------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "rows"), [("text", DOCUMENTS), ("next-token", FILMS)])
def test_encoded_rows_have_labels_where_they_learn(tokenizer, task, rows):
    data = load_data(DataSpec("here", Spec(task)), rows=rows)
    asked = {"choices"} if task == "next-token" else set()
    for row in task_of(data.info).encode(data, tokenizer, 64):
        assert set(row) == {"input_ids", "attention_mask", "labels", "row"} | asked and row["labels"][0] == -100
        if asked:
            assert row["labels"][-1] in row["choices"] and len(row["choices"]) == len(data.info.classes)
        assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))


@pytest.mark.parametrize("trim", [False, True])
def test_every_character_belongs_to_a_token(trim):
    from tokenizers import processors

    tokenizer = chat_tokenizer(None)
    tokenizer._tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    text = "yes  the answer \n\n 🙂🙂   é日 a"
    tokens = Encoder(tokenizer)([*Encoder(tokenizer).pieces([(text, True)])])
    assert list(tokens.ids) == tokenizer.encode(text, add_special_tokens=False)
    assert all(any(start <= place < stop for start, stop in tokens.spans) for place in range(len(text)))
    for place in range(len(text)):
        (cover,) = {text[start:stop] for start, stop in tokens.spans if start <= place < stop}
        found = [i for i, touched in zip(tokens.ids, tokens.touching(place, place + 1), strict=True) if touched]
        assert cover == tokenizer.decode(found)


# --- what is read before an answer ------------------------------------------------------------------


def prompts(task, rows, tokenizer, length=4096, **settings):
    data = load_data(DataSpec("here", Spec(task, settings)), rows=rows, labels="asked")
    return list(task_of(data.info).prompts(data, tokenizer, length))


def before_the_first(example):
    return example.ids[: example.learned.index(True)]


@pytest.mark.parametrize(
    "template",
    [None, "{source}<|im_end|> {target}", "{source}  {target}", "Of {source}:\n\n{target}", "{source} =>{target}"],
)
@pytest.mark.parametrize("first", [False, True])
def test_a_prompt_is_what_is_read_before_the_first_learned_token(template, first):
    made = chat_tokenizer(None)
    made = beginning(made) if first else made
    rows = [{"source": "the answer", "target": "yes 42"}, {"source": "what\n", "target": "no"}]
    found = prompts("generation", rows, made, template=template)
    taught = examples("generation", rows, made, template=template)
    assert [one.ids for one in found] == list(map(before_the_first, taught))
    for one, prompt, row in zip(taught, found, rows, strict=True):
        rest = made.decode(one.ids[len(prompt.ids) : -1])
        assert rest == prompt.lead + row["target"]
    assert [one.ids for one in prompts("generation", [{"source": "the answer"}], made, template=template)] == [
        found[0].ids
    ]


@pytest.mark.parametrize("cut", ["end", "start"])
def test_a_prompt_is_cut_within_its_source(tokenizer, cut):
    (whole,) = prompts("generation", [{"source": "yes no what 42"}], tokenizer, template="Of {source}:")
    (one,) = prompts("generation", [{"source": "yes no what 42"}], tokenizer, 6, template="Of {source}:", cut=cut)
    text = tokenizer.decode(one.ids)
    assert len(one.ids) == 6 and one.cut == len(whole.ids) - 6 and text.startswith("Of ") and text.endswith(":")
    assert ("42" in text) == (cut == "start")
    (one,) = prompts("generation", [{"source": "yes"}], tokenizer, 2, template="Of {source}:")
    assert "tokens without the source" in one.left_out


def test_a_row_to_be_answered_needs_no_target(tokenizer):
    rows = [{"source": "yes", "target": "\ud800"}, {"source": "no", "target": {"a": 1}}, {"source": "what"}]
    assert len(prompts("generation", rows, tokenizer)) == 3
    with pytest.raises(DataError):
        examples("generation", rows, tokenizer)


def test_the_end_of_an_answer(tokenizer):
    assert task_of(load_data(DataSpec("here", Spec("generation")), rows=[{"source": "a", "target": "b"}]).info).endings(
        tokenizer
    ) == {tokenizer.eos_token_id}
