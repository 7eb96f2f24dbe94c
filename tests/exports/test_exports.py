"""A plan in other tools' words: what they make of it is what the plan says, or they are not given it."""

import json
import re
import sys
import types
import warnings
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
import yaml
from peft import get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import wheretune as wt
from helpers import made_up
from helpers.commands import one_line
from helpers.models import FAMILIES, tiny_model, tiny_tokenizer
from helpers.texts import sentences
from wheretune import catalog, planning
from wheretune.errors import ConfigError
from wheretune.exports.base import export
from wheretune.exports.peft import peft_config
from wheretune.model.finding import find_layers
from wheretune.records.base import Spec

# what a config needs beside its layers, or needs to be as small as these models
NEEDS = {
    "adalora": {"total_step": 5},
    "boft": {"boft_block_size": 4},
    "fourierft": {"n_frequency": 4},
    "c3a": {"block_size": 8},
    "miss": {"r": 8},
    "oft": {"oft_block_size": 8},
    "shira": {"r": 2},
    "vblora": {"vector_length": 8, "num_vectors": 4},
    "waveft": {"n_frequency": 4},
}


def planned(family="llama", tuner=None, layers=(1, 3), model=None):
    own, tokenizer = tiny_model(family)
    scores = wt.score(model or own, tokenizer, wt.from_texts(sentences(8)), wt.Depth())
    return wt.plan(scores, wt.Explicit(layers), tuner=tuner)


def takes_layers():
    configs = {kind.value.lower(): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    return sorted(name for name, c in configs.items() if "layers_to_transform" in c.__dataclass_fields__)


@pytest.mark.parametrize("method", [*takes_layers(), "ia3"])
def test_every_peft_config_that_takes_layers(method):
    plan = planned("llama")
    config = plan.to_peft(method, **NEEDS.get(method, {}))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"](50))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = get_peft_model(model, config)
    adapted = {name.split("layers.")[1] for name, m in made.named_modules() if isinstance(m, BaseTunerLayer)}
    maps = ("self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj") if method == "ia3" else (
        "self_attn.q_proj", "self_attn.v_proj")  # fmt: skip
    assert {name for name in adapted if name.count(".") == 2} == {f"{i}.{m}" for i in (1, 3) for m in maps}
    trained = [name for name, p in made.named_parameters() if p.requires_grad and ".model.layers." in name]
    assert trained
    assert all(".layers.1." in name or ".layers.3." in name for name in trained)


def test_peft_methods_that_are_put_on_no_modules_and_options_it_does_not_know():
    plan = planned()
    with pytest.raises(ConfigError, match=r"PEFT puts no 'prefix_tuning' on modules; known are .*lora"):
        plan.to_peft("prefix_tuning")
    with pytest.raises(ConfigError, match="no option 'rank'"):
        plan.to_peft("lora", rank=2)
    assert len(plan.to_peft("lora", "all-linear", r=2, task_type="SEQ_CLS").target_modules) == 14


@pytest.mark.parametrize("tuner", [wt.LoRA(r=4, alpha=7), wt.PiSSA(r=4), wt.DoRA(r=4), wt.IA3()])
def test_the_plan_s_own_tuner_as_a_peft_config(tuner):
    plan = planned(tuner=tuner)
    made = get_peft_model(tiny_model("llama")[0], peft_config(plan))
    assert made.get_nb_trainable_parameters()[0] == plan.cost.trainable_parameters - 32
    written = json.loads(export(plan, "peft"))
    assert sorted(written["target_modules"]) == sorted(peft_config(plan).target_modules)
    with pytest.raises(ConfigError, match="PEFT has no config for the tuner"):
        export(planned(tuner=wt.Adapter()), "peft")


@pytest.mark.parametrize(  # Llama has no biases
    ("family", "tuner"),
    [*((family, wt.WholeLayers()) for family in ("llama", "gpt2", "qwen2")), ("gpt2", wt.Bias()), ("qwen2", wt.Bias())],
)
def test_axolotl_unfreezes_the_plan_s_layers(family, tuner):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family](len(tiny_tokenizer(family))))
    patterns = yaml.safe_load(export(planned(family, tuner), "axolotl"))["unfrozen_parameters"]
    # axolotl/utils/freeze.py: every dot is escaped (newer versions: unless a plus follows), then re.match
    for escape in (lambda p: p.replace(".", "\\."), lambda p: re.sub(r"\.(?!\+)", "\\.", p), lambda p: p):
        found = {n for n, _ in model.named_parameters() if any(re.match(escape(p), n) for p in patterns)}
        stack = find_layers(model)
        paths = tuple(f"{stack.base_path}.{stack.layers[i].path}." for i in (1, 3))
        expected = {n for n, _ in model.named_parameters() if n.startswith(paths)}
        if isinstance(tuner, wt.Bias):
            expected = {name for name in expected if name.endswith("bias")}
        assert found == expected and found


