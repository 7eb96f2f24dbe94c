"""T5 and BART, all the way: scored by stack, planned, tuned, written, judged, merged, opened by Transformers alone."""

import json
from itertools import product

import numpy as np
import pytest
import torch
import transformers as hf
from peft import PeftModel
from safetensors.torch import load_file

from helpers.commands import one_line
from helpers.often import often
from helpers.texts import jsonl, rows_of
from helpers.two_stacks import DECODER, ENCODER, KINDS, model_of, rows, saved
from wheretune import pipeline
from wheretune.applying import apply
from wheretune.catalog import build
from wheretune.delta.merging import merge
from wheretune.delta.opening import open_finetuned
from wheretune.errors import ModelError, PlanError
from wheretune.heads.lm import LM
from wheretune.heads.speaking import SpeakingModel
from wheretune.model.apart import read_apart
from wheretune.model.finding import find_layers
from wheretune.model.freezing import exclude_frozen
from wheretune.model.identity import describe
from wheretune.planning import plan
from wheretune.records.base import Spec, load
from wheretune.records.data import DataSpec
from wheretune.records.model import ModelSpec
from wheretune.records.plan import Plan
from wheretune.records.runs import RunSpec, TrainSettings
from wheretune.records.scores import Reading, load_scores
from wheretune.scoring.one_pass import score
from wheretune.selectors.fixed import Explicit, Top
from wheretune.selectors.ranked import Lowest
from wheretune.selectors.stacks import OfStack
from wheretune.tasks.base import task_of
from wheretune.tasks.loading import load_data
from wheretune.tuners.whole_layers import WholeLayers

GENERATION = Spec("generation")


def data_of(path=None, n=24, **settings):
    spec = DataSpec("here" if path is None else jsonl(path, rows(n)), Spec("generation", settings))
    return load_data(spec, rows=rows(n)) if path is None else spec


def batch_of(tokenizer, n=7):
    """Rows as Transformers' own recipes make them: labels by `text_target`, -100 where there is padding."""
    every = rows(n)
    batch = tokenizer([row["source"] for row in every], padding=True, return_tensors="pt")
    labels = tokenizer(text_target=[row["target"] for row in every], padding=True, return_tensors="pt")
    return dict(batch) | {"labels": labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)}


