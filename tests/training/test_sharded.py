"""Processes that hold shards of a model train as those that hold the whole, and none holds more than its share."""

import pytest
import torch

from helpers.language import kept
from helpers.together import assert_alike, furnish, losses, tensors, tune
from wheretune.errors import ConfigError
from wheretune.records.base import Spec
from wheretune.records.data import DataSpec
from wheretune.records.model import ModelSpec
from wheretune.records.runs import CacheSettings, RunSpec, TrainSettings, WatchSettings
from wheretune.training import arguments
from wheretune.training.arguments import check_sharding

SHARDED = ("--fsdp", True)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_folder):
    folder = furnish(tmp_path_factory.mktemp("sharded"), tiny_folder)
    kept(folder / "llama", "llama")
    return folder


# --- what lies where ------------------------------------------------------------------------------


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("function", "given"),
    [("whole_layers", {}), ("whole_layers", {"half": True}), ("in_part", {}), ("written", {"into": None})],
)
def test_every_process_holds_its_share(nursery, tmp_path, function, given):
    given = {name: str(tmp_path) if value is None else value for name, value in given.items()}
    done = nursery.run(tmp_path / "said", 2, f"helpers.shards:{function}", **given)
    assert done.codes == [0, 0], done.err


# --- the same result ------------------------------------------------------------------------------

PLANS = {
    "llama": ("--model", "llama", "--layers", "2,3"),
    "llama full": ("--model", "llama", "--layers", "0,1,2,3", "--tuner", "full:embeddings=true"),
    "bert": ("--layers", "2,3"),
    "scored": ("--k", 2, "--select", "highest"),
    "concat": ("--head", "concat:dropout=0", "--layers", "2,3"),
    "head": ("--tuner", "head-only"),
    "lora": ("--tuner", "lora:r=4", "--layers", "1,2,3"),
    "adalora": ("--tuner", "adalora:r=2:start=4:every=2", "--layers", "2,3"),
    "bias": ("--tuner", "bias", "--layers", "1,2,3"),
    "adapter": ("--tuner", "adapter", "--layers", "1,2,3"),
    "accumulated": ("--layers", "2,3", "--gradient-accumulation-steps", 3),
    "tokens": ("--layers", "2,3", "--tokens-per-batch", 60, "--batch-size", None),
    "judged": ("--layers", "2,3", "--eval-strategy", "epoch", "--gradient-checkpointing", True),
    "chat": ("--layers", "2,3"),
    "chat idle": ("--model", "llama", "--layers", "2,3", "--batch-size", 4),
    "chat full": ("--layers", "0,1,2,3", "--tuner", "full:embeddings=true"),
    "chat output": ("--layers", "2,3", "--head", "lm:train=true"),
    "chat lora": ("--layers", "2,3", "--tuner", "lora:r=4"),
    "chat accumulated": ("--layers", "0,1,2,3", "--gradient-accumulation-steps", 2),
}


def run_both(nursery, place, tmp_path, name, ways, *more):
    """Runs a plan both ways, each (processes, options); what each run said."""
    chat, plan = name.startswith("chat"), dict(zip(*[iter(PLANS[name])] * 2, strict=True))
    if "--model" in plan:
        plan["--model"] = place / plan["--model"]
    given = [*(one for pair in plan.items() for one in pair), *(("--task", "chat", "--max-length", 96) if chat else ())]
    said = []
    for number, (size, options) in enumerate(ways):
        command = tune(place, tmp_path / str(number), *given, *more, *options, chat=chat)
        said.append(nursery.wheretune(tmp_path / f"said-{number}", size, *command))
        assert set(said[-1].codes) == {0}, said[-1].err
    assert "in shards" in said[1].out[0] and not any(said[1].out[1:]) and not any(said[1].err[1:])
    return said


def compare(nursery, place, tmp_path, name, ways):
    one, other = run_both(nursery, place, tmp_path, name, ways)
    assert losses(one.err[0]) == losses(other.err[0]) != []
    assert_alike(tmp_path / "0", tmp_path / "1")


ONE, TWO, FOUR = ((1, ()), (2, SHARDED)), ((2, ()), (2, SHARDED)), ((1, ()), (4, SHARDED))


