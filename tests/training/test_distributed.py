"""Two and four processes train as one does, go on where others stopped, and end together."""

import pytest
import torch

from helpers.together import assert_alike, furnish, losses, tensors, tune

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_folder):
    return furnish(tmp_path_factory.mktemp("distributed"), tiny_folder)


PLANS = {
    "top": ("--k", 2, "--select", "highest"),
    "full": ("--layers", "0,1,2,3", "--tuner", "full:embeddings=true"),
    "lora": ("--tuner", "lora:r=4", "--layers", "1,2,3"),
    "adalora": ("--tuner", "adalora:r=2:start=4:every=2", "--layers", "2,3"),
    "concat": ("--head", "concat:dropout=0", "--layers", "2,3"),
    "lisa": ("--schedule", "lisa:layers=1:every=2", "--layers", "0,1,2,3"),
    "lift": ("--schedule", "lift", "--layers", "1,2,3", "--cache-prefix", "memory"),
    "slimfit": ("--schedule", "slimfit:freeze=0.5", "--layers", "0,1,2,3"),
    "cache": ("--layers", "2,3", "--cache-prefix", "memory"),
    "cache on disk": ("--layers", "2,3", "--cache-prefix", "disk"),
    "accumulated": ("--layers", "2,3", "--gradient-accumulation-steps", 3),
    "tokens": ("--layers", "2,3", "--tokens-per-batch", 60, "--batch-size", None),
    "recap": ("--schedule", "recap:rounds=2", "--layers", "0,1,2,3", "--epochs", 4),
    "salf": ("--schedule", "salf", "--tuner", "full", "--layers", "1,2,3", "--epochs", 1),
    "probed": ("--scorer", "layer-probe:samples=12", "--k", 1, "--select", "highest"),
    "judged": ("--layers", "2,3", "--eval-strategy", "epoch", "--gradient-checkpointing", True),
    "compiled": ("--layers", "2,3", "--cache-prefix", "memory", "--compile", True),
    "chat": ("--layers", "2,3"),
    "chat idle": ("--layers", "2,3", "--batch-size", 4),  # its last batch has one row, and so nothing for the second
    "chat accumulated": ("--layers", "0,1,2,3", "--gradient-accumulation-steps", 2),
    "chat lora": ("--layers", "2,3", "--tuner", "lora:r=4", "--cache-prefix", "memory"),
    "chat lisa": ("--schedule", "lisa:layers=1:every=1", "--layers", "0,1,2,3"),
}
EVERY_TIME = ("chat idle",)


def compare(nursery, place, tmp_path, name, size):
    chat = name.startswith("chat")
    more = [*PLANS[name], *(("--task", "chat", "--max-length", 96) if chat else ())]
    outcomes = []
    for number in (1, size):
        outcomes.append(
            nursery.wheretune(
                tmp_path / f"said-{number}", number, *tune(place, tmp_path / str(number), *more, chat=chat)
            )
        )
        assert set(outcomes[-1].codes) == {0}, outcomes[-1].err
    alone, together = outcomes
    assert together.out[0] and not any(together.out[1:]) and not any(together.err[1:])
    assert losses(together.err[0]) == losses(alone.err[0]) != []
    assert_alike(tmp_path / "1", tmp_path / str(size))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in EVERY_TIME else pytest.mark.slow) for n in PLANS])
def test_two_processes_train_as_one_does(nursery, place, tmp_path, name):
    compare(nursery, place, tmp_path, name, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["top", "lisa", "chat accumulated"])
def test_four_processes_train_as_one_does(nursery, place, tmp_path, name):
    compare(nursery, place, tmp_path, name, 4)  # the last batch has one row: three processes have none


RESUMED = {
    "full": ("--layers", "0,1,2,3"),
    "lisa": (
        "--schedule", "lisa:layers=1:every=2", "--layers", "0,1,2,3", "--save-strategy", "steps", "--save-steps", 3,
    ),
    "lift": ("--schedule", "lift", "--layers", "1,2,3", "--cache-prefix", "memory"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("lisa", (2, 1)),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in [("full", (2, 4)), ("lift", (1, 2)), ("lisa", (4, 2))]),
    ],
)
def test_another_number_of_processes_goes_on_where_some_were_killed(nursery, place, tmp_path, name, sizes):
    once, twice = (tune(place, tmp_path / which, *RESUMED[name], "--epochs", 3) for which in ("once", "twice"))
    assert set(nursery.wheretune(tmp_path / "a", 1, *once).codes) == {0}
    killed = nursery.wheretune(tmp_path / "b", sizes[0], *twice, kill=(sizes[0] - 1, 7))
    assert killed.codes[-1] == -9 and 0 not in killed.codes and killed.seconds < 60
    assert len(killed.errors) == (sizes[0] > 1)
    if sizes[0] > 1:
        assert "has ended; give the same command again to go on from what was kept" in killed.errors[0]
    assert list((tmp_path / "twice").glob("checkpoint-*")) and not (tmp_path / "twice" / "result.json").exists()
    resumed = nursery.wheretune(tmp_path / "c", sizes[1], *twice)
    assert set(resumed.codes) == {0}, resumed.err
    assert losses(resumed.err[0])[-1] == losses(resumed.err[0])[-1]
    assert losses(resumed.err[0])[0].startswith("step 7:" if name == "lisa" else "step 6:")
    assert_alike(tmp_path / "once", tmp_path / "twice")


