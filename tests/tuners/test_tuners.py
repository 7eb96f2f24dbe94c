"""Tuners end to end: by hand and by PEFT, saved and opened again, stopped and gone on with, on the command line."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import wheretune as wt
from helpers.commands import FAST, one_line
from helpers.models import tiny_model
from helpers.texts import classes_of, rows_of, sentences
from wheretune import catalog
from wheretune.data.tokens import encode
from wheretune.errors import ConfigError, DeltaError, ModelError
from wheretune.heads.headed import headed
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe
from wheretune.model.parts import queries
from wheretune.model.steps import Training
from wheretune.records.runs import TrainSettings
from wheretune.tasks.base import task_of
from wheretune.training import trainer
from wheretune.training.loop import train
from wheretune.tuners.modules import Bottleneck, PrefixAttention

EVERY = {
    "lora": ("r=2",), "pissa": ("r=2",), "dora": ("r=2", "alpha=4"), "adalora": ("r=2", "start=3", "every=1"),
    "ia3": (), "adapter": ("reduction=8", "place=pfeiffer"), "prefix": ("length=2",), "bias": (), "head-only": (),
}  # fmt: skip
PEFT = ("lora", "pissa", "dora", "adalora", "ia3")


def planned(model, tuner, layers=(1, 3)):
    return wt.plan(describe(find_layers(model)), wt.Explicit(layers), tuner=tuner)


# --- formulas, by hand --------------------------------------------------------------------------


def test_an_adapter_computes_its_formula():
    torch.manual_seed(0)
    made = Bottleneck(6, 2)
    hidden = torch.randn(3, 5, 6)
    assert torch.equal(made(hidden), hidden)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    down, up = made.down, made.up
    for row in range(3):
        x = hidden[row, 2]
        inside = down.weight @ x + down.bias
        gelu = inside * 0.5 * (1 + torch.erf(inside / 2**0.5))
        torch.testing.assert_close(made(hidden)[row, 2], x + up.weight @ gelu + up.bias)


def test_a_prefix_computes_its_formula_with_grouped_heads():
    torch.manual_seed(0)
    made = PrefixAttention(length=3, heads=4, kv_heads=2, size=5)
    query = torch.randn(2, 7, 4, 5)
    assert not made(query).any()
    with torch.no_grad():
        made.gate.copy_(torch.tensor([0.3, -1.0, 0.0, 2.0]))
    found = made(query)
    for head in range(4):
        keys, values = made.keys[:, head // 2], made.values[:, head // 2]
        share = (keys @ query[1, 4, head] / 5**0.5).softmax(0)
        torch.testing.assert_close(found[1, 4, head], torch.tanh(made.gate[head]) * (share @ values))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_prefix_reads_the_queries_that_attention_reads(family):
    """Every head's query, against the model's own attention probabilities."""
    model, tokenizer = tiny_model(family)
    model.set_attn_implementation("eager")
    layer = find_layers(model).layers[0]
    kept = {}
    for name in ("query", "key"):
        module = layer.module.get_submodule(getattr(layer.parts, name))
        module.register_forward_hook(lambda *a, name=name: kept.setdefault(name, a[-1]))
    with torch.no_grad():
        shares = model(**tokenizer("the good movie", return_tensors="pt"), output_attentions=True).attentions[0][0]
    q = queries(layer.parts, kept["query"])[0].transpose(0, 1)  # head, token, size
    size = q.shape[-1]
    key = kept["key"][..., 32:64] if family == "gpt2" else kept["key"]
    k = key[0].reshape(-1, 4, size).transpose(0, 1)
    scores = q @ k.transpose(1, 2) / size**0.5
    # the first token of a decoder sees itself alone; rotation leaves the token at position 0 as it is
    if family == "bert":
        torch.testing.assert_close(scores.softmax(-1), shares)
    elif family == "gpt2":
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
        torch.testing.assert_close(scores.masked_fill(hidden, -torch.inf).softmax(-1), shares)
    else:
        assert q.shape == (4, 3, 8)
        torch.testing.assert_close(q.transpose(0, 1).reshape(3, 32), kept["query"][0])


# --- the same as PEFT by hand -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lora", "pissa", "dora", "adalora", "ia3"])
def test_the_same_seed_draws_what_peft_draws_by_hand(name):
    from peft import AdaLoraConfig, IA3Config, LoraConfig, get_peft_model, get_peft_model_state_dict

    model, _ = tiny_model("bert")
    tuned = wt.apply(model, planned(model, catalog.read("tuner", name, EVERY[name])), seed=11)
    paths = [f"encoder.layer.{i}.attention.self.{map_}" for i in (1, 3) for map_ in ("query", "value")]
    config = {
        "lora": lambda: LoraConfig(r=2, lora_alpha=32, target_modules=paths),
        "pissa": lambda: LoraConfig(r=2, lora_alpha=2, target_modules=paths, init_lora_weights="pissa"),
        "dora": lambda: LoraConfig(r=2, lora_alpha=4, target_modules=paths, use_dora=True),
        "adalora": lambda: AdaLoraConfig(init_r=3, target_r=2, lora_alpha=32, target_modules=paths, total_step=9),
        "ia3": lambda: IA3Config(
            target_modules=[f"encoder.layer.{i}.{m}" for i in (1, 3)
                            for m in ("attention.self.key", "attention.self.value", "output.dense")],
            feedforward_modules=[f"encoder.layer.{i}.output.dense" for i in (1, 3)],
        ),
    }[name]()  # fmt: skip
    base, _ = tiny_model("bert")
    torch.manual_seed(11)
    hand = get_peft_model(base, config)
    theirs = {n.removeprefix("base_model.model."): v for n, v in get_peft_model_state_dict(hand).items()}
    ours = {n.replace(".default", ""): p for n, p in tuned.trainable.items() if not n.startswith("pooler")}
    theirs = {n + ".weight" if "magnitude" in n and not n.endswith("weight") else n: v for n, v in theirs.items()}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize("tuner", [wt.LoRA(r=2), wt.Adapter(), wt.Prefix()])
def test_what_is_drawn_hangs_on_the_seed_alone(tuner):
    def drawn(seed):
        model, _ = tiny_model("llama")
        torch.rand(seed + 3)  # the global generator is somewhere
        return list(wt.apply(model, planned(model, tuner), seed=seed).trainable.values())

    one, same, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_adalora_shares_out_ranks_as_peft_does():
    """Our follower, step by step beside PEFT's own model with its own loss."""
    from peft import AdaLoraConfig, get_peft_model
    from transformers.modeling_outputs import SequenceClassifierOutput

    model, tokenizer = tiny_model("bert")
    plan = planned(model, wt.AdaLoRA(r=2, start=4, every=1, orthogonality=0.5))
    tuned = wt.apply(model.eval(), plan, seed=2)
    paths = [f"encoder.layer.{i}.attention.self.{map_}" for i in (1, 3) for map_ in ("query", "value")]
    config = AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=32, target_modules=paths, total_step=10, tinit=1, tfinal=3, deltaT=1,
        orth_reg_weight=0.5,
    )  # fmt: skip

    class WithLoss(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.config = base, base.config

        def forward(self, **inputs):
            hidden = self.base(**inputs)[0]
            return SequenceClassifierOutput(loss=(hidden[:, 0, :4] ** 2).mean(), logits=hidden)

    config.target_modules = {f"base.{path}" for path in paths}
    other = WithLoss(tiny_model("bert")[0].eval())
    torch.manual_seed(2)
    hand = get_peft_model(other, config)
    batch = dict(tokenizer(["good movie", "bad plot"], return_tensors="pt"))
    (follower,) = tuned.followers
    mine = torch.optim.AdamW(tuned.attached.parameters, lr=0.05)
    follower.begin(Training(10, mine))
    theirs = torch.optim.AdamW([p for p in hand.parameters() if p.requires_grad], lr=0.05)
    for number in range(1, 11):
        loss = (model(**batch)[0][:, 0, :4] ** 2).mean() + follower.penalty()
        loss.backward()
        other = hand.base_model(**batch).loss
        other.backward()
        torch.testing.assert_close(loss, other)
        mine.step()
        follower.after_step(number - 1)
        mine.zero_grad()
        theirs.step()
        hand.base_model.update_and_allocate(number)
        theirs.zero_grad()
    entries = [p for n, p in model.named_parameters() if "lora_E" in n]
    expected = [p for n, p in hand.named_parameters() if "lora_E" in n]
    for ours, want in zip(entries, expected, strict=True):
        torch.testing.assert_close(ours, want)
    assert sum(int((entry != 0).sum()) for entry in entries) == 2 * len(entries)  # the mean rank that was asked for


# --- what may not be ----------------------------------------------------------------------------


def test_a_tuner_is_not_put_on_twice():
    for tuner in (wt.LoRA(r=2), wt.Adapter(), wt.Prefix()):
        model, _ = tiny_model("bert")
        plan = planned(model, tuner)
        tuned = wt.apply(model, plan)
        with pytest.raises(wt.WheretuneError):
            wt.apply(model, plan)
        with pytest.raises(ModelError, match="already"):
            tuner.attach(tuned.stack, plan.layers, 0)
        tuned.undo()
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        wt.apply(model, plan)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lorra", "did you mean lora"),
        ("lora:rank=2", "no option 'rank'"),
        ("lora:r", "no value"),
        ("lora:r=many", "option r is 'many'"),
        ("lora:r=0", "rank 0"),
        ("lora:dropout=1", "dropout 1"),
        ("full:embeddings=perhaps", "embeddings is 'perhaps'"),
        ("adapter:place=above", "the tuner adapter"),
        ("prefix:length=0", "length=0"),
        ("adalora:r=9:start=9", "start=9"),
        ("bias:r=2", "it has none"),
    ],
)
def test_options_that_cannot_be(text, message):
    with pytest.raises(ConfigError, match=message):
        catalog.read("tuner", text)


