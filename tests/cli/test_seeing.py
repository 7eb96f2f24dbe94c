"""Models that see on the command line: scored, tuned on their language model, judged, writing, merged."""

import json

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from helpers.commands import one_line
from helpers.language import chats
from helpers.language import kept as kept_reader
from helpers.vision import FAMILIES, as_processors_take_it, kept, rows, written
from wheretune.errors import ConfigError
from wheretune.exports.data import told
from wheretune.records.data import DataSpec

FAST = ("--task", "chat", "--epochs", 2, "--batch-size", 4)
EYES = ("vision", "projector", "connector")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeing")
    for family in FAMILIES:
        kept(folder / family, family)
    written(folder)
    return folder


def tuned(run, place, output, family="llava", *more, rate="1e-2"):
    code, _, err = run(
        "tune", "--model", place / family, "--train", place / "train.jsonl", "--output", output, *FAST,
        "--learning-rate", rate, *more,
    )  # fmt: skip
    assert code == 0, err
    return json.loads((output / "result.json").read_text())


def read_by_transformers(folder, place):
    """The model and its processor, as Transformers alone opens them, and what that makes of the rows."""
    model = hf.AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = hf.AutoProcessor.from_pretrained(folder)
    every = [json.loads(line) for line in (place / "train.jsonl").read_text().splitlines()]
    for row in every:
        messages = as_processors_take_it(row, place)
        yield (
            model,
            processor,
            row,
            processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt"),
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_way(family, run, place, tmp_path):
    """Tuned, judged and merged: Transformers alone then has the loss that `evaluate` says; the eyes are as before."""
    result = tuned(run, place, tmp_path / "run", family, "--layers", "1,3")
    assert "there are images" in result["saved"]["prefix cache"]
    code, out, err = run("evaluate", tmp_path / "run", "--data", place / "train.jsonl", "--base", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["metrics"][0]["value"] < found["base"][0]["value"]
    code, out, err = run("merge", tmp_path / "run", "--output", tmp_path / "merged", "--json")
    assert code == 0 and json.loads(out)["opens_with"] == "AutoModelForImageTextToText", err
    for folder, expected in ((tmp_path / "merged", found["metrics"]), (place / family, found["base"])):
        lost, tokens = 0.0, 0
        for model, processor, row, made in read_by_transformers(folder, place):
            text = processor.decode(made["input_ids"][0])
            start = text.rindex(row["messages"][1]["content"])
            end = text.index("</s>" if family == "llava" else "<|im_end|>", start)
            before = processor.tokenizer(text[:start].rstrip(" "), add_special_tokens=False)["input_ids"]
            after = processor.tokenizer(text[end:], add_special_tokens=False)["input_ids"]
            labels = made["input_ids"].clone()
            labels[:, : len(before)] = -100
            if len(after) > 1:
                labels[:, -len(after) + 1 :] = -100
            learned = int((labels[:, 1:] >= 0).sum())
            with torch.no_grad():
                lost += float(model(**made, labels=labels).loss) * learned
            tokens += learned
        assert lost / tokens == pytest.approx(expected[0]["value"], rel=1e-4)
    before, after = (load_file(one / "model.safetensors") for one in (place / family, tmp_path / "merged"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(".layers.1." in name or ".layers.3." in name for name in changed)
    assert not any(word in name for name in changed for word in EYES)


def test_eyes_stay_frozen_when_all_else_trains(run, place, tmp_path):
    result = tuned(run, place, tmp_path / "run", "llava", "--layers", "all", "--tuner", "full:embeddings=true")
    run("merge", tmp_path / "run", "--output", tmp_path / "merged")
    before, after = (load_file(one / "model.safetensors") for one in (place / "llava", tmp_path / "merged"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if not any(word in name for word in (*EYES, "lm_head"))}
    trained = sum(before[name].numel() for name in changed)
    assert result["plan"]["cost"]["trainable_parameters"] == trained


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_opens_what_its_tuner_trained_on_the_language_model_alone(family, run, place, tmp_path):
    from peft import PeftModel

    tuned(run, place, tmp_path / "run", family, "--layers", "1,3", "--tuner", "lora:r=2")
    run("merge", tmp_path / "run", "--output", tmp_path / "merged")
    names = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert names and all(".layers.1." in name or ".layers.3." in name for name in names)
    assert not any(word in name for name in names for word in EYES)
    base = hf.AutoModelForImageTextToText.from_pretrained(place / family).eval()
    adapted = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").eval()
    for model, _, _, made in list(read_by_transformers(tmp_path / "merged", place))[:3]:
        with torch.no_grad():
            torch.testing.assert_close(adapted(**made).logits, model(**made).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scorer", ("cosine-centrality", "gradient-norm", "semantic-deviation"))
def test_scored_with_its_images(scorer, run, place, tmp_path):
    """A plan of the scores is tuned; what is seen moves the scores."""
    ask = ("score", "--model", place / "llava", "--train", place / "train.jsonl", "--task", "chat", "--scorer", scorer)
    code, _, err = run(*ask, "--output", tmp_path / "scores.json")
    assert code == 0, err
    every = [json.loads(line) for line in (place / "train.jsonl").read_text().splitlines()]
    others = [{**row, "images": row["images"][::-1] if len(row["images"]) > 1 else row["images"]} for row in every]
    (place / "turned.jsonl").write_text("\n".join(map(json.dumps, others)))
    run(*ask, "--train", place / "turned.jsonl", "--output", tmp_path / "turned.json")
    one, two = (
        [layer["score"] for layer in json.loads((tmp_path / name).read_text())["layers"]]
        for name in ("scores.json", "turned.json")
    )
    assert one != two and one == pytest.approx(two, rel=0.5)
    run("plan", tmp_path / "scores.json", "--k", 2, "--output", tmp_path / "plan.json")
    tuned(run, place, tmp_path / "run", "llava", "--plan", tmp_path / "plan.json")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_what_transformers_writes(family, run, place, tmp_path):
    """Greedily, row by row, whatever the batch."""
    tuned(run, place, tmp_path / "run", family, "--layers", "2,3", rate="1e-4")
    run("merge", tmp_path / "run", "--output", tmp_path / "merged")
    ask = ("predict", tmp_path / "run", "--data", place / "train.jsonl", "--max-new-tokens", 6)
    code, _, err = run(*ask, "--output", tmp_path / "all.jsonl")
    assert code == 0, err
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    expected = []
    for model, processor, row, _ in read_by_transformers(tmp_path / "merged", place):
        messages = as_processors_take_it(row, place)[:1]
        made = processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )
        ends = [processor.tokenizer.convert_tokens_to_ids(one) for one in ("</s>", "<|im_end|>")]
        with torch.no_grad():
            ids = model.generate(**made, max_new_tokens=6, do_sample=False, eos_token_id=ends)
        expected.append(processor.decode(ids[0, made["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    assert [json.loads(line)["text"] for line in lines] == expected and len(set(expected)) > 2
    run(*ask, "--output", tmp_path / "one.jsonl", "--batch-size", 1)
    assert (tmp_path / "one.jsonl").read_text().splitlines() == lines


def test_the_preview_has_the_tokens_that_the_model_sees(run, place):
    code, out, err = run("preview", "--model", place / "llava", "--train", place / "train.jsonl", "--json")
    assert code == 0, err
    shown = [json.loads(line) for line in out.splitlines()]
    for one, (_, _, _, made) in zip(shown, read_by_transformers(place / "llava", place), strict=True):
        assert one["ids"] == made["input_ids"][0].tolist() and one["left_out"] is None


def test_a_model_without_eyes(run, place, tmp_path):
    """Each command says so in one line, and no folder is left behind."""
    kept_reader(tmp_path / "reader")
    data = ("--train", place / "train.jsonl", "--task", "chat")
    code, _, err = run("preview", "--model", tmp_path / "reader", *data)
    one_line(code, err, "reader has no eyes: it reads text alone", "images")
    code, _, err = run("score", "--model", tmp_path / "reader", *data, "--output", tmp_path / "scores.json")
    one_line(code, err, "has no eyes")
    code, _, err = run("tune", "--model", tmp_path / "reader", "--output", tmp_path / "run", "--layers", 1, *data)
    one_line(code, err, "has no eyes")
    chats(tmp_path / "texts.jsonl")
    code, _, err = run(
        "tune", "--model", tmp_path / "reader", "--train", tmp_path / "texts.jsonl", "--output", tmp_path / "run",
        "--layers", 1, *FAST,
    )  # fmt: skip
    assert code == 0, err
    for command, more in (("evaluate", ()), ("predict", ("--output", tmp_path / "out.jsonl"))):
        code, _, err = run(command, tmp_path / "run", "--data", place / "train.jsonl", *more)
        one_line(code, err, "has no eyes")
    assert not (tmp_path / "out.jsonl").exists() or not (tmp_path / "out.jsonl").read_text()


def test_images_that_are_not_there(run, place, tmp_path):
    """Before a model is opened; and of a tuned model nothing is lost."""
    every = rows(tmp_path, 4)
    every[1]["images"] = ["pictures/gone.png"]
    path = written(tmp_path, every)
    code, _, err = run("tune", "--model", place / "llava", "--train", path, "--output", tmp_path / "run", *FAST)
    one_line(code, err, "the image pictures/gone.png, which is not there", "row 2", "--bad-rows skip")
    assert not (tmp_path / "run").exists()
    tuned(run, place, tmp_path / "tuned", "llava", "--layers", 1)
    code, _, err = run("predict", tmp_path / "tuned", "--data", path, "--output", tmp_path / "out.jsonl")
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines[1]["text"] == "" and "gone.png" in lines[1]["reason"] and "reason" not in lines[2]
    assert "1 of 4 rows of " in err and "gone.png" in err and "3 texts in" in err and "1 rows without" in err
    for command, output in (("predict", "p.jsonl"), ("evaluate", "e.json")):
        given = (command, tmp_path / "tuned", "--data", path, "--output", tmp_path / output)
        code, out, err = run(*given, "--bad-rows", "refuse")
        one_line(code, err, "1 of 4 rows of ", "gone.png, which is not there, in row 2")
        assert not out and not list(tmp_path.glob(f"{output}*")) and not list(tmp_path.glob("predictions-*"))
        gone = written(tmp_path, [every[1]] * 4, "gone.jsonl")
        code, out, err = run(command, tmp_path / "tuned", "--data", gone, "--output", tmp_path / output)
        one_line(code, err, "4 of 4 rows of ", "gone.png")
        assert not out and not list(tmp_path.glob(f"{output}*"))


def test_what_is_refused_of_images(run, place, tmp_path):
    ask = ("tune", "--model", place / "llava", "--train", place / "train.jsonl", "--output", tmp_path / "run", *FAST)
    code, _, err = run(*ask, "--layers", 1, "--pack")
    one_line(code, err, "texts with images cannot be packed", "do not pack them")
    with pytest.raises(ConfigError, match="has images, which no other tool is told of yet"):
        told("TRL", DataSpec(str(place / "train.jsonl")), tmp_path)