@pytest.mark.distributed
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "bert" else pytest.mark.slow) for n in PLANS])
def test_two_processes_with_shards_train_as_one_does(nursery, place, tmp_path, name):
    compare(nursery, place, tmp_path, name, ONE)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama full", "bert", "lora"])
def test_with_shards_or_without(nursery, place, tmp_path, name):
    compare(nursery, place, tmp_path, name, TWO)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "chat idle"])
def test_four_processes_with_shards_train_as_one_does(nursery, place, tmp_path, name):
    compare(nursery, place, tmp_path, name, FOUR)  # the last batch has one row: three processes have none


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "lora", "chat"])
def test_half_precision_has_masters_in_fp32(nursery, place, tmp_path, name):
    run_both(nursery, place, tmp_path, name, TWO, "--dtype", "bf16")
    whole, cut = tensors(tmp_path / "0"), tensors(tmp_path / "1")
    assert whole.keys() == cut.keys()
    for each, value in cut.items():
        assert value.dtype == torch.float32 and not torch.equal(value, value.bfloat16().float()), each
        assert (value - whole[each]).abs().max() < 2e-3, each  # rounding makes Adam's steps of 1e-3 differ


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("before", [(2, SHARDED), (2, ())])
@pytest.mark.parametrize("after", [(2, SHARDED), (4, SHARDED), (1, ())])
def test_a_run_goes_on_with_shards_or_without(nursery, place, tmp_path, before, after):
    once, twice = (tune(place, tmp_path / which, "--layers", "2,3", "--epochs", 3) for which in ("once", "twice"))
    assert set(nursery.wheretune(tmp_path / "a", 1, *once).codes) == {0}
    options = [[one for one in how[1] if one is not True] for how in (before, after)]
    killed = nursery.wheretune(tmp_path / "b", before[0], *twice, *options[0], kill=(1, 7))
    assert killed.codes[-1] == -9 and 0 not in killed.codes and killed.seconds < 60 and len(killed.errors) == 1
    assert "give the same command again to go on from what was kept" in killed.errors[0]
    resumed = nursery.wheretune(tmp_path / "c", after[0], *twice, *options[1])
    assert set(resumed.codes) == {0}, resumed.err
    assert losses(resumed.err[0])[0].startswith("step 6:")
    assert_alike(tmp_path / "once", tmp_path / "twice")


# --- what cannot be -------------------------------------------------------------------------------


def spec(tuner="full", schedule="static", **changes):
    model = ModelSpec("m", quantize=changes.pop("quantize", None))
    return RunSpec(model, DataSpec("d"), tuner=Spec(tuner), schedule=Spec(schedule), settings=TrainSettings(**changes))


@pytest.mark.parametrize(
    ("run", "where", "says"),
    [
        (spec(schedule="lisa"), "auto", "lisa freezes layers"),
        (spec(schedule="recap"), "auto", "recap freezes layers"),
        (spec(), "disk", "the prefix cache runs layers alone"),
        (spec(quantize="4bit"), "auto", "quantised weights cannot be cut"),
        (spec(optim="adafactor"), "auto", "adafactor reads whole matrices"),
    ],
)
def test_what_needs_the_whole_is_refused(monkeypatch, run, where, says):
    watch, cache = WatchSettings(fsdp=True), CacheSettings(where)
    monkeypatch.setattr(arguments, "world_size", lambda: 2)
    check_sharding(spec(tuner="lora"), watch, CacheSettings())
    check_sharding(run, WatchSettings(), cache)
    with pytest.raises(ConfigError, match=says) as refused:
        check_sharding(run, watch, cache)
    assert refused.value.field == "fsdp"


def test_one_process_has_nobody_to_share_with(run, place, tmp_path):
    code, out, err = run("tune", "--model", place / "bert", "--train", "t", "--output", tmp_path / "run", "--fsdp")
    assert (code, out) == (2, "") and not (tmp_path / "run").exists()
    assert err == (
        "error: --fsdp: one process has nobody to share a model with; start several (torchrun), or leave out fsdp\n"
    )