def test_targets():
    model, _ = tiny_model("bert")
    count = planned(model, wt.LoRA(r=1, targets="query,output.dense")).cost.trainable_parameters
    two_outputs = 2 * (64 + 64 + 96)  # query, attention.output.dense and output.dense of two layers
    assert count == two_outputs + 33
    with pytest.raises(ConfigError, match=r"targets=q_proj name no linear map.*attention\.self\.query"):
        planned(model, wt.LoRA(targets="query,q_proj"))
    with pytest.raises(ConfigError, match="rank 33"):
        planned(model, wt.PiSSA(r=33))


# --- on the command line ------------------------------------------------------------------------


@pytest.mark.parametrize("tuner", EVERY)
def test_plan_tune_evaluate_predict_merge(run, files, tiny_folder, tmp_path, tuner):
    model, scores, planned, folder = tiny_folder("bert"), tmp_path / "s", tmp_path / "p.json", tmp_path / "run"
    options = [part for option in EVERY[tuner] for part in ("--tuner-option", option)]
    assert run("score", "--model", model, "--train", files["train"], "--scorer", "depth", "--output", scores)[0] == 0
    code, out, err = run("plan", scores, "--tuner", tuner, *options, "--select", "top", "--k", 2, "--output", planned)
    assert code == 0 and tuner in out, err
    code, out, err = run(
        "tune", "--plan", planned, "--train", files["train"], "--validation", files["validation"], "--output", folder,
        *FAST, "--json",
    )  # fmt: skip
    assert code == 0, err
    result = json.loads(out)
    assert result["trainable_parameters"] == json.loads(planned.read_text())["cost"]["trainable_parameters"]
    code, out, err = run("evaluate", folder, "--data", files["validation"], "--json")
    assert code == 0 and json.loads(out)["metrics"] == result["metrics"]["validation"], err
    code, out, _ = run("predict", folder, "--data", files["test"])
    ours = [list(json.loads(line)["probabilities"].values()) for line in out.splitlines()]
    texts = [row["text"] for row in rows_of(14, 2)]
    tokenizer = AutoTokenizer.from_pretrained(model)
    batch = dict(tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt"))

    assert (folder / "adapter").is_dir() == (tuner in PEFT)
    if tuner in PEFT:  # with PEFT and the head's two tensors alone
        from peft import PeftModel

        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*adapter keys.*")
            opened = PeftModel.from_pretrained(AutoModel.from_pretrained(model), str(folder / "adapter")).eval()
        head = load_file(folder / "delta.safetensors")
        assert set(head) == {"head.1.weight", "head.1.bias"}
        with torch.no_grad():
            logits = opened(**batch)[0][:, 0] @ head["head.1.weight"].T + head["head.1.bias"]
        torch.testing.assert_close(logits.softmax(-1), torch.tensor(ours), atol=1e-5, rtol=1e-4)
        (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"another")
        one_line(*run("evaluate", folder, "--data", files["validation"])[::2], "changed after it was saved")
        run("tune", "--plan", planned, "--train", files["train"], "--output", folder, *FAST, "--overwrite")

    merged = tmp_path / "merged"
    code, out, err = run("merge", folder, "--output", merged, "--json")
    if tuner in ("adapter", "prefix"):
        one_line(code, err, "no weights of the model can do what it does")
        assert not merged.exists()
        return
    assert code == 0 and json.loads(out)["head_included"], err
    plain = AutoModelForSequenceClassification.from_pretrained(merged).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(**batch).logits.softmax(-1), torch.tensor(ours), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tuner", ["lora", "pissa", "adalora", "prefix"])
def test_stopped_it_goes_on_and_ends_the_same(run, files, tiny_folder, tmp_path, monkeypatch, tuner):
    def command(folder):
        options = [part for option in EVERY[tuner] for part in ("--tuner-option", option)]
        return run(
            "tune", "--model", tiny_folder("bert"), "--train", files["train"], "--tuner", tuner, *options, "--select",
            "top", "--epochs", 3, "--learning-rate", "1e-2", "--batch-size", 8, "--output", folder,
        )  # fmt: skip

    original = trainer.save_checkpoint

    def stop(*given):
        original(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "save_checkpoint", stop)
    assert command(tmp_path / "stopped")[0] == 130
    monkeypatch.undo()
    assert len(list((tmp_path / "stopped").glob("checkpoint-*"))) == 1
    assert command(tmp_path / "stopped")[0] == command(tmp_path / "once")[0] == 0
    written = sorted(p.relative_to(tmp_path / "once") for p in (tmp_path / "once").rglob("*.safetensors"))
    assert len(written) == (1 if tuner == "prefix" else 2)
    for name in written:
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "once" / name).read_bytes()


