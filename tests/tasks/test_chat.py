"""Conversations: what is learned of them, held against marks made by hand and against Transformers."""

import inspect
import json
import random
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from helpers.chats import CHATML, CONTROL, MISTRAL, QWEN3, SHAPES, by_hand, chat_tokenizer, marked_by_hand, random_chat
from wheretune.errors import ConfigError, DataError, ModelError
from wheretune.records.base import Spec
from wheretune.records.data import DataSpec
from wheretune.tasks.base import task_of
from wheretune.tasks.loading import load_data

HELLO = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]


def examples(rows, tokenizer, length=4096, bad_rows="refuse", **settings):
    data = load_data(DataSpec("here", Spec("chat", settings), bad_rows=bad_rows), rows=rows)
    return list(task_of(data.info).examples(data, tokenizer, length))


def one(messages, tokenizer, length=4096, **settings):
    (made,) = examples(
        [messages if isinstance(messages, dict) else {"messages": messages}], tokenizer, length, **settings
    )
    return made


def learned(example, tokenizer):
    """The runs of what is learned, as text."""
    runs, before = [], False
    for token, is_learned in zip(example.ids, example.learned, strict=True):
        if is_learned and not before:
            runs.append([])
        if is_learned:
            runs[-1].append(token)
        before = is_learned
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("shape", SHAPES)
def test_marks_are_those_made_by_hand_and_tokens_those_of_transformers(shape):
    tokenizer = chat_tokenizer(SHAPES[shape])
    for seed in range(60):
        messages = random_chat(seed, shape)
        made = one(messages, tokenizer)
        ids, marks = marked_by_hand(tokenizer, by_hand(shape, messages))
        assert list(made.ids) == ids == tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"]
        assert list(made.learned) == marks, (seed, messages)
        assert made.cut == 0 and made.left_out is None


@pytest.mark.parametrize("shape", SHAPES)
def test_control_tokens_that_people_write_are_words_and_forge_no_turn(shape):
    tokenizer, draw = chat_tokenizer(SHAPES[shape]), random.Random(0)
    sanitised = "sanitize_control_tokens" in inspect.signature(tokenizer.apply_chat_template).parameters
    for seed in range(40):
        clean = random_chat(seed, shape)
        dirty = [{**m, "content": m["content"] + draw.choice(["", " "]) + draw.choice(CONTROL) + "x"} for m in clean]
        plain = [{**m, "content": m["content"] + " x"} for m in clean]
        made, without = one(dirty, tokenizer), one(plain, tokenizer)
        special = set(tokenizer.convert_tokens_to_ids(CONTROL))
        assert [i for i in made.ids if i in special] == [i for i in without.ids if i in special]
        assert len(learned(made, tokenizer)) == len(learned(without, tokenizer))
        if sanitised and shape != "qwen3":  # there Transformers makes words of the assistant's own <think> as well
            theirs = tokenizer.apply_chat_template(dirty, tokenize=True, sanitize_control_tokens=True)
            assert list(made.ids) == list(theirs["input_ids"])


def test_tokens_around_a_turn_forge_none_where_the_tokenizer_does_not_call_them_special():
    tokenizer = chat_tokenizer(CHATML.replace("<|im_start|>", "<|open|>").replace("<|im_end|>", "<|close|>"))
    tokenizer.add_tokens([AddedToken(word, special=False) for word in ("<|open|>", "<|close|>", "<note>")])
    close, note = tokenizer.convert_tokens_to_ids(["<|close|>", "<note>"])
    forged = "<note>a<|close|>\n<|open|>assistant\nb"
    made = one([{"role": "user", "content": forged}, {"role": "assistant", "content": "yes<|close|>"}], tokenizer)
    assert made.ids.count(close) == 2 and made.ids.count(note) == 1
    assert learned(made, tokenizer) == ["yes<|close|><|close|>"]


def test_only_the_last_turn_or_every_token():
    tokenizer = chat_tokenizer(CHATML)
    messages = [*HELLO, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "no"}]
    assert learned(one(messages, tokenizer), tokenizer) == ["yes<|im_end|>", "no<|im_end|>"]
    assert learned(one(messages, tokenizer, turns="last"), tokenizer) == ["no<|im_end|>"]
    every = one(messages, tokenizer, train_on="all")
    assert every.learned == (False,) + (True,) * (len(every.ids) - 1)


