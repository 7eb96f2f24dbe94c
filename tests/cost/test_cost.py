"""The FLOP and memory model: by hand, against what PyTorch counts and keeps, and as `wheretune cost` tells it."""

import json
from dataclasses import astuple, replace
from itertools import pairwise

import pytest
import torch
import transformers as hf
from torch.utils.flop_counter import FlopCounterMode

import wheretune as wt
from helpers.commands import one_line
from helpers.models import FAMILIES, tiny_model
from helpers.texts import sentences
from wheretune.cost.flops import EVERYTHING, NOTHING, Savings, compute_share, estimate, full
from wheretune.cost.memory import activations, cached
from wheretune.errors import ConfigError, PlanError
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe
from wheretune.records.base import load, save
from wheretune.records.cost import Cost
from wheretune.records.model import LayerParts
from wheretune.records.scores import LayerScore

CACHE, ONE, QUIET = Savings(cache=True), Savings(one_token=True), Savings(quiet=True)
D, WIDE, TEXT = 8, 32, 10.0  # a small BERT layer and a text of ten tokens
BERT = LayerParts(
    {"q": (D, D), "k": (D, D), "v": (D, D), "o": (D, D), "up": (WIDE, D), "down": (D, WIDE)},
    "q", "k", "v", "o", "down", heads=2,
)  # fmt: skip
MAP, UP = 2 * D * D * TEXT, 2 * D * WIDE * TEXT  # FLOPs of a square map and of one of the MLP's
LINEAR = 4 * MAP + 2 * UP
ATTENTION = 4 * TEXT * TEXT * D
CUT = 2 * MAP + (2 * MAP + 2 * UP) / TEXT  # keys and values for all tokens, all else for one
FUSED = LayerParts(
    {"qkv": (3 * D, D), "o": (D, D), "up": (WIDE, D), "down": (D, WIDE)}, "qkv", "qkv", "qkv", "o", "down", heads=2,
    norm_first=True,
)  # fmt: skip


def test_a_small_model_by_hand():
    parts, three = [BERT] * 3, (1,)
    plain = estimate(parts, three, tokens=TEXT)
    assert astuple(plain) == (
        3 * (LINEAR + ATTENTION),
        (LINEAR - 3 * MAP + 2 * ATTENTION) + (LINEAR + 2 * ATTENTION),  # layer 1 without q, k, v; layer 2
        LINEAR,
    )
    assert plain.total == sum(astuple(plain))
    cache = estimate(parts, three, tokens=TEXT, savings=CACHE)
    assert cache == replace(plain, forward=2 * (LINEAR + ATTENTION))
    one = estimate(parts, three, tokens=TEXT, savings=ONE)
    assert one.forward == pytest.approx(2 * (LINEAR + ATTENTION) + CUT + ATTENTION)
    assert one.input_gradients == pytest.approx((LINEAR - 3 * MAP + 2 * ATTENTION) + CUT + 2 * ATTENTION)
    assert one.weight_gradients == LINEAR
    top = estimate(parts, (2,), tokens=TEXT, savings=ONE)
    assert top.weight_gradients == pytest.approx(CUT)
    assert top.input_gradients == pytest.approx(CUT - 2 * MAP - MAP / TEXT + 2 * ATTENTION)
    assert estimate(parts, three, tokens=TEXT, savings=QUIET) == plain  # dropout is no arithmetic
    assert astuple(full(parts, TEXT)) == (3 * (LINEAR + ATTENTION), 3 * (LINEAR + 2 * ATTENTION), 3 * LINEAR)
    # over 3 epochs, making the cache is a third of the forward pass of layer 0
    every = estimate(parts, three, tokens=TEXT, savings=EVERYTHING).total
    share = (every + (LINEAR + ATTENTION) / 3) / full(parts, TEXT).total
    assert compute_share(parts, three, tokens=TEXT) == pytest.approx(share)
    assert compute_share(parts, three, tokens=TEXT, epochs=1) > share