# --- what is read and learned ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_their_loss_are_those_of_transformers(kind):
    model, tokenizer = model_of(kind)
    theirs = batch_of(tokenizer)
    read_apart(tokenizer)
    data = data_of(n=7)
    ours = task_of(data.info).collator(tokenizer)(task_of(data.info).encode(data, tokenizer, 64))
    assert set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    top = SpeakingModel(find_layers(model), task_of(data.info))
    expected = model(**theirs)
    assert top.train()(**ours).loss.item() == pytest.approx(expected.loss.item(), rel=1e-6)
    top(**ours).loss.backward()
    mine = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model(**theirs).loss.backward()
    for name, parameter in model.named_parameters():
        if "lm_head" not in name and "shared" not in name and "embed" not in name:  # the output matrix stays frozen
            torch.testing.assert_close(mine[name], parameter.grad, atol=1e-6, rtol=1e-4)
    numbers = top.eval()(**ours).logits
    for row, label, logits in zip(numbers, theirs["labels"], expected.logits, strict=True):
        known = label != -100
        lost = torch.nn.functional.cross_entropy(logits[known], label[known], reduction="sum")
        right = (logits[known].argmax(1) == label[known]).sum()
        torch.testing.assert_close(row, torch.stack([lost, known.sum(), right]).float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_templates_and_lengths(kind):
    _, tokenizer = model_of(kind)
    read_apart(tokenizer)
    data = load_data(DataSpec("here", Spec("generation", {"template": "say {source} \\n{target}"})),
                     rows=[{"source": "good bad the", "target": ["hot", "the </s> plot"]}])  # fmt: skip
    first, second = task_of(data.info).examples(data, tokenizer, 64)
    assert list(first.source) == tokenizer("say good bad the")["input_ids"] and first.source == second.source
    assert list(first.ids) == tokenizer(text_target="hot")["input_ids"] and all(first.learned)
    assert second.ids.count(tokenizer.eos_token_id) == 1  # what people wrote is words
    short = next(iter(task_of(data.info).examples(data, tokenizer, 4)))
    around = tokenizer("x")["input_ids"]
    assert len(short.source) == 4 and short.source[-1] == around[-1] and short.cut == len(first.source) - 4
    prompts = list(task_of(data.info).prompts(data, tokenizer, 64))
    assert [one.ids for one in prompts] == [first.source]


@pytest.mark.parametrize("task", ["text", "chat", "next-token"])
def test_tasks_of_one_text_are_refused(task):
    _, tokenizer = model_of("t5")
    read_apart(tokenizer)
    row = {"text": "good", "label": "bad", "messages": [{"role": "user", "content": "a"},
                                                         {"role": "assistant", "content": "b"}]}  # fmt: skip
    data = load_data(DataSpec("here", Spec(task)), rows=[row, row | {"label": "good"}])
    with pytest.raises(ModelError, match="an encoder-decoder reads one text and writes another"):
        task_of(data.info).encode(data, tokenizer, 64)


# --- scored by stack ------------------------------------------------------------------------------


def states_of(model, tokenizer, place):
    """By Transformers: the encoder's states at its first token, the decoder's where it predicts."""
    batch = batch_of(tokenizer)
    with torch.no_grad():
        found = model(**batch, output_hidden_states=True)
    known = (batch["labels"] != -100).unsqueeze(-1)
    mask = batch["attention_mask"].unsqueeze(-1)

    def of(states, weights):
        if place == "mean":
            return torch.stack([(state * weights).sum(1) / weights.sum(1) for state in states], 1).double().numpy()
        return torch.stack([state[:, 0] for state in states], 1).double().numpy()

    return of(found.encoder_hidden_states, mask), of(found.decoder_hidden_states, known)


def centrality(states):
    """Eq. 1 of PRiSM in NumPy: the mean cosine of a layer's state to every other's, the embeddings left out."""
    unit = states[:, 1:] / np.linalg.norm(states[:, 1:], axis=-1, keepdims=True)
    cosines = unit @ unit.transpose(0, 2, 1)
    count = cosines.shape[1]
    return ((cosines.sum(2) - 1) / (count - 1)).mean(0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["token", "mean", "targets"])
def test_each_stack_is_scored_by_itself(kind, pooling):
    model, tokenizer = model_of(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = states_of(model, tokenizer, "token" if pooling == "token" else "mean")
    found = score(model, tokenizer, data_of(n=7), batch_size=3, pooling=pooling)
    np.testing.assert_allclose(found.values, np.concatenate([centrality(part) for part in expected]), atol=1e-5)
    similarity = np.array(found.similarity)
    assert not similarity[:ENCODER, ENCODER:].any() and (similarity[ENCODER:, ENCODER:] != 0).all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    names = [found.model.called(layer.index) for layer in found.layers]
    assert names == [f"encoder.{i}" for i in range(ENCODER)] + [f"decoder.{i}" for i in range(DECODER)]


@pytest.mark.parametrize(
    "name", ["cka", "io-cosine", "feature-variance", "gradient-norm", "fisher", "euclidean-centrality"]
)
def test_every_scorer_gives_every_layer_a_number_or_says_why_not(name):
    model, tokenizer = model_of("bart")
    found = score(model, tokenizer, data_of(), build("scorer", Spec(name)))
    without = [found.model.called(layer.index) for layer in found.layers if layer.score is None]
    assert without == (["encoder.0", "decoder.0"] if name == "cka" else [])  # the first token never changes


def test_a_scorer_that_asks_what_a_token_means_is_refused():
    model, tokenizer = model_of("t5")
    with pytest.raises(ModelError, match="an encoder work towards another"):
        score(model, tokenizer, data_of(), build("scorer", Spec("semantic-deviation")))


# --- chosen ---------------------------------------------------------------------------------------


def test_k_layers_of_each_stack_or_of_one():
    model, tokenizer = model_of("t5")
    found = score(model, tokenizer, data_of())
    low = np.argsort(found.values[ENCODER:], kind="stable")[:2] + ENCODER
    one = plan(found, OfStack(Lowest(2), "decoder"))
    assert one.layers == tuple(sorted(low)) and one.selector.params["stack"] == "decoder"
    both = plan(found, Lowest(2))
    assert both.layers == (0, 1, *one.layers)
    assert "encoder.0, encoder.1, decoder" in both.model.named(both.layers)
    named = plan(found, Explicit(("decoder.2", "encoder.1")))
    assert named.layers == (1, 4) == plan(found, Explicit((4, 1))).layers
    assert named.selector.params["layers"] == ("encoder.1", "decoder.2")
    assert build("selector", named.selector) == Explicit(("encoder.1", "decoder.2"))
    with pytest.raises(PlanError, match=r"no layer decoder.3; name layers from encoder.0 to"):
        plan(found, Explicit(("decoder.3",)))
    with pytest.raises(PlanError, match="k is 3, but the model has 2 layers"):
        plan(found, Lowest(3))
    with pytest.raises(PlanError, match="one stack"):
        plan(found, build("selector", Spec("budget", {"share": 0.9})))


def test_a_model_with_one_stack_has_no_decoder(tiny_folder):
    stack = find_layers(hf.AutoModel.from_pretrained(tiny_folder("bert")))
    for selector, why in ((OfStack(Top(1), "decoder"), "one stack"), (Explicit(("decoder.1",)), "no layer decoder.1")):
        with pytest.raises(PlanError, match=why):
            plan(describe(stack), selector)


# --- frozen ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_below_the_lowest_trained_layer_no_graph_is_made(kind):
    model, tokenizer = model_of(kind)
    stack = find_layers(model)
    top = LM().on(stack, 0, task_of(data_of().info), 0)
    batch = batch_of(tokenizer)
    seen = {}
    for layer in stack.layers:
        layer.module.register_forward_hook(
            lambda _, __, output, path=layer.path: seen.update(
                {path: (output[0] if isinstance(output, tuple) else output).requires_grad}
            )
        )
    for chosen, expected in (((3,), [False, False, False, True, True]), ((1,), [False, True, True, True, True])):
        for parameter in model.parameters():
            parameter.requires_grad = False
        for index in chosen:
            for parameter in stack.layers[index].module.parameters():
                parameter.requires_grad = True
        undo = exclude_frozen(stack)
        top.train()(**batch)
        assert list(seen.values()) == expected
        assert [layer.module.training for layer in stack.layers] == [i in chosen for i in range(ENCODER + DECODER)]
        undo()


# --- all the way ----------------------------------------------------------------------------------


def run_of(kind, path, tuner=None, **changes):
    train = data_of(path / "train.jsonl")
    given = dict(
        model=ModelSpec(str(saved(kind, path / "base"))), train=train, test=train, selector=Spec("lowest", {"k": 1}),
        tuner=tuner or Spec("full"), settings=TrainSettings(epochs=2, learning_rate=0.01, batch_size=8),
        reading=Reading(),
    )  # fmt: skip
    return pipeline.tune(RunSpec(**given | changes), path / "run")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tuner", [Spec("full"), Spec("lora", {"r": 4})], ids=str)
def test_tuned_merged_and_opened_by_transformers_alone(kind, tuner, tmp_path):
    result = run_of(kind, tmp_path, tuner)
    assert "two stacks" in result.saved["prefix cache"] and len(result.plan.layers) == 2
    assert [name.split(".")[0] for name in map(result.plan.model.called, result.plan.layers)] == ["encoder", "decoder"]
    tuned = open_finetuned(tmp_path / "run")
    batch = batch_of(tuned.tokenizer, 24)
    with torch.no_grad():
        ours = tuned.model.language(**batch)
        base = hf.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base")
        assert (base(**batch).logits - ours.logits).abs().max() > 1e-2
    metrics = {one.name: one.value for one in result.metrics["test"]}
    assert metrics["loss"] == pytest.approx(ours.loss.item(), rel=1e-4)
    if tuner.name == "lora":
        config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
        assert config["task_type"] == "SEQ_2_SEQ_LM" and config["layers_to_transform"] is None
        peft = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").eval()
        with torch.no_grad():
            torch.testing.assert_close(peft(**batch).logits, ours.logits, atol=1e-5, rtol=1e-5)
    else:
        paths = tuple(f".{layer.path}." for layer in result.plan.layer_infos)
        assert all(
            any(path in f".{name}" for path in paths) for name in load_file(tmp_path / "run" / "delta.safetensors")
        )
    assert merge(tuned, tmp_path / "merged") == "AutoModelForSeq2SeqLM"
    plain = hf.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(plain(**batch).logits, ours.logits, atol=1e-5, rtol=1e-5)
    assert hf.AutoTokenizer.from_pretrained(tmp_path / "merged")("good")["input_ids"]
    named = (tmp_path / "run" / "README.md").read_text()
    assert result.plan.model.named(result.plan.layers) in named


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_is_applied_to_the_user_s_own_model(kind):
    model, tokenizer = model_of(kind)
    made = plan(describe(find_layers(model)), Explicit(("encoder.1", "decoder.0")), tuner=WholeLayers())
    tuned = apply(model, made)
    optimizer = torch.optim.AdamW(tuned.trainable.values(), lr=0.01)
    model.train()(**batch_of(tokenizer)).loss.backward()
    optimizer.step()
    tuned.check()
    layers = {name.removeprefix("model.").rsplit(".", 20)[0] for name in tuned.trainable}
    assert layers and {name.removeprefix("model.").split(".")[0] for name in tuned.trainable} == {"encoder", "decoder"}
    assert tuned.untouched(set()) == ["layer encoder.1", "layer decoder.0"]


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", often(KINDS, ["t5"]))
def test_the_command_line_names_layers_by_stack(kind, run, tmp_path):
    base, train = saved(kind, tmp_path / "base"), jsonl(tmp_path / "train.jsonl", rows())
    common = ("--model", base, "--train", train, "--task", "generation")
    scores = tmp_path / "s.json"
    code, out, err = run("score", *common, "--k", 1, "--output", scores, "--figures", tmp_path / "figures")
    assert code == 0, err
    assert "● encoder." in out and "● decoder." in out and (tmp_path / "figures" / "similarity.png").is_file()
    assert load_scores(scores)[0].model.stacks == {"encoder": range(2), "decoder": range(2, 5)}
    code, out, err = run("plan", scores, "--stack", "decoder", "--k", 1, "--output", tmp_path / "d.json")
    assert code == 0 and "encoder" not in out.split("chosen by")[0], err
    code, out, err = run("plan", scores, "--layers", "encoder.1,decoder.0", "--tuner", "lora",
                         "--output", tmp_path / "p.json")  # fmt: skip
    assert code == 0 and "encoder.1, decoder.0" in out, err
    assert load(Plan, tmp_path / "p.json").layers == (1, 2)
    one_line(
        *run("plan", scores, "--layers", "decoder.3", "--output", tmp_path / "x.json")[::2], "decoder.0 to decoder.2"
    )
    one_line(*run("plan", scores, "--layers", "decodr.2", "--output", tmp_path / "x.json")[::2], "--layers")
    code, _, err = run("tune", "--plan", tmp_path / "p.json", "--train", train, "--task", "generation", "--epochs", 1,
                       "--output", tmp_path / "r")  # fmt: skip
    assert code == 0, err
    code, _, err = run("predict", tmp_path / "r", "--data", train, "--max-new-tokens", 6, "--num-beams", 2,
                       "--output", tmp_path / "a.jsonl")  # fmt: skip
    assert code == 0, err
    written = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert run("merge", tmp_path / "r", "--output", tmp_path / "m")[0] == 0
    plain, tokenizer = hf.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "m"), hf.AutoTokenizer.from_pretrained(base)
    for row, line in zip(rows(), written, strict=True):  # one by one, by Transformers
        ids = tokenizer(row["source"], return_tensors="pt")["input_ids"]
        found = plain.generate(input_ids=ids, max_new_tokens=6, num_beams=2, do_sample=False, use_cache=False)[0]
        assert line["text"] == tokenizer.decode(found, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    code, out, err = run("preview", "--model", base, "--train", train, "--task", "generation", "--json", "--rows", 1)
    line = json.loads(out.splitlines()[0])
    assert line["source"] == tokenizer(rows()[0]["source"])["input_ids"], err
    assert line["ids"] == tokenizer(text_target=rows()[0]["target"])["input_ids"] and all(line["learned"])


def test_what_cannot_be_is_refused_in_one_line(run, files, tiny_folder, tmp_path):
    train = jsonl(tmp_path / "g.jsonl", rows())
    encoder = ("--model", tiny_folder("bert"), "--train", train, "--task", "generation")
    one_line(*run("tune", *encoder, "--output", tmp_path / "r")[::2], "is an encoder, which predicts no next token")
    assert not (tmp_path / "r").exists()
    one_line(*run("score", "--model", tiny_folder("bert"), "--train", files["train"], "--stack", "decoder",
                  "--output", tmp_path / "s.json")[::2], "--stack: the model has one stack of layers")  # fmt: skip
    base = saved("t5", tmp_path / "t5")
    apart = ("--model", base, "--train", train, "--task", "generation")
    one_line(*run("tune", *apart, "--pack", "--select", "top", "--output", tmp_path / "r2")[::2], "not packed")
    one_line(*run("score", *apart, "--until-settled", "--output", tmp_path / "s.json")[::2], "does not stop early")
    one_line(*run("score", *apart, "--scorer", "layer-probe", "--output", tmp_path / "s.json")[::2], "has two")


@pytest.mark.slow
def test_methods_are_compared(run, tmp_path):
    base, train = saved("bart", tmp_path / "base"), jsonl(tmp_path / "g.jsonl", rows())
    data = ("--train", train, "--validation", train, "--test", train, "--task", "generation")
    how = ("--methods", "full,top,lora", "--k", 1, "--epochs", 1, "--seeds", 0, "--learning-rates", 0.01)
    code, _, err = run("compare", "--model", base, *data, *how, "--output", tmp_path / "c")
    assert code == 0, err
    table = (tmp_path / "c" / "results.csv").read_text()
    assert "encoder.1 decoder.2" in table and "encoder.1 decoder.2" in (tmp_path / "c" / "table.md").read_text()


# --- classification -------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "head"), often(product(KINDS, ("last-token", "concat")), [("t5", "concat")]))
def test_classification_reads_the_decoder_s_last_token(kind, head, run, tmp_path):
    base, train = saved(kind, tmp_path / "base"), jsonl(tmp_path / "train.jsonl", rows_of(24))
    how = ("--k", 1, "--epochs", 2, "--head", head, "--learning-rate", 0.01)
    code, _, err = run("tune", "--model", base, "--train", train, "--test", train, *how, "--output", tmp_path / "r")
    assert code == 0, err
    tuned = open_finetuned(tmp_path / "r")
    texts = [row["text"] for row in rows_of(24)]
    batch = tuned.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        ours = tuned.model(**batch).logits
        alone = tuned.model(**tuned.tokenizer(texts[:1], return_tensors="pt")).logits
    torch.testing.assert_close(ours[:1], alone, atol=1e-5, rtol=1e-5)
    made = merge(tuned, tmp_path / "m")
    assert made == ("AutoModelForSequenceClassification" if head == "last-token" else None)
    if made:
        plain = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
        with torch.no_grad():
            torch.testing.assert_close(plain(**batch).logits, ours, atol=1e-3, rtol=1e-3)


def test_layers_are_named_wherever_they_are_shown(run, tmp_path):
    base, train = saved("t5", tmp_path / "base"), jsonl(tmp_path / "g.jsonl", rows())
    code, out, err = run("inspect", base, "--json")
    assert code == 0, err
    names = [one["name"] for one in json.loads(out)["layers"]]
    assert names == ["encoder.0", "encoder.1", "decoder.0", "decoder.1", "decoder.2"]
    common = ("--model", base, "--train", train, "--task", "generation")
    code, out, err = run("score", *common, "--scorer", "cosine-centrality,depth", "--compare", "--k", 1,
                         "--output", tmp_path / "s.json")  # fmt: skip
    assert code == 0 and "encoder.1, decoder.2" in out, err
    plan_ = ("plan", tmp_path / "s.json", "--scorer", "depth", "--k", 1, "--tuner", "lora")
    assert run(*plan_, "--output", tmp_path / "p.json")[0] == 0
    code, out, err = run("export", tmp_path / "p.json", "--to", "peft")
    assert code == 0 and json.loads(out)["layers_to_transform"] is None, err
    assert {name.rsplit(".", 4)[0] for name in json.loads(out)["target_modules"]} == {
        "encoder.block.1", "decoder.block.2"
    }  # fmt: skip
    one_line(*run("export", tmp_path / "p.json", "--to", "axolotl")[::2], "is an encoder-decoder", "export to peft")
