"""Language models on the command line: tuned in one line, measured beside their base model and other data, merged."""

import json

import pytest
import transformers as hf

from helpers.commands import one_line
from helpers.language import chats, kept, plain_loss
from helpers.models import tiny_model
from wheretune.model.opening import load_tokenizer
from wheretune.records.base import Spec
from wheretune.records.data import DataSpec
from wheretune.tasks.base import task_of
from wheretune.tasks.loading import load_data

FAST = ("--epochs", 2, "--batch-size", 8, "--learning-rate", "1e-2", "--max-length", 96)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    chats(folder / "chats.jsonl"), kept(folder / "base")
    (folder / "other.txt").write_text("who was it, and where\nwhat there is\n" * 6)
    rows = [{"text": "it is " * (i % 3 + 1), "label": ("good", "bad")[i % 2]} for i in range(20)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def rows_of(place, model, task, source):
    data = load_data(DataSpec(str(place / source), Spec(task), max_length=96))
    return task_of(data.info).encode(data, load_tokenizer(str(model)), 96)


def test_one_line_and_what_comes_of_it(run, place, tmp_path):
    code, _, err = run(
        "tune", "--model", place / "base", "--train", place / "chats.jsonl", "--task", "chat",
        "--output", tmp_path / "run", "--epochs", 4, "--max-length", 96, "--batch-size", 4,
    )  # fmt: skip
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["plan"]["head"]["name"] == "lm" and result["plan"]["cost"]["learned"] > 1

    code, out, err = run(
        "evaluate", tmp_path / "run", "--data", place / "chats.jsonl", "--base", "--also", place / "other.txt",
        "--metric", "vocabulary-accuracy", "--json", "--output", tmp_path / "test.json",
    )  # fmt: skip
    assert code == 0, err
    found, base = json.loads(out), hf.AutoModelForCausalLM.from_pretrained(place / "base").eval()
    assert [one["name"] for one in found["metrics"]] == ["loss", "perplexity", "vocabulary-accuracy"]
    rows = rows_of(place, place / "base", "chat", "chats.jsonl")
    assert found["base"][0]["value"] == pytest.approx(plain_loss(base, rows), rel=1e-4)
    assert found["metrics"][0]["value"] < found["base"][0]["value"], "it has learned"
    other = found["also"][0]
    texts = rows_of(place, place / "base", "text", "other.txt")
    assert other["data"] == str(place / "other.txt")
    assert other["base"][0]["value"] == pytest.approx(plain_loss(base, texts), rel=1e-4)
    assert len((tmp_path / "predictions-test.jsonl").read_text().splitlines()) == 16

    code, out, err = run("merge", tmp_path / "run", "--output", tmp_path / "merged", "--json")
    assert code == 0 and json.loads(out)["opens_with"] == "AutoModelForCausalLM"
    merged = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert found["metrics"][0]["value"] == pytest.approx(plain_loss(merged, rows), rel=1e-3)


def test_the_next_token_is_predicted_and_measured(run, place, tmp_path):
    code, _, err = run(
        "tune", "--model", place / "base", "--train", place / "rows.jsonl", "--test", place / "rows.jsonl",
        "--task", "next-token", "--output", tmp_path / "run", *FAST, "--epochs", 8,
    )  # fmt: skip
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    names = ["macro-f1", "accuracy", "vocabulary-accuracy", "loss", "perplexity"]
    assert [one["name"] for one in result["metrics"]["test"]] == names
    code, out, _ = run("predict", tmp_path / "run", "--data", place / "rows.jsonl")
    answers = [json.loads(line) for line in out.splitlines()]
    right = [one["label"] == ("good", "bad")[i % 2] for i, one in enumerate(answers)]
    assert code == 0 and len(answers) == 20
    assert sum(right) / 20 == pytest.approx(result["metrics"]["test"][1]["value"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions-test.jsonl").read_text().splitlines()]
    assert [line["predicted"] for line in lines] == [one["label"] for one in answers]


@pytest.mark.slow
def test_compare_and_cost(run, place, tmp_path):
    code, out, err = run(
        "compare", "--model", place / "base", "--train", place / "chats.jsonl", "--test", place / "chats.jsonl",
        "--task", "chat", "--output", tmp_path / "compared", "--seeds", 0, "--k", 1, "--epochs", 1, "--batch-size", 8,
        "--methods", "full,top+lora,gradient-norm,head-only", "--max-length", 96, "--learning-rates", "1e-3", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert "head-only is left out" in err
    table = (tmp_path / "compared" / "table.md").read_text()
    assert table.count("loss") == 3
    plan = next((tmp_path / "compared" / "runs").glob("top+lora/*/*/plan.json"))
    code, out, err = run("cost", "--plan", plan, "--data", place / "chats.jsonl", "--task", "chat",
        "--max-length", 96, "--json",
    )  # fmt: skip
    assert code == 0, err
    rows = rows_of(place, place / "base", "chat", "chats.jsonl")
    learned = sum(label >= 0 for row in rows for label in row["labels"]) / len(rows)
    assert json.loads(out)["learned"] == pytest.approx(learned)


def test_mistakes(run, place, tmp_path):
    bert, tokenizer = tiny_model("bert")
    bert.save_pretrained(tmp_path / "bert"), tokenizer.save_pretrained(tmp_path / "bert")
    common = ("--train", place / "chats.jsonl", "--task", "chat", "--output", tmp_path / "run")
    one_line(*run("tune", "--model", tmp_path / "bert", *common)[::2], "is an encoder")
    model = ("--model", place / "base")
    one_line(*run("tune", *model, *common, "--head", "concat")[::2], "--head", "concat reads one token per text")
    one_line(*run("tune", *model, *common, "--tuner", "head-only")[::2], "nothing would train")
    one_line(
        *run("tune", *model, *common, "--test", place / "chats.jsonl", "--metric", "accuracy")[::2],
        "accuracy reads classes",
    )
    one_line(*run("tune", *model, *common, "--max-length", 3)[::2], "no row of", "--max-length")
    smoothing = ("--trainer-arg", "label_smoothing_factor=0.1")
    one_line(*run("tune", *model, *common, *smoothing)[::2], "--trainer-arg", "smooths labels")
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


@pytest.mark.parametrize("command", ["tune", "plan"])
def test_an_output_matrix_that_cannot_train_is_refused_before_the_scoring(
    run, decoder, place, tmp_path, monkeypatch, command
):
    monkeypatch.setattr("wheretune.pipeline.score", lambda *_, **__: pytest.fail("the layers were scored"))
    code, _, err = run(
        command, "--model", decoder, "--train", place / "rows.jsonl", "--task", "next-token", "--head", "lm:train=true",
        "--output", tmp_path / "out",
    )  # fmt: skip
    one_line(code, err, "its embeddings too", "leave the head lm frozen")
    assert not (tmp_path / "out").exists()
