"""`wheretune predict` with models that write: what the merged model writes through Transformers, stopped or not."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import product

import pytest
import torch
import transformers as hf

from helpers.commands import SOURCE, one_line
from helpers.language import chats, kept
from helpers.often import often
from helpers.texts import jsonl, rows_of

FAST = ("--epochs", 2, "--batch-size", 8, "--learning-rate", "1e-3", "--max-length", 200)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("writing")
    chats(folder / "chats.jsonl"), kept(folder / "base", max_position_embeddings=256)
    jsonl(folder / "pairs.jsonl", [{"source": "ab" * (i % 3 + 1), "target": "ba" * (i % 2 + 1)} for i in range(16)])
    return folder


def theirs(model, tokenizer, prompts, **settings):
    """What a user of Transformers gets, row by row."""
    made = []
    for ids in prompts:
        found = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, **settings,
        )  # fmt: skip
        made.append(tokenizer.decode(found[0, len(ids) :], skip_special_tokens=True))
    return made


@pytest.mark.parametrize(
    ("task", "tuner"),
    often(product(("chat", "generation"), ("full", "lora")), [("chat", "lora")]),
)
def test_it_writes_what_the_merged_model_writes(run, place, tmp_path, task, tuner):
    data = place / ("chats.jsonl" if task == "chat" else "pairs.jsonl")
    code, _, err = run(
        "tune", "--model", place / "base", "--train", data, "--task", task, "--tuner", tuner, "--k", 2,
        "--output", tmp_path / "run", *FAST,
    )  # fmt: skip
    assert code == 0, err
    given = ("--max-new-tokens", 12, "--num-beams", 2, "--batch-size", 5)
    code, out, err = run("predict", tmp_path / "run", "--data", data, "--output", tmp_path / "out.jsonl", *given)
    assert code == 0 and not out and "16 texts in" in err, err
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(16)) and all(set(line) == {"row", "text"} for line in lines)
    code, out, err = run("predict", tmp_path / "run", "--data", data, "--json", *given)
    assert code == 0 and [json.loads(line) for line in out.splitlines()] == lines

    assert run("merge", tmp_path / "run", "--output", tmp_path / "merged")[0] == 0
    model = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "merged")
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    if task == "chat":
        prompts = [
            tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, tokenize=True)["input_ids"]
            for row in rows
        ]
    else:
        prompts = [tokenizer(row["source"] + "\n")["input_ids"] for row in rows]
    expected = theirs(model, tokenizer, prompts, num_beams=2, max_new_tokens=12)
    expected = [text.strip() for text in expected] if task == "chat" else expected
    assert [line["text"] for line in lines] == expected and len(set(expected)) > 1


def test_a_model_that_was_not_tuned_writes_as_its_checkpoint_says(run, place, tmp_path):
    common = ("predict", "--model", place / "base", "--task", "chat", "--data", place / "chats.jsonl")
    code, out, err = run(*common, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [line["row"] for line in lines] == list(range(16)), err
    assert run(*common, "--batch-size", 3)[1] == out and run(*common, "--seed", 1)[1] != out  # it draws
    settings = tmp_path / "out.jsonl.settings.json"
    assert run(*common, "--output", tmp_path / "out.jsonl", "--json")[1] == json.dumps(
        {"output": str(tmp_path / "out.jsonl"), "rows": 16, "without_text": 0}
    ) + "\n"  # fmt: skip
    said = json.loads(settings.read_text())["decoding"]
    assert (said["do_sample"], said["temperature"], said["max_new_tokens"]) == (True, 0.5, 7)
    assert (tmp_path / "out.jsonl").read_text() == out


def test_rows_that_cannot_be_read_and_columns_of_ones_own(run, place, tmp_path):
    data = jsonl(tmp_path / "new.jsonl", [{"q": "what?"}, {"q": None}, {"q": "how?", "a": "so"}])
    common = ("--model", place / "base", "--task", "chat", "--data", data, "--no-do-sample", "--max-new-tokens", 3)
    code, out, err = run("predict", *common, "--instruction-column", "q", "--output-column", "a")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0, err
    assert [line["row"] for line in lines] == [0, 1, 2]
    assert lines[1] == {"row": 1, "text": "", "reason": "no instruction"} and set(lines[2]) == {"row", "text"}


def test_other_settings_and_other_files_are_refused(run, place, tmp_path):
    common = ("predict", "--model", place / "base", "--task", "chat", "--data", place / "chats.jsonl")
    common = (*common, "--output", tmp_path / "out.jsonl", "--no-do-sample", "--max-new-tokens")
    assert run(*common, 3)[0] == 0
    whole = (tmp_path / "out.jsonl").read_bytes()
    (tmp_path / "out.jsonl").write_bytes(whole[:-40])
    one_line(*run(*common, 4)[::2], "out.jsonl was begun with other settings", "max_new_tokens: 3 there, 4 now")
    assert run(*common, 3)[0] == 0 and (tmp_path / "out.jsonl").read_bytes() == whole
    assert run(*common, 4, "--overwrite")[0] == 0 and (tmp_path / "out.jsonl").read_bytes() != whole
    (tmp_path / "out.jsonl.settings.json").unlink()
    one_line(*run(*common, 4)[::2], "was not begun by this command", "--overwrite")
    (tmp_path / "pipe").symlink_to("/dev/null")
    assert run(*common[:7], "--output", tmp_path / "pipe", *common[9:], 3)[0] == 0  # is no file to go on with
    assert not (tmp_path / "pipe.settings.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-new-tokens", "0"], ["--max-new-tokens is 0", "1 or more"]),
        (["--num-beams", "2", "--do-sample"], ["--do-sample", "--num-beams"]),
        (["--decoding", "e2e", "--do-sample"], ["--do-sample", "--decoding"]),
        (["--decoding", "e3e"], ["--decoding is 'e3e'; give e2e"]),
        (["--no-do-sample", "--temperature", "0.5"], ["--temperature is 0.5, which has no effect", "--do-sample"]),
        (["--no-do-sample", "--length-penalty", "2"], ["--length-penalty is 2.0, which has no effect", "--num-beams"]),
        (["--max-new-tokens", "200"], ["the longest prompt leaves", "--max-new-tokens is 200", "--max-length"]),
        (["--max-length", "500"], ["--max-length", "256"]),
        (["--batch-size", "0"], ["--batch-size is 0"]),
        (["--messages-column", "turns"], ["no column 'turns'"]),
        (["--text-column", "text"], ["chat", "text_column"]),
        (["--task", "text"], ["text predicts no label"]),
        (["--task", "next-token"], ["next-token", "tune it first"]),
        (["--task", "chatt"], ["did you mean chat"]),
        (["--model", "{bert}"], ["is an encoder"]),
    ],
    ids=" ".join,
)
def test_mistakes(run, place, tiny_folder, arguments, words):
    named = [] if "--task" in arguments else ["--task", "chat"]
    named += [] if "--model" in arguments else ["--model", str(place / "base")]
    given = [one.format(bert=tiny_folder("bert")) for one in arguments]
    one_line(*run("predict", *named, "--data", place / "chats.jsonl", *given)[::2], *words)


@pytest.mark.slow
def test_mistakes_with_what_was_tuned(run, place, tmp_path, tiny_folder, files):
    one_line(*run("predict", "--data", files["test"])[::2], "DIR is missing", "--model and --task")
    one_line(*run("predict", "--data", files["test"], "--model", place / "base")[::2], "--task is missing")
    assert (
        run("tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "b", *FAST[:6])[0]
        == 0
    )
    one_line(
        *run("predict", tmp_path / "b", "--data", files["test"], "--num-beams", 2)[::2],
        "--num-beams is 2, which has no effect", "predicts labels",
    )  # fmt: skip
    one_line(*run("predict", tmp_path / "b", "--data", files["test"], "--task", "chat")[::2], "--task has no effect")
    code, out, _ = run("predict", tmp_path / "b", "--data", files["test"], "--output", tmp_path / "l.jsonl", "--json")
    assert code == 0 and json.loads(out)["rows"] == 14
    common = ("--model", place / "base", "--train", jsonl(tmp_path / "t.jsonl", rows_of(16)), *FAST)
    assert run("tune", *common, "--task", "text", "--output", tmp_path / "text")[0] == 0
    one_line(*run("predict", tmp_path / "text", "--data", files["test"])[::2], "text predicts no label", "merge")


@pytest.mark.slow
def test_killed_and_started_again(run, place, tmp_path):
    common = ["predict", "--model", place / "base", "--task", "chat", "--data", place / "chats.jsonl"]
    common += ["--batch-size", 1, "--max-new-tokens", 60, "--temperature", 1.0, "--output"]
    assert run(*common, tmp_path / "whole.jsonl")[0] == 0
    path, kills = tmp_path / "out.jsonl", 0
    while kills < 3:
        lines = len(path.read_bytes().splitlines()) if path.exists() else 0
        command = [sys.executable, "-m", "wheretune", *map(str, common), str(path)]
        going = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": SOURCE}, stderr=subprocess.DEVNULL)
        while going.poll() is None and (not path.exists() or len(path.read_bytes().splitlines()) < lines + 2):
            time.sleep(0.01)
        going.send_signal(signal.SIGKILL)
        going.wait()
        kills += 1
    assert 0 < len(path.read_bytes().splitlines()) < 16
    assert run(*common, path)[0] == 0
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_rows_that_cannot_be_answered_are_counted_and_none_at_all_is_an_error(run, place, tmp_path):
    asked = [{"role": "user", "content": "how is it?"}]
    some, none = jsonl(tmp_path / "some.jsonl", [{"messages": asked}, {"messages": []}]), tmp_path / "none.jsonl"
    jsonl(none, [{"messages": [{"role": "assistant", "content": "good"}]}, {"messages": []}])
    given = ("predict", "--model", place / "base", "--task", "chat", "--max-new-tokens", 3, "--data")
    code, out, err = run(*given, some)
    assert code == 0 and "1 of 2 rows without a text" in err
    assert [json.loads(line).get("reason") for line in out.splitlines()] == [None, "an empty conversation"]
    for data, more, words in (
        (none, (), "nothing stands before the answer"),
        (some, ("--bad-rows", "refuse"), "row 2"),
    ):
        code, out, err = run(*given, data, "--output", tmp_path / "out.jsonl", *more)
        one_line(code, err, words)
        assert not out and not list(tmp_path.glob("out.jsonl*"))