def test_low_rank_plans_for_axolotl_and_llama_factory():
    plan = planned(tuner=wt.PiSSA(r=4, targets="all-linear"))
    axolotl = yaml.safe_load(export(plan, "axolotl"))
    assert axolotl["adapter"] == "lora" and axolotl["lora_r"] == axolotl["lora_alpha"] == 4
    factory = yaml.safe_load(export(plan, "llama-factory"))
    assert factory["pissa_init"] is True and factory["finetuning_type"] == "lora"
    for names in (axolotl["lora_target_modules"], factory["lora_target"].split(",")):
        assert names == plan.targets("all-linear") and len(names) == 14
        assert all(name.startswith(("layers.1.", "layers.3.")) for name in names)


@pytest.mark.parametrize(("layers", "number"), [((2, 3), 2), ((0, 1, 2), -3), ((0, 1, 2, 3), 4), ((1, 3), None)])
def test_llama_factory_trains_the_first_or_the_last_layers(layers, number):
    plan = planned(layers=layers)
    if number is None:
        with pytest.raises(ConfigError, match="first or the last layers only, not 1, 3"):
            export(plan, "llama-factory")
    else:
        assert yaml.safe_load(export(plan, "llama-factory"))["freeze_trainable_layers"] == number


def test_what_a_tool_cannot_say_is_an_error():
    for tool in catalog.names("export"):
        for tuner in (wt.Prefix(), wt.Adapter(), wt.AdaLoRA()):
            with pytest.raises(ConfigError, match="plan with"):
                export(planned(tuner=tuner), tool)
    with pytest.raises(ConfigError, match="known are peft, trl"):
        export(planned(), "excel")
    everything = planned(tuner=wt.WholeLayers(embeddings=True), layers=(0, 1, 2, 3))
    with pytest.raises(ConfigError, match="needs no export"):
        export(everything, "axolotl")


def test_plans_made_without_scores_and_what_no_config_can_say():
    model = made_up.model_info()
    for tool in catalog.names("export"):
        assert export(planning.plan(model, wt.Top(2), tuner=wt.LoRA(r=2)), tool)
        with pytest.raises(ConfigError, match="names no layers"):
            export(planning.plan(model, None, tuner=wt.HeadOnly()), tool)
    half = planning.plan(model, wt.Top(2), tuner=wt.LoRA(r=2, alpha=1.5))
    for tool in ("trl", "axolotl", "llama-factory"):
        with pytest.raises(ConfigError, match=r"takes whole numbers for alpha, and the plan has 1\.5"):
            export(half, tool)
    assert json.loads(export(half, "peft"))["lora_alpha"] == 1.5
    bare = replace(half, tuner=Spec("ia3"), model=made_up.model_info(parts=made_up.bert_parts(mlp_output=None)))
    with pytest.raises(ConfigError, match="layer 2 has no key, value and MLP output maps"):
        export(bare, "peft")


def test_trl_names_no_layer_but_the_chosen():
    plan = planning.plan(made_up.model_info(layers=12), wt.Explicit((1,)))
    (pattern,) = yaml.safe_load(export(plan, "trl"))["unfrozen_parameters"]
    names = [f"bert.encoder.layer.{layer}.q.weight" for layer in range(12)]
    assert [name for name in names if re.match(pattern, name)] == ["bert.encoder.layer.1.q.weight"]


def run_as_unsloth(script):
    """What a script asks of Unsloth, by method, and what it leaves behind; a stand-in takes down what it is given."""
    asked = {}
    model = AutoModelForCausalLM.from_config(FAMILIES["gpt2"](len(tiny_tokenizer("gpt2"))))

    class FastLanguageModel:
        @staticmethod
        def from_pretrained(name, **options):
            asked["from_pretrained"] = (name, options)
            return model, None

        @staticmethod
        def get_peft_model(model, **options):
            asked["get_peft_model"] = options
            return get_peft_model(model, PEFT_TYPE_TO_CONFIG_MAPPING["LORA"](**options))

    left = {}
    sys.modules["unsloth"] = types.SimpleNamespace(FastLanguageModel=FastLanguageModel)
    try:
        exec(script, left)
    finally:
        del sys.modules["unsloth"]
    return asked, left["model"]


def inside(names):
    return {name.split(".h.")[1].split(".")[0] for name in names if ".h." in name}