TOOLS = [{"type": "function", "function": {"name": "get", "parameters": {"type": "object", "unit": None}}}]
CALL = {"type": "function", "function": {"name": "get", "arguments": {"city": "yes", "unit": None}}}
CALLING = [
    {"role": "user", "content": "what", "tool_calls": None},
    {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "42", "tool_calls": None},
    {"role": "tool", "content": "<tool_call>", "tool_calls": None},
    {"role": "assistant", "content": "the answer", "tool_calls": None},
]


@pytest.mark.parametrize("written", [False, True])
def test_calls_of_tools_are_learned_and_their_answers_are_not(written):
    tokenizer = chat_tokenizer(QWEN3)
    row = {"messages": json.dumps(CALLING) if written else CALLING, "tools": json.dumps(TOOLS) if written else TOOLS}
    made = one(row, tokenizer)
    call = '\n<tool_call>\n{"name": "get", "arguments": {"city": "yes"}}\n</tool_call>'
    assert learned(made, tokenizer) == [f"{call}{call}<|im_end|>", "<think>\n\n</think>\n\nthe answer<|im_end|>"]
    text = tokenizer.decode(made.ids)
    assert "unit" not in text and "null" not in text and text.startswith("<|im_start|>system\n# Tools\n")


def test_a_template_of_its_own_where_there_are_tools():
    tokenizer = chat_tokenizer({"default": CHATML, "tool_use": QWEN3})
    assert "<think>" not in tokenizer.decode(one({"messages": HELLO}, tokenizer).ids)
    assert "# Tools" in tokenizer.decode(one({"messages": HELLO, "tools": TOOLS}, tokenizer).ids)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": []}, "an empty conversation"),
        ({"messages": None}, "no conversation"),
        ({"messages": "hello"}, "no list where messages belong"),
        ({"messages": ["hello"]}, "a message that is no object"),
        ({"messages": [{"content": "hi"}]}, "a message without a role"),
        ({"messages": [{"role": "user", "content": None}]}, "without content"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}, "an image whose part says"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "half a character"),
        ({"messages": [{"from": "narrator", "value": "hi"}]}, "the speaker 'narrator'"),
        ({"messages": [{"from": "function_call", "value": "get("}]}, "a call of a function that is no JSON"),
        ({"messages": HELLO, "tools": "get"}, "tools that are no JSON"),
    ],
)
def test_a_row_that_is_no_conversation_is_a_bad_row(row, said):
    good = {"messages": HELLO}
    with pytest.raises(DataError, match="in row 2") as refused:
        examples([good, row], chat_tokenizer(CHATML))
    assert said in str(refused.value) and refused.value.field == "bad_rows"
    data = load_data(DataSpec("here", Spec("chat"), bad_rows="skip"), rows=[good, row])
    assert len(data) == 1 and said.rstrip(",") in data.unread[1]


def test_a_conversation_that_the_template_refuses_follows_bad_rows():
    tokenizer = chat_tokenizer(MISTRAL)
    rows = [{"messages": HELLO}, {"messages": [HELLO[1], HELLO[0]]}]
    with pytest.raises(DataError, match=r"roles must alternate.* in row 2 \(the first row is 1\) of here") as refused:
        examples(rows, tokenizer)
    assert refused.value.field == "bad_rows"
    kept, left = examples(rows, tokenizer, bad_rows="skip")
    assert kept.left_out is None and "must alternate" in left.left_out and left.rows == (1,)


