"""A model whose weights lie in several places is the same model, and scores the same."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._subclasses import FakeTensorMode
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, MixtralConfig

import wheretune as wt
from helpers.commands import one_line
from helpers.families import FAMILIES
from helpers.models import tiny_model, tiny_tokenizer
from helpers.texts import classes_of, jsonl, rows_of, sentences
from wheretune import catalog
from wheretune.errors import ConfigError, ModelError
from wheretune.model.dispatch import weight
from wheretune.model.finding import find_layers
from wheretune.model.forward import Kept, forward_states, represent
from wheretune.model.opening import load_model, open_model
from wheretune.model.two_stacks import forward_apart
from wheretune.records.data import DataSpec
from wheretune.records.model import ModelSpec
from wheretune.records.placement import Placement
from wheretune.records.runs import RunSpec
from wheretune.records.scores import Reading
from wheretune.scoring.gathered import finish
from wheretune.scoring.one_pass import gather

ONE_PASS = [made for made in catalog.every("scorer").values() if not {"training", "gradients"} & set(made.card.needs)]
SHARDS = "40kB"  # several files


@pytest.fixture
def on_disk(tmp_path):
    """A device map in a file."""

    def write(**places):
        path = tmp_path / "map.json"
        path.write_text(json.dumps({name.replace("__", "."): place for name, place in places.items()} or {"": "disk"}))
        return str(path)

    return write


def saved(folder, family, **settings):
    model, tokenizer = tiny_model(family, **settings)
    model.save_pretrained(folder, max_shard_size=SHARDS)
    tokenizer.save_pretrained(folder)
    return str(folder)


def scores_of(opened, scorers):
    data = wt.from_texts(sentences(20), classes_of(20))
    return [replace(one, seconds=0.0) for one in finish(gather(opened, data, scorers, Reading(batch_size=6)))]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("language", [False, True])
def test_weights_on_disk_give_the_same_model_and_scores_to_the_last_bit(tmp_path, on_disk, family, language):
    folder = saved(tmp_path / "model", family, kind=AutoModelForCausalLM)
    scorers = [made() for made in ONE_PASS if language or "language-model" not in made.card.needs]
    assert len(scorers) > 6
    plain = open_model(ModelSpec(folder), language=language)
    spread = open_model(ModelSpec(folder, placement=Placement(on_disk())), language=language)
    assert all(parameter.is_meta for parameter in spread.stack.base.parameters())
    assert spread.info == plain.info and spread.fingerprints == plain.fingerprints
    assert scores_of(spread, scorers) == scores_of(plain, scorers)
    assert all(parameter.is_meta for parameter in spread.stack.base.parameters())  # and are on disk again


@pytest.mark.parametrize("family", [name for name in FAMILIES if not name.startswith("deberta")])
def test_every_family_runs_from_disk(tmp_path, on_disk, family):
    AutoModel.from_config(FAMILIES[family]()).save_pretrained(tmp_path)
    ids = torch.arange(20).reshape(2, 10) % 40 + 3
    inputs, found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, []
    for placement in (None, Placement(on_disk())):
        stack = find_layers(load_model(ModelSpec(str(tmp_path), placement=placement)))
        with torch.no_grad():
            found.append((forward_apart if stack.split else forward_states)(stack, inputs)[0])
    assert torch.equal(*found)


def test_deberta_reads_weights_that_are_not_brought(tmp_path, on_disk):
    model = AutoModel.from_config(FAMILIES["deberta"]())
    model.resize_token_embeddings(len(tiny_tokenizer("bert")))
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer("bert").save_pretrained(tmp_path / "model")
    opened = open_model(ModelSpec(str(tmp_path / "model"), placement=Placement(on_disk())))
    with pytest.raises(ModelError, match="DebertaModel reads weights of a part that it does not call"):
        scores_of(opened, [wt.CosineCentrality()])
    some = on_disk(embeddings="disk", encoder__layer="disk", encoder__rel_embeddings="cpu")
    opened = open_model(ModelSpec(str(tmp_path / "model"), placement=Placement(some)))
    plain = open_model(ModelSpec(str(tmp_path / "model")))
    assert scores_of(opened, [wt.CosineCentrality()]) == scores_of(plain, [wt.CosineCentrality()])


def test_a_map_may_name_the_parts_of_the_headless_model_or_of_the_one_with_a_head(tmp_path, on_disk, caplog):
    folder = saved(tmp_path / "model", "llama", kind=AutoModelForCausalLM)
    headless = dict.fromkeys(("embed_tokens", "layers__0", "layers__2", "norm", "rotary_emb"), "cpu")
    headless |= {"layers__1": "disk", "layers__3": "disk"}
    whole = {f"model__{name}": place for name, place in headless.items()} | {"lm_head": "cpu"}
    for places, language in ((headless, False), (whole, False), (whole, True)):
        model = open_model(ModelSpec(folder, placement=Placement(on_disk(**places))), language=language).stack.base
        offloaded = [all(p.is_meta for p in layer.parameters()) for layer in model.layers]
        assert offloaded == [False, True, False, True]
    layer = sum(p.numel() for p in model.layers[1].parameters()) * 8 / 1000
    assert (
        f"{layer:.1f} kB on disk ({folder}), read again for every batch" in caplog.text and "in memory" in caplog.text
    )
    for places, words in (
        ({**headless, "layer": "cpu"}, "names 'layer'; name parts of the model: embed_tokens, layers"),
        ({"layers": "cpu"}, "gives no place for embed_tokens.weight"),
        ({**headless, "norm": "7"}, "there is no cuda:7"),
        ({**headless, "norm": "gpu"}, "gives 'gpu' as a place"),
    ):
        with pytest.raises((ConfigError, ModelError), match=words):
            load_model(ModelSpec(folder, placement=Placement(on_disk(**places))))


def test_a_limit_keeps_so_many_layers_in_memory(tmp_path, monkeypatch, caplog):
    """What the process holds already is taken off."""
    folder = saved(tmp_path / "model", "llama", num_hidden_layers=12)
    held = 500_000_000
    monkeypatch.setattr("psutil.Process.memory_info", lambda _: type("Memory", (), {"rss": held}))
    plain = load_model(ModelSpec(folder))
    layer = sum(p.numel() for p in plain.layers[0].parameters()) * 4
    rest = plain.embed_tokens.weight.numel() * 4
    limit = held + rest + 4 * layer + layer // 2  # one layer's room is kept for what comes from disk
    model = load_model(ModelSpec(folder, placement=Placement(memory_limit=f"{limit}")))
    assert [all(p.is_meta for p in one.parameters()) for one in model.layers] == [False] * 3 + [True] * 9
    assert f"of {(rest + 12 * layer + 128) / 1000:.0f} kB of weights" in caplog.text
    whole = load_model(ModelSpec(folder, placement=Placement(memory_limit="100GB")))
    assert not any(p.is_meta for p in whole.parameters())
    with pytest.raises(ModelError, match=r"layers.0 takes 41.2 kB, and weights may take 41.1 kB of this process's"):
        load_model(ModelSpec(folder, placement=Placement(memory_limit=f"{held + layer - 100}")))


def test_experts_that_are_fused_go_to_a_folder(tmp_path, on_disk):
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=50)
    config = MixtralConfig(num_key_value_heads=2, num_local_experts=4, **sizes)
    AutoModel.from_config(config).save_pretrained(tmp_path / "model")
    spec = ModelSpec(str(tmp_path / "model"), placement=Placement(on_disk()))
    with pytest.raises(ModelError, match=r"fused when it is opened.*\(offload_folder\)"):
        load_model(spec)
    spread = load_model(replace(spec, placement=Placement(on_disk(), offload_folder=str(tmp_path / "off"))))
    plain = load_model(replace(spec, placement=None))
    assert len(list((tmp_path / "off").iterdir())) == 4  # two of each layer, and nothing else is copied
    for name, expected in plain.state_dict().items():
        assert torch.equal(weight(spread, name), expected)


def test_a_classifier_is_scored_without_its_head(tmp_path, on_disk):
    folder = saved(tmp_path / "model", "bert", kind=AutoModelForSequenceClassification)
    plain, spread = (open_model(ModelSpec(folder, placement=one)) for one in (None, Placement(on_disk())))
    assert plain.own_head is not None and spread.own_head is None
    assert spread.info == plain.info


def test_what_trains_or_needs_gradients_is_refused(tmp_path, on_disk):
    folder = saved(tmp_path / "model", "llama")
    spec = ModelSpec(folder, placement=Placement(on_disk()))
    opened = open_model(spec)
    for scorer in (wt.GradientNorm(), wt.Fisher()):
        with pytest.raises(ModelError, match="a gradient needs all weights of LlamaModel at once"):
            scores_of(opened, [scorer])
    with pytest.raises(ModelError, match="training needs all weights of LlamaModel at once"):
        wt.apply(opened.stack.base, wt.plan(opened.info, wt.Explicit((1,))))
    with pytest.raises(ModelError, match="gradients need all weights at once"):
        RunSpec(spec, DataSpec("train.jsonl"))


def test_a_gradient_of_offloaded_weights_is_not_what_it_should_be(tmp_path, on_disk):
    """Why gradients are refused: accelerate takes the weights away before the backward pass."""
    folder = saved(tmp_path / "model", "llama")
    model = load_model(ModelSpec(folder, placement=Placement(on_disk())))
    parameters = list(model.layers[0].parameters())
    loss = model(input_ids=torch.arange(6).unsqueeze(0))[0].square().sum()
    with pytest.raises(RuntimeError):
        torch.autograd.grad(loss, parameters)


@pytest.mark.parametrize("pooling", ["token", "mean"])
def test_states_of_several_devices_are_gathered_where_the_batch_lies(pooling):
    """PyTorch's fake tensors hold no numbers, and refuse to be computed with across devices as real ones do."""
    stack = find_layers(tiny_model("llama")[0])
    with FakeTensorMode():
        states = [torch.randn(2, 6, 32, device=f"lazy:{place % 2}") for place in range(5)]
        with pytest.raises(RuntimeError, match="lazy:1"):
            torch.stack(states)
        mask = torch.ones(2, 6, dtype=torch.long, device="lazy:0")
        reductions = {"distance": lambda before, after, mask: ((after - before) * mask.unsqueeze(2)).sum((1, 2))}
        kept = Kept(stack, mask, partial(represent, mask=mask, pooling=pooling, causal=True), reductions)
        for place, hidden in enumerate(states):
            kept.keep(place, hidden)
        rows, reduced = kept.states()
        assert rows.shape == (2, 5, 32) and reduced["distance"].shape == (2, 4)
        assert rows.device == reduced["distance"].device == mask.device


