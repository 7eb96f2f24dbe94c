"""Every tuner on the command line: planned, trained, opened again, stopped and gone on with."""

import json
import signal
import warnings

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import wheretune as wt
from helpers.commands import FAST, one_line
from helpers.models import tiny_model
from helpers.often import often
from helpers.texts import rows_of
from helpers.tuners import EVERY, PEFT
from wheretune import catalog
from wheretune.training import trainer


def test_every_tuner_of_the_catalog_is_tried():
    assert {*EVERY, "full"} == set(catalog.names("tuner"))


@pytest.mark.parametrize("tuner", often(EVERY, ["lora", "bias"]))
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


@pytest.mark.parametrize("tuner", often(["lora", "pissa", "adalora", "prefix"], ["adalora"]))
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
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(trainer, "save_checkpoint", stop)
    before = signal.getsignal(signal.SIGTERM)
    code, _, err = command(tmp_path / "stopped")
    assert code == 143 and "stopped; give the same command again" in err and "Traceback" not in err
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    assert len(list((tmp_path / "stopped").glob("checkpoint-*"))) == 1
    again, once = command(tmp_path / "stopped"), command(tmp_path / "once")
    assert again[0] == once[0] == 0
    assert "goes on from step 5 of 15" in again[2] and "goes on from" not in once[2]  # 40 rows, batches of 8
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    one_line(*run("score", *common, "--output", tmp_path / "n.json")[::2], "no decoder_start_token_id")
    code, _, err = run(
        "plan", tmp_path / "s.json", "--layers", "1,4", "--tuner", "lora", "--output", tmp_path / "p.json"
    )
    assert code == 0, err
    one_line(
        *run("tune", "--plan", tmp_path / "p.json", *common[2:], "--output", tmp_path / "r")[::2],
        "no decoder_start_token_id",
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