def test_options_from_a_file_and_all_layers(run, files, tiny_folder, tmp_path):
    config = tmp_path / "plan.yaml"
    config.write_text("tuner: lora\ntuner_option: [r=3, 'targets=query,key']\nlayers: all\nscorer: depth\n")
    code, out, err = run(
        "plan", "--config", config, "--model", tiny_folder("bert"), "--train", files["train"], "--output",
        tmp_path / "plan.json", "--json",
    )  # fmt: skip
    assert code == 0, err
    plan = json.loads(out)
    assert plan["layers"] == [0, 1, 2, 3] and plan["tuner"]["params"]["targets"] == "query,key"
    assert plan["cost"]["trainable_parameters"] == 4 * 2 * 3 * 64 + 66
    whole = sum(layer["parameters"] for layer in plan["model"]["layers"])
    # All by 2 T: a layer's maps have 4 * 32^2 + 2 * 32 * 64 = 8192 weights, attention takes 2 T * 32. In the last layer
    # keys and values (2048) run for all tokens, 6144 weights for one.
    tokens = plan["cost"]["tokens"]
    assert 5 < tokens < 25  # of the texts, although no scorer has read them
    maps, attention, last = 8192, 2 * tokens * 32, 2048 + 6144 / tokens
    forward, down = 3 * maps + last + 4 * attention, 4 * 2 * attention + (maps - 3072) + 2 * maps + last
    trained = (3 * maps + last) * 4 * 2 * 3 * 64 / whole
    everything = 4 * (3 * maps + 3 * attention)
    assert plan["cost"]["expected_speed_up"] == pytest.approx(everything / (forward + down + trained))