# --- the command line ----------------------------------------------------------------------------


def test_the_command_scores_from_disk_and_says_so(run, tmp_path, on_disk):
    folder = saved(tmp_path / "model", "llama")
    train = jsonl(tmp_path / "train.jsonl", rows_of(20))
    common = ("score", "--model", folder, "--train", train, "--scorer", "cosine-centrality,cka")
    code, _, err = run(*common, "--output", tmp_path / "plain.json")
    assert code == 0, err
    code, _, err = run(*common, "--output", tmp_path / "spread.json", "--device-map", on_disk())
    assert code == 0 and err.count(" on disk (") == 1 and "meta device" not in err, err
    plain, spread = (json.loads((tmp_path / f"{name}.json").read_text())["scores"] for name in ("plain", "spread"))
    for one in (*plain, *spread):
        del one["seconds"]
    assert spread == plain
    code, _, err = run(*common, "--output", tmp_path / "limited.json", "--memory-limit", "100GB")
    assert code == 0 and "kB in memory" in err and "disk" not in err, err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--device-map", "everywhere"), ["'everywhere'", "auto, balanced", ".json", "--device-map"]),
        (("--device-map", "none.json"), ["none.json"]),
        (("--memory-limit", "much"), ["'much'", "1GB", "--memory-limit"]),
        (("--memory-limit", "1GB,cpu=2GB"), ["'1GB,cpu=2GB'"]),
        (("--memory-limit", "1MB"), ["of this process's memory", "raise the limit by", "--memory-limit"]),
        (("--memory-limit", "7=1GB,cpu=90GB"), ["no cuda:7"]),
        (("--memory-limit", "1GB", "--device", "cpu"), ["--device", "drop one"]),
        (("--memory-limit", "1GB", "--quantize", "4bit"), ["--quantize", "drop one"]),
        (("--memory-limit", "1GB", "--scorer", "gradient-norm"), ["gradients need all weights", "--device-map"]),
        (("--memory-limit", "1GB", "--scorer", "cka,layer-probe"), ["gradients need all weights"]),
        (("--memory-limit", "1GB", "--device-map", "{map}"), ["says what lies where", "--memory-limit"]),
        (("--offload-folder", "somewhere"), ["--offload-folder has no effect", "--memory-limit"]),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, tiny_folder, on_disk, given, words):
    given = [one.format(map=on_disk()) for one in given]
    train = jsonl(tmp_path / "train.jsonl", rows_of(8))
    common = ("score", "--model", tiny_folder("llama"), "--train", train, "--output", tmp_path / "scores.json")
    one_line(*run(*common, *given)[::2], *words)
    assert not (tmp_path / "scores.json").exists()


def test_tune_knows_no_limit(run):
    one_line(*run("tune", "--memory-limit", "1GB")[::2], "--memory-limit")