def test_the_head_alone_and_the_embeddings():
    parts = [BERT] * 3
    assert astuple(estimate(parts, (), tokens=TEXT)) == (3 * (LINEAR + ATTENTION), 0, 0)
    assert estimate(parts, (), tokens=TEXT, savings=CACHE).total == 0
    assert estimate(parts, (), tokens=TEXT, savings=ONE).forward == pytest.approx(
        2 * (LINEAR + ATTENTION) + CUT + ATTENTION
    )
    every = 9 * LINEAR + 9 * ATTENTION
    assert compute_share(parts, (), tokens=TEXT) == pytest.approx((LINEAR + ATTENTION) / every)  # 3 forwards, 3 epochs
    # with trained embeddings a gradient flows all the way down, and nothing is cached
    down = estimate(parts, (2,), tokens=TEXT, savings=CACHE, embeddings=True)
    assert astuple(down) == (3 * (LINEAR + ATTENTION), 3 * (LINEAR + 2 * ATTENTION), LINEAR)


def test_fused_maps_norms_that_come_first_and_layers_that_are_not_understood():
    qkv = 3 * MAP
    first = estimate([FUSED] * 2, (1,), tokens=TEXT)
    assert first.input_gradients == LINEAR + 2 * ATTENTION  # down to the norm before q, k and v
    assert estimate([FUSED] * 2, (1,), tokens=TEXT, norms=False).input_gradients == LINEAR - qkv + 2 * ATTENTION
    cut = estimate([FUSED] * 2, (1,), tokens=TEXT, savings=ONE)
    assert cut.weight_gradients == pytest.approx(qkv + (MAP + 2 * UP) / TEXT)  # the queries with the keys and values
    unknown = LayerParts(BERT.maps)
    for savings in (NOTHING, ONE):
        assert astuple(estimate([unknown], (0,), tokens=TEXT, savings=savings)) == (LINEAR, LINEAR, LINEAR)
    assert estimate([BERT] * 2, (0,), 0.25, tokens=TEXT).weight_gradients == LINEAR / 4


def test_every_saving_saves_and_a_lower_layer_costs_more():
    parts = [BERT] * 6
    for chosen in ((), (5,), (2, 4), (1,), tuple(range(1, 6))):
        plain = estimate(parts, chosen, tokens=TEXT).total
        each = [estimate(parts, chosen, tokens=TEXT, savings=one).total for one in (CACHE, ONE, EVERYTHING)]
        assert plain > max(each[:2]) and min(each[:2]) >= each[2] and plain < full(parts, TEXT).total
        shares = [compute_share(parts, chosen, tokens=TEXT, epochs=epochs) for epochs in (1, 3, 30)]
        assert shares == sorted(shares, reverse=True) and len(set(shares)) == 3
    lowest = [compute_share(parts, (layer,), tokens=TEXT) for layer in range(6)]
    assert all(lower > higher for lower, higher in pairwise(lowest))


# --- against PyTorch ------------------------------------------------------------------------------


def bert_base(v):
    return hf.BertConfig(vocab_size=v, num_hidden_layers=4)


def opened(family):
    """A random model without padding in its way, attention as plain products, which PyTorch can count."""
    torch.manual_seed(0)
    model = hf.AutoModel.from_config(bert_base(60) if family == "bert-base" else FAMILIES[family](60))
    model.pooler = None
    return model, find_layers(model)


def freeze(model, stack, chosen, embeddings=False):
    for parameter in model.parameters():
        parameter.requires_grad = embeddings
    for layer in chosen:
        for parameter in stack.layers[layer].module.parameters():
            parameter.requires_grad = True