@pytest.mark.slow
def test_with_dropout_as_many_go_on_as_if_nothing_had_happened(nursery, place, tmp_path):
    once, twice = (
        tune(place, tmp_path / which, "--layers", "2,3", "--epochs", 3, "--head", "last-token:dropout=0.5")
        for which in ("once", "twice")
    )
    assert set(nursery.wheretune(tmp_path / "a", 2, *once).codes) == {0}
    nursery.wheretune(tmp_path / "b", 2, *twice, kill=(0, 7))
    resumed = nursery.wheretune(tmp_path / "c", 2, *twice)
    assert set(resumed.codes) == {0}, resumed.err
    for name, value in tensors(tmp_path / "once").items():
        assert torch.equal(value, tensors(tmp_path / "twice")[name]), name


def test_the_first_process_claims_the_folder_and_all_hear_its_refusal(nursery, place, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"settings": {"epochs": 9}}')
    refused = nursery.wheretune(tmp_path / "said", 2, *tune(place, tmp_path / "run", "--layers", "3"))
    assert refused.codes == [2, 2] and len(refused.errors) == 1
    assert "was begun with other settings" in refused.errors[0] and "Traceback" not in "".join(refused.err)


@pytest.mark.slow
@pytest.mark.parametrize(("by", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_to_one_ends_all(nursery, place, tmp_path, by, code):
    command = tune(place, tmp_path / "run", "--layers", "2,3")
    stopped = nursery.wheretune(tmp_path / "said", 2, *command, kill=(1, 6), by=by)
    assert stopped.codes[1] == code and stopped.codes[0] != 0 and stopped.seconds < 60
    assert "".join(stopped.err).count("stopped; give the same") == 1 and not stopped.errors
    assert "Traceback" not in "".join(stopped.err), stopped.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (
            "--batch-size",
            "4",
            "settings.batch_size: 5 there, 4 now); give all of them the same command",
        ),
        ("--train", "dev.jsonl", "was started for another run than process 1 ("),
        ("--layers", "1,3", "was started for another run than process 1 ("),
        ("--logging-steps", "7", "was started for another run than process 1 (watch"),
        ("--train", "nowhere.jsonl", "nowhere.jsonl"),
    ],
)
def test_processes_that_disagree_are_refused_in_one_line(nursery, place, tmp_path, name, value, says):
    value = str(place / value) if "." in value else value
    command = map(str, tune(place, tmp_path / "run", "--layers", "2,3"))
    function = "helpers.ranks:of_its_own"
    refused = nursery.run(tmp_path / "said", 2, function, *command, changes=[(name, value)])
    assert 0 not in refused.codes and len(refused.errors) == 1 and says in refused.errors[0], refused.err
    assert "Traceback" not in "".join(refused.err) and not (tmp_path / "run" / "plan.json").exists()


@pytest.mark.slow
def test_a_defect_in_one_keeps_its_traceback_and_ends_all(nursery, place, tmp_path):
    command = map(str, tune(place, tmp_path / "run", "--layers", "2,3"))
    ended = nursery.run(tmp_path / "said", 2, "helpers.ranks:of_its_own", *command, defect=True)
    assert 0 not in ended.codes and ended.seconds < 60
    assert "ZeroDivisionError" in ended.err[1] and len(ended.errors) == 1 and "has ended" in ended.errors[0]


def test_gradients_are_summed_where_any_process_has_one(nursery, tmp_path):
    done = nursery.run(tmp_path, 2, "helpers.ranks:sums")
    assert done.codes == [0, 0], done.err


@pytest.mark.slow
@pytest.mark.parametrize("command", ["compare", "predict", "plan"])
def test_what_is_for_one_process_says_so(nursery, tmp_path, command):
    refused = nursery.wheretune(tmp_path / "said", 2, command, "--model", "m")
    assert refused.codes == [2, 2] and len(refused.errors) == 1 and "started as 2 processes" in refused.errors[0]


@pytest.mark.slow
def test_launchers(place, tmp_path):
    """torchrun and accelerate launch, as users call them."""
    import os
    import subprocess
    import sys

    from helpers.commands import SOURCE

    env = os.environ | {"PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    launchers = {
        "torchrun": ("torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        "accelerate": ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"),
    }
    for name, launcher in launchers.items():
        command = map(str, tune(place, tmp_path / name, "--layers", "2,3"))
        done = subprocess.run(
            [sys.executable, "-m", *launcher, "-m", "wheretune", *command],
            env=env, capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("engagement") == 1 and len(losses(done.stderr)) == 10
    assert_alike(tmp_path / "torchrun", tmp_path / "accelerate")
