"""Every mistake is one line that names the culprit and a way out, and nothing is written."""

import json
import shutil

import pytest

from helpers.commands import one_line
from helpers.texts import jsonl, sentences


def cut_short(model, folder):
    """A copy of a model half of whose weights arrived."""
    shutil.copytree(model, folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "--train", "{train}"], ["--model is missing"]),
        (["score", "--model", "{model}"], ["--train is missing"]),
        (["score", "--model", "/no/model", "--train", "{train}"], ["/no/model"]),
        (["score", "--model", "{train}", "--train", "{train}"], ["is a file", "the folder that it is in"]),
        (["score", "--model", "{cut}", "--train", "{train}"], ["cannot open the model", "download its weights again"]),
        (["tune", "--output", "{new}", "--model", "{model}", "--train", "{train}", "--validation", "0.1"],
         ["--validation is 0.1", "10%"]),
        (["score", "--model", "some/model-on-the-hub", "--train", "{train}"], ["some/model-on-the-hub", "hub"]),
        (["score", "--model", "{model}", "--train", "/no/file.csv"], ["no such file: /no/file.csv"]),
        (["score", "--model", "{model}", "--train", "{train}", "--text-column", "x"], ["no column 'x'", "text, label"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "cosine-centr"], ["cosine-centrality"]),
        (["score", "--model", "{model}", "--train", "{train}", "--max-length", "0"], ["--max-length is 0"]),
        (["score", "--model", "{model}", "--train", "{train}", "--batch-size", "0"], ["--batch-size is 0"]),
        (["score", "--model", "{model}", "--train", "{train}", "--nonsense"], ["--nonsense", "--help"]),
        (["score", "--model", "{model}", "--train", "{train}", "--seed", "x"], ["--seed is 'x'", "whole number"]),
        (["score", "--model", "{albert}", "--train", "{train}"], ["albert_layer_groups"]),
        (["score", "--model", "{broken}", "--train", "{train}"], ["output of layer 2 is not finite", "row"]),
        (["plan", "{scores}", "--select", "block-high"], ["'block-high'", "block-highest"]),
        (["plan", "{scores}", "--select", "explicit", "--layers", "1,9"], ["no layer 9"]),
        (["plan", "{scores}", "--select", "explicit"], ["no layer is named"]),
        (["plan", "{scores}", "--head", "big"], ["'big'"]),
        (["plan", "{train}"], ["not JSON"]),
        (["plan", "/no/scores.json"], ["cannot read"]),
        (["plan", "{scores}", "--model", "{model}"], ["the one or the other"]),
        (["tune", "--output", "{new}", "--train", "{train}"], ["--plan", "is missing"]),
        (["tune", "--output", "{new}", "--model", "{model}", "--train", "{train}", "--epochs", "0"], ["--epochs is 0"]),
        (["tune", "--output", "{taken}", "--model", "{model}", "--train", "{train}"], ["already exists"]),
        (["tune", "--output", "{new}", "--model", "{model}", "--train", "{one}"], ["one class only"]),
        (["tune", "--output", "{new}", "--model", "{model}", "--train", "{empty}"], ["empty text in rows 2, 3"]),
        (["evaluate", "{taken}", "--data", "{test}"], ["no finished delta"]),
        (["merge", "{taken}", "--output", "{taken}"], ["already exists"]),
        (["compare", "--output", "{new}", "--model", "{model}", "--train", "{train}", "--test", "{test}",
          "--methods", "ful"], ["'ful'", "full"]),
        (["compare", "--output", "{new}", "--model", "{model}", "--train", "{train}", "--test", "{test}",
          "--learning-rates", "1e-3,1e-4"], ["--validation"]),
        (["compare", "--output", "{new}", "--model", "{model}", "--train", "{train}", "--test", "{other}"],
         ["'never seen'", "row 1"]),
        (["compare", "--output", "{new}", "--model", "{model}", "--train", "{train}", "--test", "{test}", "--k", "9",
          "--methods", "top"], ["k is 9"]),
        (["nonsense"], ["nonsense"]),
        (["plan", "{scores}", "--select", "random", "--seed", "-1"], ["--seed is -1"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "random:seed=abc"], ["'abc'"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "cka,cka"], ["each once"]),
        (["score", "--model", "{model}", "--train", "{half}"], ["half a character", "row 2"]),
        (["score", "--model", "my model", "--train", "{train}"], ["my model"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "semantic-deviation"], ["is an encoder"]),
        (["score", "--model", "{model}", "--train", "{bare}", "--scorer", "gradient-norm"], ["no column 'label'"]),
        (["score", "--model", "{model}", "--train", "{bare}", "--scorer", "layer-probe"], ["no column 'label'"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "fisher:per=text"], ["fisher"]),
        (["score", "--model", "{model}", "--train", "{train}", "--shard", "0/2"], ["--shard is '0/2'", "I/N"]),
        (["score", "--model", "{model}", "--train", "{train}", "--shard", "30/30"], ["has no batch"]),
        (["score", "--model", "{model}", "--train", "{train}", "--shard", "1/2", "--figures", "f"], ["--figures"]),
        (["score", "--model", "{model}", "--train", "{train}", "--compare"], ["several scorers"]),
        (["score", "--model", "{model}", "--train", "{train}", "--preset", "cka-decoder"], ["take cka-encoder"]),
        (["score", "--model", "{model}", "--train", "{train}", "--preset", "ckaencoder"], ["cka-encoder"]),
        (["score", "--model", "{model}", "--train", "{train}", "--ratio", "0.1"], ["--ratio", "0.1 of 4 layers"]),
        (["score", "--model", "{model}", "--train", "{train}", "--ratio", "0.5", "--k", "2"], ["--k and --ratio"]),
        (["score", "--model", "{model}", "--train", "{train}", "--near", "2"], ["--near", "is 2"]),
        (["score", "--model", "{model}", "--train", "{train}", "--select", "top", "--near", "0.1"], ["top"]),
        (["score", "--model", "{model}", "--train", "{train}", "--select", "budget", "--budget", "0.1"], ["no layer"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "cka", "--select", "auto"], ["centrality"]),
        (["score", "--model", "{model}", "--train", "{train}", "--before", "x.json"], ["--before has no effect"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "io-cosine", "--standardise"], ["io-"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "gradient-norm", "--pooling", "mean"],
         ["--pooling has no effect"]),
        (["score", "--model", "{model}", "--train", "{train}", "--verbalizer", "a=b"], ["--verbalizer has no effect"]),
        (["score", "--model", "{model}", "--train", "{train}", "--budget", "0.3"], ["--budget has no effect"]),
        (["score", "--model", "{model}", "--train", "{train}", "--select", "suffix", "--k", "2"], ["--k has no"]),
        (["score", "--model", "{model}", "--train", "{train}", "--shard", "1/2", "--k", "2"], ["--k has no"]),
        (["score", "--model", "{model}", "--train", "{train}", "--output", "{taken}"], ["is a folder"]),
        (["score", "--model", "{model}", "--train", "{train}", "--seed", "99999999999999999999"], ["4294967295"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "layer-probe:samples=2"], ["samples=2"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "layer-probe:samples=x"], ["samples is"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "layer-probe:tuner=head-only"],
         ["head-only tunes no layer"]),
        (["plan", "{scores}", "--layers", "1", "--k", "2"], ["--k has no"]),
        (["plan", "{scores}", "--scorer", "cka:estimator=biased"], ["no scores by"]),
        (["merge-scores"], ["a shard is missing"]),
        (["merge-scores", "{train}"], ["is no shard"]),
        (["merge-scores", "/no/shard"], ["/no/shard"]),
        (["tune", "--output", "{new}", "--model", "{model}", "--train", "{train}", "--max-length", "99"], ["99"]),
        (["tune", "--output", "{new}", "--model", "{albert}", "--train", "{train}"], ["albert_layer_groups"]),
        (["tune", "--output", "{new}", "--model", "{broken}", "--train", "{train}"], ["layer 2 is not finite"]),
        (["compare", "--output", "{new}", "--model", "{albert}", "--train", "{train}", "--test", "{test}"], ["albert"]),
        (["compare", "--output", "{new}", "--model", "{broken}", "--train", "{train}", "--test", "{test}"],
         ["layer 2 is not finite"]),
        (["tune", "--output", "{new}", "--plan", "{bent}", "--train", "{train}"], ["a layer is chosen that is not"]),
    ],
    ids=lambda value: "-".join(value)[:60] if isinstance(value, list) else None,
)  # fmt: skip
def test_mistakes(run, files, scored, tiny_folder, odd_models, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    scored = scored.rename(tmp_path / "made.json")  # not where `score` writes
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("years of work")
    places = files | {
        "model": tiny_folder("bert"),
        "scores": scored,
        "new": tmp_path / "new",
        "taken": tmp_path / "taken",
        "one": jsonl(tmp_path / "one.jsonl", [{"text": "a", "label": 1}] * 5),
        "empty": jsonl(tmp_path / "empty.jsonl", [{"text": t, "label": i} for i, t in enumerate(["a", "", " \n"])]),
        "other": jsonl(tmp_path / "other.jsonl", [{"text": "a", "label": "never seen"}]),
        "half": jsonl(tmp_path / "half.jsonl", [{"text": "a", "label": 0}, {"text": "\ud83d", "label": 1}]),
        "bare": jsonl(tmp_path / "bare.jsonl", [{"text": text} for text in sentences(9)]),
        "albert": odd_models[0],
        "broken": odd_models[1],
        "cut": cut_short(tiny_folder("bert"), tmp_path / "cut"),
        "bent": tmp_path / "bent.json",
    }
    run("plan", scored, "--output", tmp_path / "bent.json")
    bent = json.loads((tmp_path / "bent.json").read_text()) | {"layers": [99]}
    (tmp_path / "bent.json").write_text(json.dumps(bent))
    code, _, err = run(*[argument.format(**places) for argument in arguments])
    one_line(code, err, *words)
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["thesis.tex"]