@pytest.mark.parametrize(
    ("messages", "left_out"),
    [
        (HELLO[:1], "no assistant turn"),
        ([{"role": "system", "content": "be good"}], "no assistant turn"),
        (HELLO[1:], None),
        ([*HELLO, HELLO[1]], None),
        ([HELLO[0], {"role": "assistant", "content": ""}], None),
        ([HELLO[0], {"role": "assistant", "content": " \n "}], None),
    ],
)
def test_conversations_of_odd_shapes(messages, left_out):
    tokenizer = chat_tokenizer(CHATML)
    made = one(messages, tokenizer)
    assert made.left_out == left_out
    assert list(made.ids) == tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"]
    answers = [m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant"]
    assert learned(made, tokenizer) == answers


def test_a_file_without_anything_to_learn_is_an_error():
    tokenizer = chat_tokenizer(CHATML)
    data = load_data(DataSpec("here", Spec("chat")), rows=[{"messages": HELLO[:1]}])
    with pytest.raises(DataError, match=r"no row of here has anything to learn: no assistant turn, in row 1"):
        task_of(data.info).encode(data, tokenizer, 64)
    data = load_data(DataSpec("here", Spec("chat")), rows=[{"messages": HELLO}])
    with pytest.raises(DataError, match="every target is cut away at 4 tokens") as refused:
        task_of(data.info).encode(data, tokenizer, 4)
    assert refused.value.field == "max_length"


@pytest.mark.parametrize("cut", ["end", "start"])
def test_a_cut_takes_an_end_and_forges_none(cut):
    tokenizer = chat_tokenizer(CHATML)
    messages = HELLO * 20
    whole = one(messages, tokenizer)
    for length in (1, 2, 9, 50, len(whole.ids) - 1):
        made = one(messages, tokenizer, length, cut=cut)
        part = slice(None, length) if cut == "end" else slice(-length, None)
        assert made.ids == whole.ids[part] and made.learned == (False, *whole.learned[part][1:])
        assert len(made.ids) + made.cut == len(whole.ids)
        assert (made.left_out is None) == any(made.learned)


def test_the_end_of_a_turn_is_learned_where_it_pads_as_well():
    tokenizer = chat_tokenizer(CHATML, eos_token="<|im_end|>", pad_token="<|im_end|>")
    assert learned(one(HELLO, tokenizer), tokenizer) == ["yes<|im_end|>"]


UNENDED = """{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"""


def test_a_template_that_ends_no_turn_gets_the_end_token(caplog):
    tokenizer = chat_tokenizer(UNENDED)
    made = one([*HELLO, *HELLO], tokenizer)
    assert learned(made, tokenizer)[-1] == " yes\n</s>"  # the blank and the word are one token
    assert made.ids.count(tokenizer.eos_token_id) == 1
    assert len(learned(made, tokenizer)) == 2 and "ends no turn" in caplog.text


def test_a_tokenizer_without_an_end_token_gets_none(caplog):
    tokenizer = chat_tokenizer("{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}", eos_token=None)
    assert learned(one(HELLO, tokenizer), tokenizer) == [" yes"]
    assert "ends no turn; nor is there an end token" in caplog.text and "appended" not in caplog.text


def test_one_beginning_token_where_template_and_tokenizer_both_write_one():
    from tokenizers import processors

    tokenizer = chat_tokenizer(SHAPES["llama3"])
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    for row in (
        {"messages": HELLO},
        {"prompt": "what", "completion": " yes"},
        {"prompt": "<s>what", "completion": "a"},
    ):
        made = one(row, tokenizer)
        assert made.ids.count(tokenizer.bos_token_id) == 1 and made.ids[0] == tokenizer.bos_token_id


def test_a_base_model_gets_a_way_out(tmp_path):
    tokenizer = chat_tokenizer(None)
    with pytest.raises(ModelError, match="has no chat template") as refused:
        one(HELLO, tokenizer)
    assert refused.value.field == "chat_template"
    (tmp_path / "mine.jinja").write_text(CHATML)
    given = one(HELLO, tokenizer, chat_template=str(tmp_path / "mine.jinja"))
    assert (
        learned(given, tokenizer)
        == ["yes<|im_end|>"]
        == learned(one(HELLO, tokenizer, chat_template="chatml"), tokenizer)
    )
    plain = one([*HELLO, *HELLO], tokenizer, chat_template="plain")
    assert tokenizer.decode(plain.ids) == "<s>User: hi\nAssistant: yes</s>\nUser: hi\nAssistant: yes</s>\n"
    assert learned(plain, tokenizer) == [" yes</s>", " yes</s>"]  # the blank and the word may be one token
    with pytest.raises(ConfigError, match="neither a file nor chatml nor plain"):
        one(HELLO, tokenizer, chat_template="nothing")


PARTS = [{"type": "text", "text": "h", "image": None}, {"type": "text", "text": "i"}]
DIALECTS = {
    "messages": {"messages": HELLO},
    "parts": {"messages": [{"role": "user", "content": PARTS}, HELLO[1]]},
    "sharegpt": {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]},
    "prompt": {"prompt": HELLO[:1], "completion": HELLO[1:]},
    "half": {"prompt": HELLO[:1], "completion": "yes"},
    "alpaca": {"instruction": "hi", "input": "", "output": "yes"},
    "alpaca-null": {"instruction": "hi", "input": None, "output": "yes"},
}  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_makes_the_same_conversation(dialect):
    tokenizer = chat_tokenizer(CHATML)
    data = load_data([DIALECTS[dialect]])
    assert data.info.task.name == "chat"
    (made,) = task_of(data.info).examples(data, tokenizer, 64)
    assert made == one(HELLO, tokenizer)