def test_methods_combine_and_their_scorers_share_a_pass(run, files, tiny_folder, tmp_path):
    methods = "full,lora:r=2,prism+lora:r=2,cka+pissa:r=2,top+adapter,depth+lowest+prefix,ia3,bias"
    common = (
        "compare", "--model", tiny_folder("bert"), "--train", files["train"], "--test", files["test"], "--k", 2,
        "--seeds", 0, *FAST[:2], "--batch-size", 16, "--output", tmp_path / "compared", "--json",
    )  # fmt: skip
    code, out, err = run(*common, "--methods", methods)
    assert code == 0, err
    lines = {line["method"]: line for line in json.loads(out)["methods"]}
    assert list(lines) == methods.split(",")
    assert lines["lora:r=2"]["layers"] == [[0, 1, 2, 3]] and lines["top+adapter"]["layers"] == [[2, 3]]
    assert lines["depth+lowest+prefix"]["layers"] == [[0, 1]]
    assert lines["lora:r=2"]["trainable_parameters"] == 2 * lines["prism+lora:r=2"]["trainable_parameters"] - 66
    scores = {
        one["scorer"]["name"]: one for one in json.loads((tmp_path / "compared/scores.json").read_text())["scores"]
    }
    assert set(scores) == {"depth", "cosine-centrality", "cka"}
    assert len({one["seconds"] for one in scores.values()}) == 1
    charged = {name for name, line in lines.items() if line["score_seconds"] > 0}
    assert charged == {"prism+lora:r=2", "cka+pissa:r=2", "depth+lowest+prefix"}
    code, out, err = run(*common, "--methods", f"{methods},io-cosine+ia3")
    assert code == 0, err
    one_line(*run(*common, "--methods", "lorra")[::2], "did you mean lora")
    assert run(*common, "--methods", "cka+lora:r=2,cka:estimator=debiased+lora:r=2")[0] == 0  # each by its own scores
    every = json.loads((tmp_path / "compared/scores.json").read_text())["scores"]
    estimators = [one["scorer"]["params"]["estimator"] for one in every if one["scorer"]["name"] == "cka"]
    assert estimators == ["biased", "debiased"]


