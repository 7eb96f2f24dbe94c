"""Tasks of lm-eval: its numbers against log-probabilities summed by hand, what it may be given, what is refused.

Runs where lm-eval is installed (`pip install 'wheretune[eval]'`); the one case without it runs everywhere.
"""

import json
import sys

import pytest
import torch
import transformers as hf

from helpers.commands import FAST, one_line
from helpers.language import chats, kept
from helpers.models import WORDS
from wheretune.delta.opening import open_finetuned
from wheretune.lm_evaluation import _manager

ROWS = [
    {"question": f"{'who was it ' * (i % 3)}where is the {word}", "choices": ["hot", "good movie", f"at {i} one"],
     "gold": i % 3}
    for i, word in enumerate(WORDS[::3][:12])
]  # fmt: skip
CHOICES = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""
ROLLING = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list:
  - metric: bits_per_byte
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A small Llama that was tuned on conversations, and a folder of two tasks."""
    folder = tmp_path_factory.mktemp("tasks")
    chats(folder / "chats.jsonl"), kept(folder / "base", "llama")
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (folder / "own").mkdir()
    for name, text in (("own_choices", CHOICES), ("own_rolling", ROLLING)):
        (folder / "own" / f"{name}.yaml").write_text(text.format(name=name, data=folder / "rows.jsonl"))
    return folder


@pytest.fixture(scope="module")
def tuned(place):
    from wheretune.cli.app import main

    with pytest.raises(SystemExit) as left:
        main(list(map(str, (
            "tune", "--model", place / "base", "--train", place / "chats.jsonl", "--task", "chat", "--tuner", "lora",
            "--k", 2, "--output", place / "run", "--epochs", 3, "--batch-size", 4, "--learning-rate", "3e-2",
            "--max-length", 96,
        ))))  # fmt: skip
    assert left.value.code == 0
    return place / "run"


def by_hand(model, tokenizer, rows):
    """The share of rows whose gold answer has the highest sum of log-probabilities, and the same per character."""
    right = torch.zeros(2)
    for row in rows:
        found = []
        for choice in row["choices"]:
            start, whole = (
                tokenizer(text)["input_ids"] for text in (f"{row['question']}:", f"{row['question']}: {choice}")
            )
            with torch.no_grad():
                log_p = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
            total = sum(float(log_p[i - 1, whole[i]]) for i in range(len(start), len(whole)))
            found.append((total, total / len(choice)))
        right += torch.tensor([max(range(3), key=lambda j, k=k: found[j][k]) == row["gold"] for k in (0, 1)])
    return (right / len(rows)).tolist()


def bits(model, tokenizer, rows):
    """-log2 p of all texts, each after the end token, per byte."""
    total = 0.0
    for row in rows:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(row["question"])["input_ids"]]])
        with torch.no_grad():
            log_p = model(ids).logits[0].double().log_softmax(-1)
        total -= float(log_p[:-1].gather(1, ids[0, 1:, None]).sum())
    return total / torch.tensor(2.0).log().item() / sum(len(row["question"].encode()) for row in rows)


def test_numbers_are_those_of_sums_by_hand(run, place, tuned, tmp_path):
    pytest.importorskip("lm_eval", reason="needs pip install 'wheretune[eval]'")
    code, out, err = run(
        "evaluate", tuned, "--lm-eval", place / "own", "--base", "--batch-size", 5, "--json",
        "--output", tmp_path / "tasks.json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)["lm_eval"]
    assert json.loads((tmp_path / "tasks.json").read_text())["lm_eval"] == found
    base, tokenizer = (kind.from_pretrained(place / "base") for kind in (hf.AutoModelForCausalLM, hf.AutoTokenizer))
    again = open_finetuned(tuned).model.stack.model
    values = {}
    for name, model in (("metrics", again), ("base", base.eval())):
        each = {(one["task"], one["metric"]): one for one in found[name]}
        assert all(one["n"] == len(ROWS) for one in each.values())
        assert each["own_choices", "acc"]["higher_is_better"] and each["own_choices", "acc"]["stderr"] > 0
        accuracies = [each["own_choices", metric]["value"] for metric in ("acc", "acc_norm")]
        assert accuracies == pytest.approx(by_hand(model, tokenizer, ROWS))
        values[name] = each["own_rolling", "bits_per_byte"]["value"]
        assert values[name] == pytest.approx(bits(model, tokenizer, ROWS), rel=1e-4)
    assert abs(values["metrics"] - values["base"]) > 1e-3, "the tuned model is another"


def test_beside_data_in_a_table_and_by_name(run, place, tuned):
    pytest.importorskip("lm_eval", reason="needs pip install 'wheretune[eval]'")
    task, model = place / "own" / "own_choices.yaml", open_finetuned(tuned).model.stack.model
    code, out, err = run("evaluate", tuned, "--lm-eval", task, "--data", place / "chats.jsonl", "--limit", 4)
    assert code == 0, err
    expected = by_hand(model, hf.AutoTokenizer.from_pretrained(place / "base"), ROWS[:4])
    line = next(line.split() for line in out.splitlines() if " acc " in line)
    assert "perplexity" in out and f"{expected[0]:.4f}" in line and "4" in line
    code, out, err = run(
        "evaluate", tuned, "--lm-eval", "own_ch*", "--lm-eval-include", place / "own", "--limit", 0.25, "--json"
    )
    assert code == 0, err
    assert [one["n"] for one in json.loads(out)["lm_eval"]["metrics"]] == [3, 3]


def test_mistakes(run, place, tuned, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="needs pip install 'wheretune[eval]'")
    own = place / "own" / "own_choices.yaml"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no try is made, and none is repeated
    for given, words in (
        (["hellaswagg"], ["--lm-eval", "'hellaswagg'", "did you mean hellaswag?"]),
        ([","], ["--lm-eval names no task"]),
        ([tmp_path], ["holds no task"]),
        ([own, "--lm-eval-include", tmp_path / "no"], ["--lm-eval-include", "there is no folder"]),
        ([f"{own},{place / 'own'}"], ["own_choices is named twice"]),
        ([own, "--limit", 1.5], ["--limit is 1.5"]),
        ([own, "--metric", "accuracy"], ["no effect without --data"]),
        (["hellaswag"], ["cannot load the task hellaswag", "network"]),
    ):
        one_line(*run("evaluate", tuned, "--lm-eval", *given)[::2], *words)
    one_line(*run("evaluate", tuned, "--limit", 3, "--data", place / "chats.jsonl")[::2], "--limit has no effect")
    one_line(*run("evaluate", tuned)[::2], "--data is missing")
    broken = tmp_path / "broken.yaml"
    broken.write_text(own.read_text().replace("{{question}}", "{{question | nothing}}"))
    one_line(*run("evaluate", tuned, "--lm-eval", broken)[::2], "nothing", "task's file")


def test_an_encoder_is_refused(run, files, tiny_folder, tmp_path):
    code, _, err = run(
        "tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "r", *FAST
    )
    assert code == 0, err
    one_line(*run("evaluate", tmp_path / "r", "--lm-eval", "hellaswag")[::2], "asks a language model", "--data")


def test_without_lm_eval(run, tuned, monkeypatch):
    _manager.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    one_line(*run("evaluate", tuned, "--lm-eval", "hellaswag")[::2], "pip install 'wheretune[eval]'")