@pytest.mark.parametrize("tuner", [wt.LoRA(r=2, alpha=3.5), wt.DoRA(r=2), wt.PiSSA(r=2), wt.WholeLayers(), wt.Bias()])
def test_unsloth_and_ms_swift_train_the_plan_s_layers(tuner):
    plan = planned("gpt2", tuner)
    asked, model = run_as_unsloth(export(plan, "unsloth"))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    swift = yaml.safe_load(export(plan, "ms-swift"))
    assert asked["from_pretrained"][0] == swift["model"] == plan.model.name
    assert inside(trained) == {"1", "3"} and all(".h." in name for name in trained)
    if isinstance(tuner, wt.WholeLayers | wt.Bias):
        assert asked["from_pretrained"][1] == {"full_finetuning": True}
        assert (swift["tuner_type"], swift["freeze_parameters_ratio"]) == ("full", 1.0)
        thawed = re.compile(swift["trainable_parameters_regex"])  # swift/utils/transformers_utils.py: pattern.search
        assert {name for name, _ in model.named_parameters() if thawed.search(name)} == trained
        assert not thawed.search("transformer.h.11.mlp.c_fc.bias") and isinstance(tuner, wt.Bias) == all(
            name.endswith("bias") for name in trained
        )
    else:
        given = asked["get_peft_model"]
        assert given["target_modules"] == swift["target_modules"] == plan.targets(tuner.targets)
        assert (given["r"], given["lora_alpha"]) == (swift["lora_rank"], swift["lora_alpha"]) == (2, tuner.alpha or 2)
        assert given.get("use_dora", False) == swift.get("use_dora", False) == isinstance(tuner, wt.DoRA)
        assert given.get("init_lora_weights") == swift.get("init_weights")


def test_a_schedule_that_moves_is_no_other_tool_s(monkeypatch):
    moving = replace(planning.plan(made_up.model_info(), wt.Top(2)), schedule=Spec("moving"))
    monkeypatch.setitem(catalog.ROWS, "schedule", {**catalog.ROWS["schedule"], "moving": f"{__name__}:Moving"})
    with pytest.raises(ConfigError, match="no tool can carry out the schedule moving"):
        export(moving, "axolotl")


@dataclass(frozen=True)
class Moving:
    """A schedule that freezes layers."""

    name: ClassVar[str] = "moving"
    moves: ClassVar[bool] = True


def test_export_and_inspect_on_the_command_line(run, tiny_folder, tmp_path):
    wt.save(planned(tuner=wt.LoRA(r=2)), tmp_path / "plan.json")
    code, out, _ = run("export", tmp_path / "plan.json", "--to", "trl")
    assert code == 0 and yaml.safe_load(out)["lora_r"] == 2
    code, _, _ = run("export", tmp_path / "plan.json", "--to", "axolotl", "--output", tmp_path / "a.yaml")
    assert code == 0 and len(yaml.safe_load((tmp_path / "a.yaml").read_text())["lora_target_modules"]) == 4
    one_line(*run("export", tmp_path / "plan.json", "--to", "excel")[::2], "known are")

    model, _ = tiny_model("llama")
    code, out, err = run("inspect", tiny_folder("llama"), "--json")
    assert code == 0, err
    layers = json.loads(out)["layers"]
    assert [one["path"] for one in layers] == [f"layers.{i}" for i in range(4)]
    assert layers[2]["parameters"] == sum(p.numel() for p in model.layers[2].parameters())
    assert layers[0]["tuners"]["lora"] == 16 * (64 + 64) and layers[0]["tuners"]["bias"] is None
    code, out, _ = run("inspect", tiny_folder("llama"))
    assert code == 0 and "layers.3" in out and "adalora" in out
    one_line(*run("inspect")[::2], "MODEL is missing")


@pytest.mark.slow
def test_trl_reads_the_config_and_its_trainer_takes_a_plan(tmp_path):
    from datasets import Dataset
    from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

    plan = planned(tuner=wt.LoRA(r=2))
    theirs = get_peft_config(ModelConfig(**yaml.safe_load(export(plan, "trl"))))
    assert set(theirs.target_modules) == set(plan.targets()) and theirs.r == 2

    rows = Dataset.from_dict({"text": sentences(16)})
    arguments = SFTConfig(
        str(tmp_path), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2, report_to="none",
        save_strategy="no", disable_tqdm=True, bf16=False, use_cpu=True, gradient_checkpointing=False,
    )  # fmt: skip
    for tuner in (wt.WholeLayers(), wt.LoRA(r=2), wt.Adapter(reduction=4), wt.Prefix(length=2)):
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer("llama")
        tokenizer.eos_token = "<unk>"
        model = AutoModelForCausalLM.from_config(FAMILIES["llama"](len(tokenizer)))
        tuned = wt.apply(model, planned(tuner=tuner, model=model))
        SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer).train()
        tuned.check()
        tuned.undo()


def test_a_peft_config_from_a_plan_in_a_classifier():
    base, tokenizer = tiny_model("bert")
    model = AutoModelForSequenceClassification.from_config(base.config)
    plan = wt.plan(
        wt.score(model, tokenizer, wt.from_texts(sentences(8)), wt.Depth()), wt.Top(1), tuner=wt.LoRA(r=2)
    )  # fmt: skip
    made = get_peft_model(model, plan.to_peft("lora", r=2, task_type="SEQ_CLS"))
    adapted = {n for n, m in made.named_modules() if isinstance(m, BaseTunerLayer)}
    assert adapted == {f"base_model.model.bert.encoder.layer.3.attention.self.{m}" for m in ("query", "value")}