def test_a_delta_is_put_into_the_user_s_own_model(tmp_path):
    for tuner in (wt.LoRA(r=2), wt.Adapter(), wt.Prefix(length=2), wt.IA3()):
        model, tokenizer = tiny_model("bert")
        tuned = wt.apply(model, planned(model, tuner))
        with torch.no_grad():
            for parameter in tuned.trainable.values():
                parameter += 0.1
        folder = tmp_path / tuner.name
        wt.save_delta(tuned, folder)
        fresh, _ = tiny_model("bert")
        batch = tokenizer(sentences(3), padding=True, return_tensors="pt")
        wt.load_delta(fresh, folder)
        with torch.no_grad():
            torch.testing.assert_close(fresh(**batch)[0], model(**batch)[0])
        assert not torch.equal(fresh(**batch)[0], tiny_model("bert")[0](**batch)[0])
    (tmp_path / "lora" / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(DeltaError, match="changed after it was saved"):
        wt.load_delta(tiny_model("bert")[0], tmp_path / "lora")


def test_what_is_pushed_to_a_hub_opens_from_there(run, files, tiny_folder, tmp_path, monkeypatch):
    """The hub is a folder here: what would be uploaded is copied, and what would be downloaded is read."""
    import shutil
    from fnmatch import fnmatch

    import huggingface_hub

    class Hub:
        def model_info(self, name, revision=None, timeout=None):
            return type("Info", (), {"sha": "commit"})

        def create_repo(self, name, private, exist_ok):
            assert name == "somebody/tuned" and private and exist_ok

        def upload_folder(self, repo_id, folder_path, allow_patterns):
            for path in Path(folder_path).rglob("*"):
                name = path.relative_to(folder_path)
                if path.is_file() and any(fnmatch(str(name), pattern) for pattern in allow_patterns):
                    (tmp_path / "hub" / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, tmp_path / "hub" / name)
            return "https://hub/somebody/tuned"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, revision, allow_patterns: str(tmp_path / "hub")
    )
    folder = tmp_path / "run"
    run("tune", "--model", tiny_folder("bert"), "--train", files["train"], "--tuner", "lora", "--output", folder, *FAST)
    assert wt.push_to_hub(folder, "somebody/tuned") == "https://hub/somebody/tuned"
    uploaded = {str(p.relative_to(tmp_path / "hub")) for p in (tmp_path / "hub").rglob("*") if p.is_file()}
    assert uploaded == {"README.md", "delta.safetensors", "wheretune.json", "adapter/adapter_config.json",
                        "adapter/adapter_model.safetensors"}  # fmt: skip
    monkeypatch.chdir(tmp_path)
    there, here = wt.open_finetuned("somebody/tuned"), wt.open_finetuned(folder)
    data = wt.from_texts(sentences(5))
    assert (there.logits(data) == here.logits(data)).all()
    with pytest.raises(DeltaError, match="no finished delta"):
        wt.push_to_hub(tmp_path / "hub" / "adapter", "somebody/tuned")


