"""`wheretune preview`: what would be learned, for a person and for a script."""

import json

import pytest
from transformers import BertConfig, LlamaConfig

from helpers.chats import CHATML, chat_tokenizer
from helpers.texts import jsonl

HELLO = [{"role": "user", "content": "hi \x1b[31m"}, {"role": "assistant", "content": "yes [bold]"}]


@pytest.fixture
def folder(tmp_path):
    LlamaConfig(max_position_embeddings=64).save_pretrained(tmp_path / "model")
    chat_tokenizer(CHATML).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def rows_of(out):
    return [json.loads(line) for line in out.splitlines()]


def test_a_script_gets_a_line_for_every_row(run, folder, tmp_path):
    rows = [{"messages": HELLO}, {"messages": []}, {"messages": HELLO[:1]}, {"messages": HELLO * 10}]
    train = jsonl(tmp_path / "chat.jsonl", rows)
    code, out, err = run("preview", "--model", folder, "--train", train, "--json", "--bad-rows", "skip")
    first, bad, silent, long = rows_of(out)
    assert code == 0 and [row["row"] for row in (first, bad, silent, long)] == [0, 1, 2, 3]
    assert list(first) == ["row", "ids", "learned", "tokens", "cut", "left_out"] and first["left_out"] is None
    assert len(first["ids"]) == len(first["learned"]) == len(first["tokens"]) and first["tokens"][0] == "<|im_start|>"
    assert bad["left_out"] == "an empty conversation" and bad["ids"] == [] and silent["left_out"] == "no assistant turn"
    assert len(long["ids"]) == 64 and long["cut"] > 0
    assert "cut to 64 tokens, in row 4" in err and "left out: no assistant turn, in row 3" in err


def test_a_person_sees_what_is_learned(run, folder, tmp_path):
    train = jsonl(tmp_path / "chat.jsonl", [{"messages": HELLO}] * 5)
    code, out, _ = run("preview", "--model", folder, "--train", train, "--rows", 2)
    assert code == 0 and out.count("[[yes [bold]<|im_end|>]]") == 2 and "\x1b" not in out
    assert "5 rows, 5 examples" in out


def test_packed_text_says_which_rows(run, folder, tmp_path):
    train = jsonl(tmp_path / "text.jsonl", [{"text": "yes what"}, {"text": "no"}])
    code, out, _ = run("preview", "--model", folder, "--train", train, "--task", "text", "--json")
    (piece,) = rows_of(out)
    assert code == 0 and piece["rows"] == [0, 1] and "row" not in piece


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        ([{"messages": HELLO}], ["--max-length", 4], "every target is cut away at 4 tokens"),
        ([{"messages": []}], [], "an empty conversation"),
        ([{"messages": HELLO[:1]}], [], "no assistant turn"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": 0}], [], "--task: classification learns labels"),
        ([{"text": "a", "label": 1}], ["--template", "{txt}"], "a field {txt}"),
        ([{"messages": HELLO}], ["--turns", "first"], "--turns"),
    ],
)
def test_what_is_refused(run, folder, tmp_path, rows, more, said):
    train = jsonl(tmp_path / "rows.jsonl", rows)
    code, _, err = run("preview", "--model", folder, "--train", train, *more)
    assert code == 2 and said in err and err.splitlines()[-1].startswith("error: ")


def test_models_that_cannot(run, folder, tmp_path):
    train = jsonl(tmp_path / "chat.jsonl", [{"messages": HELLO}])
    BertConfig().save_pretrained(tmp_path / "encoder")
    chat_tokenizer(CHATML).save_pretrained(tmp_path / "encoder")
    code, _, err = run("preview", "--model", tmp_path / "encoder", "--train", train)
    assert code == 2 and "is an encoder (bert)" in err
    (folder / "chat_template.jinja").unlink()
    code, _, err = run("preview", "--model", folder, "--train", train)
    assert code == 2 and "has no chat template" in err and "--chat-template plain" in err
    code, out, _ = run("preview", "--model", folder, "--train", train, "--chat-template", "plain")
    assert code == 0 and "</s>]]" in out