def batch(model, tokens):
    ids = torch.arange(2 * tokens).reshape(2, tokens) % 40 + 5
    mask = torch.ones_like(ids)
    mask[1, tokens // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "qwen2", "bert-base"])
@pytest.mark.parametrize("chosen", [(3,), (0,), (1, 2), (0, 1, 2, 3), "full"])
def test_flops_are_those_that_pytorch_counts(family, chosen):
    model, stack = opened(family)
    model.set_attn_implementation("eager")
    everything = chosen == "full"
    layers = tuple(range(4)) if everything else chosen
    freeze(model, stack, layers, embeddings=everything)
    parts = [layer.parts for layer in stack.layers]
    tokens = 24
    with FlopCounterMode(display=False) as forward:
        hidden = model(**batch(model, tokens))[0]
    with FlopCounterMode(display=False) as backward:
        hidden.sum().backward()
    told = full(parts, float(tokens)) if everything else estimate(parts, layers, tokens=float(tokens))
    assert 2 * told.forward == pytest.approx(forward.get_total_flops(), rel=0.02)
    assert 2 * (told.total - told.forward) == pytest.approx(backward.get_total_flops(), rel=0.02)


def kept_bytes(model, inputs):
    """What autograd keeps of a forward pass, every storage once, without the parameters."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no other gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**inputs)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize(("family", "within"), [("bert", 0.05), ("bert-base", 0.05), ("gpt2", 0.1), ("llama", 0.15)])
@pytest.mark.parametrize("chosen", [(3,), (1,), (0, 2), (0, 1, 2, 3)])
@pytest.mark.parametrize("quiet", [True, False])
def test_activations_are_those_that_autograd_keeps(family, within, chosen, quiet):
    model, stack = opened(family)
    freeze(model, stack, chosen)
    model.train()
    for layer in stack.layers:
        layer.module.train(layer.index in chosen or not quiet)
    parts = [layer.parts for layer in stack.layers]
    assert {part.dropout for part in parts} == {family != "llama"}
    for tokens in (12, 60):
        told = activations(parts, chosen, tokens=float(tokens), batch_size=2, savings=Savings(quiet=quiet))
        assert told == pytest.approx(kept_bytes(model, batch(model, tokens)), rel=within)


def test_memory_by_hand():
    dropping = replace(BERT, dropout=True)
    common = 2 * D * TEXT + TEXT * WIDE  # what enters the norms, and the activation
    frozen = 4 * (common + TEXT * (4 * D + TEXT))
    assert activations([BERT] * 2, (0,), tokens=TEXT, batch_size=3) == 3 * (
        2 * frozen + 4 * TEXT * (D + D + WIDE)  # the inputs of the trained layer's maps; attention has kept one of four
    )
    assert activations([BERT] * 2, (), tokens=TEXT, batch_size=3) == 0
    noisy = activations([dropping] * 2, (0,), tokens=TEXT, batch_size=1)
    quiet = activations([dropping] * 2, (0,), tokens=TEXT, batch_size=1, savings=QUIET)
    # a frozen layer that drops out keeps three matrices a head and two masks, and not attention's outcome and its mask
    assert noisy - quiet == 4 * (3 * 2 * TEXT**2 + 2 * D * TEXT - D * TEXT - TEXT**2)
    model = describe(find_layers(tiny_model("bert")[0]))  # 4 layers of width 32
    assert cached(model, (2, 3), 10.0, 100, False) == 4 * 32 * 100 * 10
    assert cached(model, (2, 3), 10.0, 100, True) == 4 * 32 * 100 * (10 + 1)  # layer 0's token; layer 1's is in the ten
    assert cached(model, (), 10.0, 100, False) == 4 * 32 * 100
    assert cached(model, (), 10.0, 100, True) == 4 * 32 * 100 * 4
    assert cached(model, (0, 3), 10.0, 100, True) == cached(model, (1,), 10.0, 0, False) == 0


# --- in plans -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored():
    model, tokenizer = tiny_model("bert")
    texts = sentences(30)
    scores = wt.score(model, tokenizer, wt.from_texts(texts, [i % 2 for i in range(30)]), wt.CosineCentrality())
    return scores, sum(len(tokenizer(text)["input_ids"]) for text in texts) / 30


def test_a_plan_says_what_it_costs(scored):
    scores, tokens = scored
    assert scores.tokens == pytest.approx(tokens)
    plan = wt.plan(scores, wt.Explicit((2, 3)))
    cost = plan.cost
    parts = [layer.parts for layer in scores.layers]
    assert cost.tokens == scores.tokens and (cost.batch_size, cost.epochs) == (16, 3)
    assert cost.expected_speed_up == pytest.approx(1 / compute_share(parts, (2, 3), tokens=tokens))
    assert [line.name for line in cost.lines] == [
        "full fine-tuning", "plain freezing", "with the prefix cache", "reading one token only", "everything"
    ]  # fmt: skip
    reference, plain, cache, one, every = cost.lines
    assert reference.speed_up == 1 and reference.flops == full(parts, scores.tokens)
    assert 1 < plain.speed_up < min(cache.speed_up, one.speed_up) < every.speed_up == cost.limit
    assert cost.expected_speed_up < cost.limit
    trained, total = cost.trainable_parameters, cost.total_parameters
    assert astuple(every.memory)[:3] == (4 * total, 4 * trained, 8 * trained)
    assert astuple(reference.memory)[:3] == (4 * total, 4 * total, 8 * total)
    assert every.memory.cache == cache.memory.cache == round(4 * 32 * 30 * tokens) and plain.memory.cache == 0
    assert every.memory.activations < plain.memory.activations < reference.memory.activations
    assert every.memory.total == sum(astuple(every.memory))
    assert str(cost).endswith(f"over 3 epochs, and at most {cost.limit:.2f}x")


def test_tuners_and_heads_in_a_plan(scored):
    scores, _ = scored
    whole, lora, bias = (wt.plan(scores, wt.Explicit((2,)), tuner=t).cost for t in (None, wt.LoRA(r=1), wt.Bias()))
    for few in (lora, bias):
        assert few.lines[1].flops.weight_gradients < 0.05 * whole.lines[1].flops.weight_gradients
        assert few.lines[1].flops.forward == whole.lines[1].flops.forward
        assert few.expected_speed_up > whole.expected_speed_up
    head = wt.plan(scores, None, tuner=wt.HeadOnly(), head=wt.Concat()).cost
    assert head.expected_speed_up == pytest.approx(
        3 * full([layer.parts for layer in scores.layers], scores.tokens).total / head.lines[1].flops.forward
    )
    assert head.limit is None and head.lines[-1].speed_up is None and head.lines[-1].flops.total == 0
    assert head.lines[-1].memory.cache == 4 * 32 * 30 * 4
    everything = wt.plan(scores, wt.Bottom(4), tuner=wt.WholeLayers(embeddings=True)).cost
    assert everything.lines[1].speed_up == 1 and everything.lines[1].memory == everything.lines[0].memory
    assert everything.lines[-1].memory.cache == 0


def test_a_scorer_that_reads_no_text_and_layers_without_linear_maps(scored):
    model, tokenizer = tiny_model("bert")
    unread = wt.score(model, tokenizer, wt.from_texts(sentences(4)), wt.Depth())
    assert unread.tokens is None and wt.plan(unread, wt.Top(1)).cost.tokens == 128
    scores, _ = scored
    bare = replace(scores, layers=tuple(LayerScore(i, float(i), None, f"layer.{i}", 10_000) for i in range(4)))
    cost = wt.plan(bare, wt.Explicit((2,))).cost
    # one square map of 100 x 100 a layer: 4 forward, 2 down, 1 of weights, of 12
    assert cost.lines[1].speed_up == pytest.approx(12 / 7)
    assert cost.limit == pytest.approx(12 / (2 + 2 + 1))
    assert cost.expected_speed_up == pytest.approx(12 / (2 + 2 + 1 + 2 / 3))


def test_plans_of_older_versions_are_read(scored, tmp_path):
    plan = wt.plan(scored[0], wt.Explicit((2,)))
    save(plan, tmp_path / "plan.json")
    assert load(wt.Plan, tmp_path / "plan.json").cost == plan.cost
    content = json.loads((tmp_path / "plan.json").read_text())
    old = ("trainable_parameters", "total_parameters", "expected_speed_up")
    content["cost"] = {name: content["cost"][name] for name in old}
    (tmp_path / "plan.json").write_text(json.dumps(content))
    read = load(wt.Plan, tmp_path / "plan.json")
    assert read.cost.tokens is None and "at most" not in str(read.cost)


# --- the command ----------------------------------------------------------------------------------


def test_the_command(run, files, tiny_folder, tmp_path):
    model, train = tiny_folder("bert"), files["train"]
    assert run("plan", "--model", model, "--train", train, "--k", 2, "--output", tmp_path / "plan.json")[0] == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    arguments = ("cost", "--plan", tmp_path / "plan.json", "--data", train)
    code, out, err = run(*arguments, "--output", tmp_path / "cost.json", "--json")
    assert code == 0, err
    assert json.loads(out) == json.loads((tmp_path / "cost.json").read_text()) == plan["cost"]  # the same numbers
    assert load(Cost, tmp_path / "cost.json").tokens == plan["cost"]["tokens"]

    code, out, err = run(*arguments, "--model", model, "--epochs", 1, "--batch-size", 4, "--max-length", 5)
    assert code == 0, err
    for line in plan["cost"]["lines"]:
        assert line["name"] in out
    assert "a text of 5 tokens" in out or "a text of 4." in out
    assert "batches of 4 texts" in out and "over 1 epoch," in out and "at most" in out
    once = json.loads(run(*arguments, "--epochs", 1, "--json")[1])
    assert once["expected_speed_up"] < plan["cost"]["expected_speed_up"] < once["limit"] == plan["cost"]["limit"]
    few = json.loads(run(*arguments, "--max-samples", 7, "--json")[1])
    per_token = [one["lines"][-1]["memory"]["cache"] / one["tokens"] for one in (few, once)]
    assert per_token[1] == pytest.approx(per_token[0] * 40 / 7, rel=1e-3)


def test_tuners_cost_the_same_in_plan_and_command(run, files, tiny_folder, tmp_path):
    for options in (("--tuner", "lora:r=2"), ("--tuner", "head-only", "--head", "concat"), ("--tuner", "bias")):
        made = ("--model", tiny_folder("gpt2"), "--train", files["train"], "--output", tmp_path / "plan.json")
        code, out, err = run("plan", *made, *options, "--json")
        assert code == 0, err
        plan = json.loads((tmp_path / "plan.json").read_text())
        code, out, err = run("cost", "--plan", tmp_path / "plan.json", "--data", files["train"], "--json")
        assert code == 0, err
        assert json.loads(out) == plan["cost"]


def test_what_the_command_refuses(run, files, tiny_folder, tmp_path):
    train = files["train"]
    run("plan", "--model", tiny_folder("bert"), "--train", train, "--k", 2, "--output", tmp_path / "plan.json")
    arguments = ("cost", "--plan", tmp_path / "plan.json", "--data", train)
    for other in (tiny_folder("roberta", num_hidden_layers=3), tiny_folder("bert", hidden_size=64)):
        one_line(*run(*arguments, "--model", other)[::2], "the plan was made for", "layers of width")
    one_line(*run(*arguments, "--model", tiny_folder("gpt2"))[::2], "the plan was made for", "layers of other maps")
    one_line(*run(*arguments, "--epochs", 0)[::2], "--epochs is 0")
    one_line(*run(*arguments, "--batch-size", 0)[::2], "--batch-size is 0")
    one_line(*run("cost", "--data", train)[::2], "--plan is missing")
    one_line(*run("cost", "--plan", tmp_path / "plan.json")[::2], "--data is missing")
    one_line(*run("cost", "--plan", tmp_path / "none.json", "--data", train)[::2], "cannot read")
    one_line(*run(*arguments, "--text-column", "body")[::2], "has no column 'body'")
    one_line(*run(*arguments, "--output", tmp_path)[::2], "is a folder")


def test_what_the_room_refuses(scored):
    from wheretune.pipeline import cost_of

    plan, data = wt.plan(scored[0], wt.Explicit((2,))), wt.DataSpec("nowhere.jsonl")
    with pytest.raises(ConfigError, match="--epochs is 0"):
        cost_of(plan, data, epochs=0)
    with pytest.raises(PlanError, match="--budget is 2"):
        wt.plan(scored[0], wt.Budget(2.0))