def test_the_same_numbers_as_peft_by_hand(tmp_path):
    """Our LoRA run beside PEFT put on by hand: the same batches, seed and settings give the same bytes."""
    from peft import LoraConfig, get_peft_model

    settings = TrainSettings(epochs=2, learning_rate=1e-2, batch_size=4, seed=5)
    results = []
    for by_hand in (False, True):
        base, tokenizer = tiny_model("bert")
        base.pooler = None
        data = wt.from_texts(sentences(20), classes_of(20))
        if by_hand:
            paths = [f"encoder.layer.{i}.attention.self.{m}" for i in (1, 3) for m in ("query", "value")]
            torch.manual_seed(5)
            base = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=paths)).get_base_model()
        model = headed(find_layers(base), wt.LastToken(), data, seed=5)
        if not by_hand:
            wt.apply(model, planned(base, wt.LoRA(r=4, alpha=8)), seed=5, frozen_dropout=True)
        torch.manual_seed(1)
        collate = task_of(data.info).collator(tokenizer)
        train(model, encode(data, tokenizer, 64), collate, settings, tmp_path / str(by_hand))
        results.append({name: p.detach() for name, p in model.named_parameters() if p.requires_grad})
    ours, theirs = results
    assert ours.keys() == theirs.keys() and len(ours) == 10
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_olft_probes_with_the_tuner_that_will_tune(run, files, tiny_folder, tmp_path):
    model = tiny_folder("bert", num_hidden_layers=6)
    probe = "layer-probe:samples=16:epochs=1:batch_size=8"
    methods = f"{probe}+middle-best:k=1+adapter,{probe}+middle-best:k=1+lora:r=2"
    code, out, err = run(
        "compare", "--model", model, "--train", files["train"], "--test", files["test"], "--methods", methods,
        "--seeds", 0, "--epochs", 1, "--output", tmp_path / "c", "--json",
    )  # fmt: skip
    assert code == 0, err
    every = json.loads((tmp_path / "c" / "scores.json").read_text())["scores"]
    probed = [one["scorer"]["params"]["tuner"]["name"] for one in every if one["scorer"]["name"] == "layer-probe"]
    assert sorted(probed) == ["adapter", "lora"]
    for line in json.loads(out)["methods"]:
        assert line["layers"] in ([[2]], [[3]])
    plan = ("plan", "--model", model, "--train", files["train"], "--scorer", probe, "--tuner", "lora")
    assert run(*plan, "--output", tmp_path / "p.json")[0] == 0
    made = json.loads((tmp_path / "p.json").read_text())
    assert made["tuner"]["name"] == made["scorer"]["params"]["tuner"]["name"] == "lora"