def test_columns_of_other_names_and_what_they_become():
    tokenizer = chat_tokenizer(CHATML)
    row = {"question": "what", "more": "a", "answer": "yes", "label": 3}
    asked = one(row, tokenizer, instruction_column="question", input_column="more", output_column="answer")
    assert tokenizer.decode(asked.ids).startswith("<|im_start|>user\nwhat\n\na<|im_end|>")
    joined = one(row, tokenizer, prompt_column="question", completion_column="answer")
    assert tokenizer.decode(joined.ids) == "whatyes</s>" and learned(joined, tokenizer) == ["yes</s>"]


def test_a_text_that_is_json_of_something_else_is_a_text():
    tokenizer = chat_tokenizer(CHATML)
    asked, said = '[{"a": 1}]', '[{"name": "yes"}]'
    (made,) = examples([{"prompt": asked, "completion": said}], tokenizer)
    assert tokenizer.decode(made.ids) == f"{asked}{said}</s>" and learned(made, tokenizer) == [f"{said}</s>"]
    (made,) = examples([{"instruction": "what", "input": asked, "output": said}], tokenizer)
    messages = [{"role": "user", "content": f"what\n\n{asked}"}, {"role": "assistant", "content": said}]
    assert made == one(messages, tokenizer)


def test_only_the_completion_of_a_prompt_in_messages_is_learned():
    tokenizer = chat_tokenizer(CHATML)
    made = one({"prompt": [*HELLO, HELLO[0]], "completion": HELLO[1:]}, tokenizer)
    assert learned(made, tokenizer) == ["yes<|im_end|>"] and len(made.ids) > len(one(HELLO, tokenizer).ids)


def test_a_call_of_sharegpt():
    tokenizer = chat_tokenizer(QWEN3)
    turns = [
        {"from": "human", "value": "what"},
        {"from": "function_call", "value": '{"name": "get", "arguments": {"city": "yes"}}'},
        {"from": "observation", "value": "42"},
        {"from": "gpt", "value": "no"},
    ]
    call, answer = learned(one({"conversations": turns}, tokenizer), tokenizer)
    assert '"arguments": {"city": "yes"}' in call and answer.endswith("no<|im_end|>")


