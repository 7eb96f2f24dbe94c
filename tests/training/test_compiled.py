"""Layers that are compiled train as those that are not, and are compiled once for texts of all lengths."""

import shutil

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file

import wheretune as wt
from helpers.commands import one_line
from helpers.models import tiny_model
from helpers.texts import classes_of, sentences
from helpers.training import Watch, fresh
from wheretune import catalog
from wheretune.data.tokens import encode
from wheretune.errors import ConfigError, ModelError
from wheretune.heads.headed import headed
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe
from wheretune.records.base import Spec
from wheretune.records.runs import CacheSettings, TrainSettings, load_result
from wheretune.savings.together import saving
from wheretune.tasks.base import task_of
from wheretune.training.loop import train


@pytest.fixture(autouse=True)
def nothing_compiled(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # no type is checked in what is compiled
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def trained(folder, family, tuner, layers, backend, schedule=None, recomputed=False, cache="off", epochs=2, **settings):
    """The weights after training on texts of many lengths, and what was compiled."""
    base, tokenizer = tiny_model(family)
    if family == "bert":
        base.pooler = None
    stack, data = find_layers(base), wt.from_texts(sentences(23), classes_of(23))
    model = headed(stack, wt.LastToken(), data, seed=0)
    parts = {"tuner": catalog.build("tuner", tuner), "schedule": catalog.build("schedule", schedule or Spec("static"))}
    tuned = wt.apply(model, wt.plan(describe(stack), wt.Explicit(layers), data=data.info, **parts))
    if recomputed:
        tuned.recompute()
    rows, collate = encode(data, tokenizer, 64), task_of(data.info).collator(tokenizer)
    how = TrainSettings(learning_rate=1e-3, epochs=epochs, batch_size=4, **settings)
    try:
        with saving(tuned.stack, "0" * 64, rows, collate, how, folder, CacheSettings(cache)) as saved:
            assert saved.cache.where == cache
            if backend is not None:
                tuned.compile(backend, whole=not saved.one_token)
            train(model, rows, collate, how, None, followers=tuned.followers)
        tuned.check()
        return {name: value.detach().clone() for name, value in model.state_dict().items()}, tuned
    finally:
        tuned.undo()


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if not name.endswith("key.bias"):  # whose gradient is zero but for rounding
            torch.testing.assert_close(other[name], value, atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


WHOLE, LISA = Spec("full"), Spec("lisa", {"layers": 1, "every": 2})
CASES = {  # and how many graphs there are at most: of states that enter with and without a gradient, of a frozen layer
    "cached": (dict(family="llama", tuner=WHOLE, layers=(1, 2, 3), cache="memory"), 2),
    "all tokens": (dict(family="llama", tuner=WHOLE, layers=(1, 2, 3), all_tokens=True), 2),
    "a frozen layer between": (dict(family="bert", tuner=WHOLE, layers=(1, 3)), 2),
    "recomputed": (dict(family="bert", tuner=WHOLE, layers=(0, 2, 3), recomputed=True, epochs=1), 3),
    "lora": (dict(family="llama", tuner=Spec("lora"), layers=(1, 2, 3), cache="disk"), 2),
    "adapters in some layers": (dict(family="bert", tuner=Spec("adapter"), layers=(0, 2, 3)), 3),
    "prefix": (dict(family="bert", tuner=Spec("prefix"), layers=(0, 2)), 3),
    "packed": (dict(family="llama", tuner=WHOLE, layers=(1, 2, 3), packed=True), 2),
    "lisa": (dict(family="llama", tuner=WHOLE, layers=(0, 1, 2, 3), schedule=LISA, epochs=4), 4),
    "lift": (dict(family="llama", tuner=WHOLE, layers=(1, 2, 3), schedule=Spec("lift")), 3),
    "adalora": (dict(family="bert", tuner=Spec("adalora", {"r": 2, "start": 3, "every": 2}), layers=(1, 2, 3)), 2),
}
EVERY_TIME = ("cached",)


@pytest.mark.parametrize("case", [pytest.param(n, marks=[] if n in EVERY_TIME else pytest.mark.slow) for n in CASES])
def test_compiled_layers_train_as_others_and_are_compiled_once(tmp_path, case):
    how, most = CASES[case]
    plain, _ = trained(tmp_path / "plain", backend=None, **how)
    backend = "aot_eager" if how.get("recomputed") else "eager"  # which drops out anew where it recomputes
    compiled, tuned = trained(tmp_path / "compiled", backend=backend, **how)
    assert_equal(plain, compiled)
    said = tuned.compiled()["compiled layers"]
    assert 1 <= int(said.split(": ")[1].split()[0]) <= most, said
    assert ("not the last" in said) is not (how.get("all_tokens") or how.get("packed") or False), said


@pytest.mark.slow
def test_dropout_and_what_autograd_compiles_are_the_same(tmp_path):
    how = dict(family="bert", tuner=WHOLE, layers=(1, 2, 3), epochs=1)
    plain, _ = trained(tmp_path / "plain", backend=None, **how)
    assert_equal(plain, trained(tmp_path / "compiled", backend="aot_eager", **how)[0])


def test_the_model_comes_back_as_it_was():
    model, tuned, rows, collate = fresh()
    layers = [layer.module for layer in tuned.stack.layers]
    limit, keys = torch._dynamo.config.recompile_limit, list(model.state_dict())
    tuned.compile("eager")
    train(model, rows, collate, TrainSettings(learning_rate=1e-3, epochs=1, batch_size=8), None)
    assert list(model.state_dict()) == keys
    assert [("forward" in vars(layer)) for layer in layers] == [False, True, True, True]
    during = tuned.compiled()
    tuned.undo()
    assert not any("forward" in vars(layer) for layer in layers)
    assert torch._dynamo.config.recompile_limit == limit and torch._dynamo.config.skip_nnmodule_hook_guards
    model.train()(**collate(rows[:3])).loss.backward()
    assert tuned.compiled() == during == {"compiled layers": "1, 2, 3 by torch.compile (eager): 2 graphs"}


def test_layers_that_share_what_is_compiled_keep_hooks_of_their_own():
    found = []
    for backend in (None, "eager"):
        model, tuned, rows, collate = fresh(layers=(1, 2, 3))
        inner = tuned.stack.layers[2].module.attention.output.dense
        inner.register_forward_hook(lambda _, __, output: output / 2)  # in one layer, and not in the first
        if backend:
            tuned.compile(backend)
        train(model, rows, collate, TrainSettings(learning_rate=1e-3, epochs=1, batch_size=8), None)
        found.append({name: value.clone() for name, value in model.state_dict().items()})
        tuned.undo()
    assert_equal(*found)


def test_a_judged_model_runs_as_written():
    model, tuned, rows, collate = fresh()
    tuned.compile("eager")
    with torch.no_grad():
        model.eval()(**collate(rows[:3]))
    assert tuned.compiled()["compiled layers"].endswith(": 0 graphs")
    tuned.undo()


@pytest.mark.slow
def test_a_stopped_training_goes_on_compiled(tmp_path):
    settings = TrainSettings(learning_rate=1e-3, epochs=3, batch_size=8)  # BERT with dropout: 3 steps per epoch

    def ended(folder, stop=None, compiled=True):
        model, tuned, rows, collate = fresh()
        if compiled:
            tuned.compile("eager")
        try:
            train(model, rows, collate, settings, folder, followers=(Watch(stop),))
        except KeyboardInterrupt:
            pass
        finally:
            tuned.undo()
        return {name: value.detach().clone() for name, value in model.state_dict().items()}

    ended(tmp_path / "stopped", stop=4, compiled=False)
    names = load_file(next((tmp_path / "stopped").glob("checkpoint-3/*.safetensors")))
    assert names and not any("_orig_mod" in name for name in names)
    assert_equal(ended(tmp_path / "whole"), ended(tmp_path / "stopped"))


def test_what_cannot_be_compiled_is_said():
    @torch._dynamo.register_backend(name="wheretune-broken")
    def broken(graph, inputs):
        raise OSError("there is no compiler\nlook for one")

    model, tuned, rows, collate = fresh()
    tuned.compile("wheretune-broken")
    with pytest.raises(ModelError, match=r"BertLayer cannot be compiled here: .*there is no compiler") as caught:
        train(model, rows, collate, TrainSettings(learning_rate=1e-3), None)
    assert caught.value.field == "compile" and "look for one" not in str(caught.value)
    tuned.undo()


@pytest.mark.parametrize("schedule", ["slimfit", "recap"])
def test_schedules_of_parts_of_layers_are_refused(schedule):
    base, _ = tiny_model("llama")
    plan = wt.plan(describe(find_layers(base)), wt.Explicit((1, 2)), schedule=catalog.build("schedule", Spec(schedule)))
    with pytest.raises(ConfigError, match=schedule):
        wt.apply(base, plan).compile("eager")


def test_the_command_line_refuses_before_anything_is_read(run, files, tiny_folder, tmp_path):
    read = ["--model", tiny_folder("llama"), "--train", files["train"]]
    base = ["tune", *read, "--output", tmp_path / "mine", "--compile"]
    one_line(*run(*base, "--schedule", "slimfit")[::2], "--compile", "slimfit")
    one_line(*run(*base, "--fsdp")[::2], "--fsdp")
    one_line(*run(*base[:-1], "--trainer-arg", "torch_compile=true")[::2], "torch_compile", "--compile")
    one_line(*run(*base[:-1], "--trainer-arg", "torch_compile_backend=eager")[::2], "torch_compile_backend")
    methods = ["--methods", "full,full+slimfit", "--test", files["train"]]
    one_line(*run("compare", *base[1:], *methods)[::2], "--compile", "slimfit")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_a_run_with_inductor_ends_as_one_without(run, files, tiny_folder, tmp_path):
    found = []
    for flags in ([], ["--torch_compile", "--gradient-checkpointing"]):
        folder = tmp_path / f"run{len(flags)}"
        code, out, err = run(
            "tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", folder, "--epochs", 1,
            "--learning-rate", "1e-3", "--max-steps", 3, "--select", "explicit", "--layers", "2,3", *flags,
        )  # fmt: skip
        assert code == 0, err
        found.append(load_file(folder / "delta.safetensors"))
    assert_equal(*found)
    said = load_result(folder / "result.json").saved["compiled layers"]
    assert said.startswith("2 by torch.compile (inductor), not the last") and "compiled layers" in out