def test_an_encoder_decoder_is_scored_by_its_weights_and_tuned_in_the_user_s_own_model(run, files, tmp_path):
    import transformers

    _, tokenizer = tiny_model("bert")
    config = transformers.T5Config(
        d_model=32, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4, d_kv=8, vocab_size=len(tokenizer)
    )
    torch.manual_seed(0)
    whole = transformers.T5ForConditionalGeneration(config)
    whole.save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    common = ("--model", tmp_path / "t5", "--train", files["train"])
    code, _, err = run("score", *common, "--scorer", "weight-snr", "--output", tmp_path / "s.json")
    assert code == 0, err
    one_line(*run("score", *common, "--output", tmp_path / "n.json")[::2], "encoder-decoder", "weight-snr")
    code, _, err = run(
        "plan", tmp_path / "s.json", "--layers", "1,4", "--tuner", "lora", "--output", tmp_path / "p.json"
    )
    assert code == 0, err
    one_line(
        *run("tune", "--plan", tmp_path / "p.json", *common[2:], "--output", tmp_path / "r")[::2], "encoder-decoder"
    )
    assert not (tmp_path / "r").exists()
    plan = wt.load(wt.Plan, tmp_path / "p.json")
    opened = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "t5")
    names = {name.rsplit(".lora_", 1)[0] for name in wt.apply(opened, plan).trainable}
    assert names == {f"{layer}.layer.0.SelfAttention.{map_}" for layer in ("encoder.block.1", "decoder.block.2")
                     for map_ in ("q", "v")}  # fmt: skip


def test_a_model_that_cannot_be_read_takes_the_path_of_its_layers(run, files, tmp_path):
    import transformers

    _, tokenizer = tiny_model("bert")
    strange = tmp_path / "strange"
    config = transformers.XLMConfig(
        emb_dim=32, n_layers=3, n_heads=4, vocab_size=len(tokenizer), max_position_embeddings=64
    )
    transformers.XLMModel(config).save_pretrained(strange)
    tokenizer.save_pretrained(strange)
    common = ("score", "--model", strange, "--train", files["train"], "--scorer", "depth", "--output")
    one_line(*run(*common, tmp_path / "s.json")[::2], "--layers-attribute")
    one_line(*run(*common, tmp_path / "s.json", "--layers-attribute", "nowhere")[::2], "ffns with 3")
    code, _, err = run(*common, tmp_path / "s.json", "--layers-attribute", "ffns")
    assert code == 0, err
    chosen = ("plan", tmp_path / "s.json", "--layers", "1", "--output", tmp_path / "plan.json")
    one_line(*run(*chosen, "--tuner", "prefix")[::2], "no self-attention was found")
    one_line(*run(*chosen, "--tuner", "lora")[::2], "no query and value maps were found", "lin1, lin2")
    code, _, err = run(*chosen)
    assert code == 0, err
    code, _, err = run("tune", "--plan", tmp_path / "plan.json", "--train", files["train"], "--output", tmp_path / "r",
                       *FAST)  # fmt: skip
    assert code == 0, err
    assert set(load_file(tmp_path / "r" / "delta.safetensors")) == {
        "base.ffns.1.lin1.weight", "base.ffns.1.lin1.bias", "base.ffns.1.lin2.weight", "base.ffns.1.lin2.bias",
        "head.1.weight", "head.1.bias",
    }  # fmt: skip
    assert run("evaluate", tmp_path / "r", "--data", files["test"])[0] == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would work")
def test_a_quantised_base_needs_the_hardware_and_says_so(run, files, tiny_folder, tmp_path):
    common = ("--model", tiny_folder("llama"), "--train", files["train"], "--quantize", "4bit", "--output")
    for command in ("score", "plan", "tune"):
        one_line(*run(command, *common, tmp_path / command)[::2], "--quantize", "in 4bit needs a CUDA device")
        assert not (tmp_path / command).exists()


def test_weights_that_are_quantised_are_not_trained():
    model, _ = tiny_model("bert")
    plan = planned(model, wt.WholeLayers())
    stack = find_layers(model)
    names = [name for name, _ in model.named_modules()]

    class Packed(torch.nn.Module):  # as bitsandbytes keeps them: whole numbers that cannot require a gradient
        def __init__(self, linear):
            super().__init__()
            self.weight = torch.nn.Parameter(linear.weight.to(torch.uint8), requires_grad=False)

    stack.layers[1].module.output.dense = Packed(stack.layers[1].module.output.dense)
    info = replace(plan.model, hash=describe(find_layers(model)).hash)
    with pytest.raises(wt.WheretuneError, match="would train weights that are quantised"):
        wt.apply(model, replace(plan, model=info))
    assert [name for name, _ in model.named_modules()] == names