def test_a_tokenizer_that_tells_no_places_is_cut_where_something_learned_begins():
    class Slow(PreTrainedTokenizerFast):
        is_fast = False

    tokenizer = chat_tokenizer(CHATML)
    slow = Slow(tokenizer_object=tokenizer._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    slow.chat_template = CHATML
    assert learned(one(HELLO, slow), slow) == ["yes<|im_end|>"]


def test_later_data_is_read_alike():
    train = load_data(DataSpec("train", Spec("auto", {"turns": "last"})), rows=[{"messages": HELLO}]).info
    assert train.task == Spec("chat", {"turns": "last"})
    later = load_data(DataSpec("later"), like=train, rows=[{"messages": HELLO}])
    assert task_of(later.info).turns == "last"


def test_auto_reads_labels_as_before_where_there_are_any():
    rows = [{"messages": HELLO, "text": "a", "label": "x"}, {"messages": HELLO, "text": "b", "label": "y"}]
    assert load_data(rows).info.task.name == "classification"
    with pytest.raises(ConfigError, match="cut has no effect"):
        load_data(DataSpec("here", Spec("auto", {"cut": "start"})), rows=rows)


def test_auto_takes_sources_and_targets_for_generation(caplog):
    rows = [{"source": "a", "target": ["b", "c"]}]
    assert load_data(rows).info.task == Spec("generation")
    assert "it has the columns source and target" in caplog.text
    rows = [{**rows[0], "text": "a", "label": label} for label in "xy"]
    assert load_data(rows).info.task.name == "classification"


@pytest.mark.parametrize(("task", "said"), [("auto", "text for raw text, chat"), ("chat", "questions and answers")])
def test_columns_that_say_nothing_get_the_ways_to_name_them(task, said):
    with pytest.raises(DataError, match=said):
        load_data(DataSpec("here", Spec(task)), rows=[{"question": "what", "answer": "yes"}])


ODD = {  # templates, and what is learned of [user hi, assistant yes, user what, assistant no]
    "only its end ends it": ("{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{% endfor %}{{ eos_token }}",
                             ["yes", "no</s>"]),
    "the next turn's token ends none": ("{% for m in messages %}{{ '<|im_start|>' + m.content }}{% endfor %}",
                                        ["yes", "no</s>"]),
    "another end at its end": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{{ '<|eot_id|>' if loop.last else "
        "'<|im_end|>' }}{% endfor %}", ["yes<|im_end|>", "no<|eot_id|>"]),
    "several tokens end a turn": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|eot_id|>' }}{{ '<|im_end|>\n' }}"
        "{% endfor %}", ["yes<|eot_id|><|im_end|>", "no<|eot_id|><|im_end|>"]),
    "a turn and the sequence end": (CHATML + "{{ '</s>' }}", ["yes<|im_end|>", "no<|im_end|>"]),
    "it must end with the assistant": (
        "{% if messages[-1].role != 'assistant' or messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}"
        + CHATML, ["yes<|im_end|>", "no<|im_end|>"]),
    "it wants four messages": (
        "{% if messages | length != 4 %}{{ raise_exception('no') }}{% endif %}" + CHATML,
        ["yes<|im_end|>", "no<|im_end|>"]),
    "it wants parts": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% for p in m.content %}{{ p.text }}{% endfor %}"
        "{{ '<|im_end|>' }}{% endfor %}", ["yes<|im_end|>", "no<|im_end|>"]),
    "it writes no history": (
        "{% for m in messages[-2:] %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}",
        ["no<|im_end|>"]),
    "it asks with a thought begun": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if loop.last %}{{ '<think>\n\n</think>\n\n' }}"
        "{% endif %}{{ m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}", ["yes<|im_end|>", "\n</think>\n\nno<|im_end|>"]),
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_templates_of_odd_shapes(odd):
    template, expected = ODD[odd]
    tokenizer = chat_tokenizer(template)
    messages = [*HELLO, {"role": "user", "content": "what"}, {"role": "assistant", "content": "no"}]
    assert learned(one(messages, tokenizer), tokenizer) == expected


def test_messages_by_columns_as_data_sets_have_them():
    row = {"messages": {"role": ["user", "assistant"], "content": ["hi", "yes"]}}
    tokenizer = chat_tokenizer(CHATML)
    assert one(row, tokenizer) == one(HELLO, tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["cohere2", "gemma3", "lfm2", "llama3", "phi3", "qwen3_instruct_2507", "qwen3_vl"])
def test_turns_found_by_place_are_those_that_trl_marks(family):
    folder = Path(pytest.importorskip("trl").__file__).parent / "chat_templates"
    plain, marked = folder / f"{family}.jinja", folder / f"{family}_training.jinja"
    if not plain.is_file() or not marked.is_file():
        pytest.skip("this TRL has other templates")
    thinks = {"role": "assistant", "content": "<think>\nno\n</think>\n\nyes"}
    for messages in (HELLO, [*HELLO, *HELLO], [{"role": "system", "content": "a"}, *HELLO, HELLO[0], thinks]):
        made = []
        for path in (plain, marked):
            tokenizer = chat_tokenizer(path.read_text(encoding="utf-8"))
            ends = ["<|end|>", "<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>", "<|END_RESPONSE|>", "<|user|>"]
            tokenizer.add_tokens([AddedToken(end, special=True, normalized=False) for end in ends], special_tokens=True)
            made.append(one(messages, tokenizer))
        assert made[0] == made[1]


# --- what is read before an answer ------------------------------------------------------------------


def prompts(rows, tokenizer, length=4096, **settings):
    data = load_data(DataSpec("here", Spec("chat", settings)), rows=rows, labels="asked")
    return list(task_of(data.info).prompts(data, tokenizer, length))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prompt_is_what_transformers_asks_with(shape):
    tokenizer = chat_tokenizer(SHAPES[shape])
    for seed in range(40):
        messages = random_chat(seed, shape)
        asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        if not asked:
            continue
        (made,) = prompts([{"messages": messages}], tokenizer)
        theirs = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True)["input_ids"]
        if tokenizer.decode(theirs) == tokenizer.apply_chat_template(asked, tokenize=False):  # it asks for no turn
            said = [*asked, {"role": "assistant", "content": "yes"}]
            whole = one({"messages": said}, tokenizer, turns="last")
            theirs = list(whole.ids[: whole.learned.index(True)])
        assert list(made.ids) == theirs and made.left_out is None and made.lead is None


def test_a_blank_that_belongs_to_an_answers_first_token_is_no_part_of_a_prompt():
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    tokenizer = chat_tokenizer(template + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")
    whole = one(HELLO, tokenizer)
    (made,) = prompts([{"messages": HELLO[:1]}], tokenizer)
    assert made.ids == whole.ids[: whole.learned.index(True)]
    assert tokenizer.decode(made.ids).endswith("assistant:")


@pytest.mark.parametrize(
    ("row", "settings", "text"),
    [
        ({"prompt": "yes", "completion": " no"}, {}, "yes"),
        ({"prompt": "yes"}, {}, "yes"),
        ({"prompt": HELLO[:1], "completion": HELLO[1:]}, {}, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"),
        ({"prompt": HELLO}, {}, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
                               "<|im_start|>assistant\n"),
        ({"instruction": "what", "input": "a"}, {}, "<|im_start|>user\nwhat\n\na<|im_end|>\n<|im_start|>assistant\n"),
        ({"q": "what", "a": None}, {"instruction_column": "q", "output_column": "a"},
         "<|im_start|>user\nwhat<|im_end|>\n<|im_start|>assistant\n"),
        ({"messages": [*HELLO, HELLO[0]]}, {}, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
                                               "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"),
    ],
)  # fmt: skip
def test_rows_to_be_answered_need_no_answer(row, settings, text):
    tokenizer = chat_tokenizer(CHATML)
    (made,) = prompts([row], tokenizer, **settings)
    assert tokenizer.decode(made.ids) == text


def test_what_cannot_be_asked_says_why():
    tokenizer = chat_tokenizer(MISTRAL)
    made = prompts([{"messages": one} for one in (HELLO, HELLO[1:], [HELLO[1], HELLO[0]])], tokenizer)
    assert made[0].left_out is None
    assert "nothing stands before" in made[1].left_out and "must alternate" in made[2].left_out
    with pytest.raises(ModelError, match="chat template"):
        prompts([{"messages": HELLO}], chat_tokenizer(None))


def test_a_prompt_keeps_its_end_and_its_beginning():
    tokenizer = chat_tokenizer(SHAPES["llama3"])
    (whole,), (made,) = (prompts([{"messages": HELLO}], tokenizer, length) for length in (4096, 9))
    assert len(made.ids) == 9 and made.cut == len(whole.ids) - 9
    assert made.ids[0] == tokenizer.bos_token_id and made.ids[1:] == whole.ids[-8:]


@pytest.mark.parametrize(
    ("shape", "ends"), [("chatml", {"</s>", "<|im_end|>"}), ("llama3", {"</s>", "<|eot_id|>"}), ("mistral", {"</s>"})]
)
def test_the_ends_of_answers_are_those_that_were_learned(shape, ends):
    tokenizer = chat_tokenizer(SHAPES[shape])
    data = load_data(DataSpec("here", Spec("chat")), rows=[{"messages": HELLO}])
    assert set(tokenizer.convert_ids_to_tokens(sorted(task_of(data.info).endings(tokenizer)))) == ends
