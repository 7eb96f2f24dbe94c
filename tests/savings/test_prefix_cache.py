"""What is frozen stays out of the training, and a cached prefix gives what a computed one gives."""

import errno
import io
import json
import warnings
from itertools import product

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

import wheretune as wt
from helpers import models
from helpers.families import FAMILIES, TUNERS, planned
from helpers.models import SIZES, tiny_model, tiny_tokenizer
from helpers.often import often
from helpers.savings import HEADS, assert_same, caching, given, headed, job_of, outcome, ran, texts, without_dropout
from helpers.texts import classes_of, sentences
from wheretune.data.batches import collator, token_batches
from wheretune.data.samplers import TokenBatches
from wheretune.data.tokens import encode
from wheretune.errors import ConfigError, ModelError
from wheretune.heads.headed import HeadedModel
from wheretune.model.finding import find_layers
from wheretune.model.freezing import lowest_trained
from wheretune.records.runs import CacheSettings, TrainSettings
from wheretune.savings.prefix_cache.deciding import pays
from wheretune.savings.prefix_cache.machine import Machine, create
from wheretune.savings.prefix_cache.making import cached
from wheretune.savings.together import saving
from wheretune.scorers.controls import Depth
from wheretune.tasks.classification import Classification
from wheretune.training.loop import train

ONE_STACK = [family for family in FAMILIES if family not in ("t5", "bart")]


@pytest.mark.parametrize(
    ("family", "head", "layers"),
    often(
        product(ONE_STACK, HEADS, ((1, 3), (3,), ())),
        lambda family, *of: of == ("concat", (1, 3)) or (of == ("last-token", (3,)) and family in ("bert", "gpt2")),
    ),
)
def test_a_cached_prefix_is_the_computed_one(family, head, layers, tmp_path):
    rows, collate = texts()
    model, tuned = headed(family, head, layers)
    side = "left" if tuned.stack.causal and family != "opt" else "right"
    batch = [rows[i] for i in (7, 2, 4, 0)]
    computed = [outcome(model, *given(batch, collate, s)) for s in ("right", side)]
    seen = ran(model)
    with caching(tuned, rows, collate, tmp_path) as report:
        assert report.where == "memory" and report.bytes > 0
        seen.clear()
        for s, expected in zip(("right", side), computed, strict=True):
            assert_same(outcome(model, *given(batch, collate, s)), expected)
        first = min(layers, default=4)
        assert seen == 2 * list(range(first, 4))
    seen.clear()
    assert_same(outcome(model, *given(batch, collate)), computed[0])
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("tuner", TUNERS)
def test_a_cached_prefix_with_every_tuner(tuner, tmp_path):
    rows, collate = texts()
    model, tuned = headed("bert", "concat", (2, 3), TUNERS[tuner])
    computed = outcome(model, *given(rows[:5], collate))
    with caching(tuned, rows, collate, tmp_path, "disk"):
        assert_same(outcome(model, *given(rows[:5], collate)), computed)


def test_a_text_that_is_not_stored_runs_as_ever(tmp_path):
    rows, collate = texts()
    model, tuned = headed("bert", "last-token", (2,))
    seen = ran(model)
    augmented = [rows[0], {**rows[1], "input_ids": [7, *rows[1]["input_ids"][1:]]}]
    expected = outcome(model, *given(augmented, collate))
    with caching(tuned, rows, collate, tmp_path):
        seen.clear()
        assert_same(outcome(model, *given(augmented, collate)), expected)
        assert seen == [0, 1, 2, 3]
        seen.clear()
        model.base(**given(rows[:2], collate)[0], output_hidden_states=True)
        assert seen == [0, 1, 2, 3], "all states were asked for"


def test_token_types_are_part_of_a_text(tmp_path):
    rows, collate = texts(4)
    for row in rows:
        row["token_type_ids"] = [0] * len(row["input_ids"])

    def with_types(some, kind=0):
        batch = collate(some)
        return batch | {"token_type_ids": torch.full_like(batch["input_ids"], kind) * batch["attention_mask"]}

    model, tuned = headed("bert", "last-token", (2,))
    other = {name: value for name, value in with_types(rows, 1).items() if name != "labels"}
    same = {name: value for name, value in with_types(rows, 0).items() if name != "labels"}
    expected = model(**other).logits
    seen = ran(model)
    with caching(tuned, rows, with_types, tmp_path):
        seen.clear()
        torch.testing.assert_close(model(**other).logits, expected)
        assert seen == [0, 1, 2, 3]
        model(**same)
        assert seen == [0, 1, 2, 3, 2, 3]


# --- runs ----------------------------------------------------------------------------------------


def trained(family, layers, folder, where, head="last-token", tokens=None, all_tokens=False, **settings):
    tuned, rows, collate = without_dropout(family, layers, head)
    how = TrainSettings(
        epochs=2, learning_rate=5e-5, batch_size=8, seed=5, tokens_per_batch=tokens, all_tokens=all_tokens
    )
    with saving(tuned.stack, "0" * 64, rows, collate, how, folder, CacheSettings(where, **settings)) as saved:
        train(tuned.model, rows, collate, how, folder)
    assert saved.cache.where == where
    tuned.check()
    return {name: value.detach() for name, value in tuned.model.state_dict().items()}


@pytest.mark.parametrize(
    ("family", "head", "where"),
    often(
        [
            ("bert", "concat", "memory"),
            ("roberta", "last-token", "disk"),
            ("electra", "last-token", "memory"),
            ("gpt2", "last-token", "memory"),
            ("llama", "concat", "disk"),
            ("qwen2", "concat", "memory"),
        ],
        [("gpt2", "last-token", "memory"), ("llama", "concat", "disk")],
    ),
)
def test_cached_and_uncached_runs_end_with_the_same_weights(family, head, where, tmp_path, monkeypatch):
    electra = transformers.ElectraConfig(vocab_size=90, embedding_size=16, max_position_embeddings=64, **SIZES)
    monkeypatch.setitem(models.FAMILIES, "electra", lambda v: electra)
    plain = trained(family, (2, 3), tmp_path / "off", "off", head, all_tokens=True)
    fast = trained(family, (2, 3), tmp_path / where, where, head)
    for name, value in plain.items():
        # the gradient of a key's bias is exactly zero, so Adam makes steps of the rounding noise, which differs
        apart = 1e-4 if name.endswith("key.bias") else 1e-5
        torch.testing.assert_close(fast[name], value, atol=apart, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    assert not list((tmp_path / where).glob("prefix-*")), "the cache goes when the training is over"


def test_bf16_states_are_half_the_size_and_nearly_the_same(tmp_path):
    rows, collate = texts()
    model, tuned = headed("llama", "concat", (2,))
    expected = model(**given(rows, collate)[0]).logits
    for where in ("memory", "disk"):
        with caching(tuned, rows, collate, tmp_path, where) as whole:
            pass
        with caching(tuned, rows, collate, tmp_path, where, dtype="bf16") as half:
            found = model(**given(rows, collate)[0]).logits
        assert half.bytes * 2 == whole.bytes
        assert not torch.equal(found, expected)
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


@pytest.mark.slow
def test_batches_within_a_budget_of_tokens(tmp_path):
    lengths = [1 + (7 * i) % 23 for i in range(60)]
    sampler = TokenBatches(lengths, 64, seed=0)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert sorted(place for batch in batches for place in batch) == list(range(60))
        assert all(len(batch) * max(lengths[i] for i in batch) <= 64 for batch in batches)
        assert len(batches) == len(sampler)
        epochs.append(batches)
    assert epochs[0] != epochs[1] and epochs[1] != epochs[2]
    sampler.set_epoch(1)
    assert list(sampler) == epochs[1]
    assert [len(batch) for batch in TokenBatches([5, 80], 64, 0)] == [1, 1], "a longer text stands alone"
    one = trained("bert", (2,), tmp_path / "a", "off", tokens=100)
    other = trained("bert", (2,), tmp_path / "b", "memory", tokens=100)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="tokens per batch is 0"):
        trained("bert", (2,), tmp_path / "c", "off", tokens=0)


# --- what can go wrong with a cache --------------------------------------------------------------


def kept(tmp_path):
    (found,) = tmp_path.glob("prefix-*")
    return found


def test_a_kept_cache_is_used_again_and_a_spoilt_one_is_not(tmp_path, caplog):
    rows, collate = texts()
    model, tuned = headed("gpt2", "last-token", (2,))
    expected = model(**given(rows, collate)[0]).logits

    shared = tmp_path / "shared"

    def again():
        caplog.clear()
        with caching(tuned, rows, collate, tmp_path / "run", "disk", keep=True, folder=shared) as report:
            torch.testing.assert_close(model(**given(rows, collate)[0]).logits, expected, atol=1e-5, rtol=1e-5)
        return report

    again()
    states, meta = kept(shared) / "states.bin", kept(shared) / "cache.json"
    found = again()
    assert "found whole" in found.reason and found.seconds >= json.loads(meta.read_text())["seconds"]
    whole = states.read_bytes()
    for spoilt, complaint in (
        (lambda: states.write_bytes(whole[:-4]), "not of the right size"),
        (lambda: states.write_bytes(whole[:40] + b"\1" + whole[41:]), "its content was changed"),
        (lambda: meta.write_text("{"), "cannot be read"),
        (lambda: states.unlink(), "cannot be read"),
        (lambda: meta.write_text(meta.read_text().replace('"format": 1', '"format": 0')), "another format"),
    ):
        spoilt()
        assert "found whole" not in again().reason
        assert complaint in caplog.text and states.read_bytes() == whole


def test_a_cache_of_something_else_is_never_used(tmp_path):
    rows, collate = texts()
    model, tuned = headed("gpt2", "last-token", (2,))
    shared = tmp_path / "shared"
    keep = dict(keep=True, folder=shared)
    with caching(tuned, rows, collate, tmp_path / "run", "disk", **keep):
        pass
    changed = [{**row, "input_ids": row["input_ids"][::-1]} for row in rows]
    head_only = headed("gpt2", "last-token", ())[1]
    other_layer, concat = headed("gpt2", "last-token", (1,))[1], headed("gpt2", "concat", (2,))[1]
    for number, how in enumerate((
        lambda: caching(tuned, changed, collate, tmp_path / "run", "disk", **keep),
        lambda: caching(tuned, rows, collate, tmp_path / "run", "disk", dtype="bf16", **keep),
        lambda: caching(other_layer, rows, collate, tmp_path / "run", "disk", **keep),
        lambda: caching(head_only, rows, collate, tmp_path / "run", "disk", **keep),
        lambda: caching(concat, rows, collate, tmp_path / "run", "disk", **keep),
        lambda: cached(job_of(tuned, rows, collate), "0" * 64, 2, CacheSettings("disk", **keep), tmp_path / "run"),
    )):  # fmt: skip
        with how() as report:
            assert report.where == "disk" and "found" not in report.reason
            assert len(list(shared.glob("prefix-*"))) == number + 2
    with torch.no_grad():  # weights that changed though the plan's hash did not
        for parameter in tuned.stack.layers[0].module.parameters():
            parameter.mul_(1.5)
    expected = model(**given(rows, collate)[0]).logits
    with caching(tuned, rows, collate, tmp_path / "run", "disk", **keep) as report:
        assert report.where == "disk" and "found" not in report.reason
        torch.testing.assert_close(model(**given(rows, collate)[0]).logits, expected, atol=1e-5, rtol=1e-5)


def test_runs_that_share_a_folder_do_not_take_each_others_cache_away(tmp_path):
    rows, collate = texts()
    model, tuned = headed("bert", "last-token", (2,))
    expected = model(**given(rows, collate)[0]).logits
    for keep in (False, True):
        shared = dict(folder=tmp_path / "shared", keep=keep)
        with caching(tuned, rows, collate, tmp_path / "one", "disk", **shared):
            with caching(tuned, rows, collate, tmp_path / "two", "disk", **shared):
                pass
            torch.testing.assert_close(model(**given(rows, collate)[0]).logits, expected, atol=1e-5, rtol=1e-5)
        assert len(list((tmp_path / "shared").rglob("states.bin"))) == int(keep)


def test_a_full_disk_leaves_a_run_without_a_cache(tmp_path, caplog):
    rows, collate = texts(200)
    model, tuned = headed("bert", "last-token", (2,))

    class Full(io.FileIO):
        """A file on a disk that has room for one batch."""

        def write(self, content):
            if self.tell() > 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content)

    assert len(job_of(tuned, rows, collate).batches()) > 1
    seen = ran(model)
    machine = Machine(create=lambda path: Full(path, "w"))
    with caching(tuned, rows, collate, tmp_path, "disk", machine=machine) as report:
        seen.clear()
        model(**given(rows, collate)[0])
        assert report.where == "off" and "No space left" in report.reason and "No space left" in caplog.text
        assert seen == [0, 1, 2, 3]
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_run_leaves_its_cache_for_the_next_sitting(tmp_path):
    rows, collate = texts()
    _, tuned = headed("bert", "last-token", (2,))
    with pytest.raises(KeyboardInterrupt), caching(tuned, rows, collate, tmp_path, "disk"):
        raise KeyboardInterrupt
    assert kept(tmp_path).is_dir() and "forward" not in tuned.stack.layers[0].module.__dict__
    with caching(tuned, rows, collate, tmp_path, "disk") as report:
        assert "found whole" in report.reason
    assert list(tmp_path.iterdir()) == []


def machine(memory=2**40, disk=2**40, fast=True):
    """A machine on which computing a batch takes 1 second, and writing and reading it next to nothing or 9 each."""
    io = 0.01 if fast else 9.0
    times = iter([0.0, 0.0, 1.0, 1.0, 1.0 + io, 1.0 + io, 1.0 + 2 * io])
    return Machine(lambda: memory, lambda _: disk, lambda: next(times, 20.0), create)


def test_what_auto_decides_and_why(tmp_path):
    rows, collate = texts(40)
    _, tuned = headed("bert", "last-token", (2,))

    def decided(epochs=3, on=None, **settings):
        with caching(
            tuned, rows, collate, tmp_path, "auto", epochs=epochs, machine=on or machine(), **settings
        ) as report:
            return report.where, report.reason

    assert decided()[0] == "memory" and "free" in decided()[1] and " to read, 3 epochs" in decided()[1]
    assert decided(epochs=1) == ("off", "every text is read once only")
    assert decided(folder=tmp_path / "there")[0] == "disk"
    _, lowest = headed("bert", "last-token", (0, 2))
    with caching(lowest, rows, collate, tmp_path, "disk") as report:
        assert report.where == "off" and "nothing frozen lies below" in report.reason
    assert decided(on=machine(fast=False))[0] == "off"
    assert "would not pay in memory" in decided(on=machine(fast=False))[1]
    assert decided(on=machine(memory=1000))[0] == "disk"
    with (
        pytest.raises(KeyboardInterrupt),
        caching(tuned, rows, collate, tmp_path, "auto", machine=machine(memory=1000)),
    ):
        raise KeyboardInterrupt
    slow = machine(memory=1000, fast=False)
    assert decided(on=slow)[0] == "disk", "a run that goes on does what it did before it was stopped"
    assert decided(on=machine(memory=1000, fast=False))[0] == "off" and list(tmp_path.glob("prefix-*")) == []
    where, reason = decided(on=machine(memory=1000, disk=1000))
    assert where == "off" and "more than the 500 bytes it may take on disk" in reason
    where, reason = decided(limit=100)
    assert where == "off" and "more than the 100 bytes" in reason
    with caching(tuned, rows, collate, tmp_path, "memory", limit=100) as report:
        assert report.where == "off"
    (tmp_path / "a-file").write_text("no folder")
    where, reason = decided(folder=tmp_path / "a-file" / "there")
    assert where == "off" and "nothing can be written" in reason


def test_when_a_cache_pays():
    assert pays(computing=1.0, writing=0.1, reading=0.1, epochs=2)
    assert not pays(computing=1.0, writing=0.9, reading=0.1, epochs=2)
    assert pays(computing=1.0, writing=0.9, reading=0.1, epochs=3)
    assert not pays(computing=1.0, writing=0.0, reading=1.0, epochs=100)


@pytest.mark.parametrize("settings", [dict(limit=-1), dict(where="off", keep=True), dict(where="disk", keep=True)])
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ConfigError):
        CacheSettings(**settings)


# --- what is frozen stays out of the training ----------------------------------------------------


def modes(model):
    return [
        [m.training for m in layer.module.modules() if isinstance(m, nn.Dropout)] for layer in find_layers(model).layers
    ]


def one_epoch(model, folder, rows, collate, **arguments):
    keys = ("input_ids", "attention_mask", "labels")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = TrainingArguments(
            str(folder), num_train_epochs=1, per_device_train_batch_size=3, report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True, learning_rate=1e-2, **arguments,
        )  # fmt: skip
        data = [{name: row[name] for name in keys} for row in rows]
        Trainer(model=model, args=made, train_dataset=data, data_collator=collate).train()


def classifier(layers):
    tokenizer = tiny_tokenizer("bert")
    base, _ = tiny_model("bert")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(base.config)
    data = wt.from_texts(sentences(10), classes_of(10), name="made")
    return model, wt.plan(wt.score(model, tokenizer, data, Depth()), wt.Explicit(layers))


@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["plain", "non-reentrant", "reentrant"])
def test_below_the_lowest_trained_layer_nothing_is_kept_in_an_unmodified_trainer(checkpointing, tmp_path):
    rows, collate = texts()
    model, plan = classifier((2, 3))
    tuned = wt.apply(model, plan)
    asked, dropping = [], []
    for index, layer in enumerate(tuned.stack.layers):
        layer.module.register_forward_hook(
            lambda module, _, output, index=index: asked.append(
                (index, (output[0] if isinstance(output, tuple) else output).requires_grad)
            )
        )
        layer.module.register_forward_pre_hook(lambda module, _, index=index: dropping.append((index, module.training)))
    how = {} if checkpointing is None else dict(
        gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": checkpointing}
    )  # fmt: skip
    if checkpointing is not None:
        model.enable_input_require_grads()
    if checkpointing and "__call__" in vars(GradientCheckpointingLayer):  # Transformers 5.0
        with pytest.raises(ModelError, match="reentrant checkpointing above frozen layers gives no gradients"):
            one_epoch(model, tmp_path, rows, collate, **how)
        return
    one_epoch(model, tmp_path, rows, collate, **how)
    tuned.check()
    assert {pair for pair in asked} == {(0, False), (1, False), (2, True), (3, True)}
    assert set(dropping) == {(0, False), (1, False), (2, True), (3, True)}
    tuned.undo()
    model.train()
    model(**given(rows, collate)[0])
    assert all(all(mode) for mode in modes(model)), "the user's model drops out again"


def test_frozen_layers_drop_out_where_stock_behaviour_is_asked_for(tmp_path):
    rows, collate = texts()
    model, plan = classifier((2,))
    tuned = wt.apply(model, plan, frozen_dropout=True)
    dropping = set()
    for index, layer in enumerate(tuned.stack.layers):
        layer.module.register_forward_pre_hook(lambda module, _, index=index: dropping.add((index, module.training)))
    one_epoch(model, tmp_path, rows, collate)
    assert dropping == {(index, True) for index in range(4)}
    base, tokenizer = tiny_model("bert")
    data = wt.from_texts(sentences(10), classes_of(10), name="made")
    headed_model = HeadedModel(find_layers(base), wt.LastToken(), 2, Classification(), 0)
    tuned = wt.apply(
        headed_model, wt.plan(wt.score(base, tokenizer, data, Depth()), wt.Explicit((2,))), frozen_dropout=True
    )
    settings = TrainSettings(frozen_dropout=True)
    encoded = encode(data, tokenizer, 64)
    with saving(tuned.stack, "0" * 64, encoded, collator(tokenizer), settings, tmp_path) as saved:
        assert saved.cache.where == "off"
    inside = saving(tuned.stack, "0" * 64, encoded, collator(tokenizer), settings, tmp_path, CacheSettings("memory"))
    with pytest.raises(ConfigError, match="differs in every epoch"), inside:
        pass


def test_one_plan_after_another_and_undoing_twice():
    model, plan = classifier((2, 3))
    first = wt.apply(model, plan)
    lower = classifier((0, 1))[1]
    second = wt.apply(model, lower)
    model.train()
    model(torch.arange(5, 15).unsqueeze(0), labels=torch.tensor([1])).loss.backward()
    trained = [any(m) for m in modes(model)]
    assert trained == [True, True, False, False]
    first.undo()
    model(torch.arange(5, 15).unsqueeze(0))
    assert [any(m) for m in modes(model)] == trained, "the plan that was applied last still holds"
    second.undo()
    second.undo()
    assert all("forward" not in layer.module.__dict__ for layer in find_layers(model).layers)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_what_the_user_trains_below_the_base_keeps_its_gradient():
    class Projected(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_model, self.config = base, base.config
            self.project, self.top = nn.Linear(32, 32), nn.Linear(32, 2)

        def forward(self, states):
            return self.top(self.base_model(inputs_embeds=self.project(states))[0][:, 0])

    base, _ = tiny_model("bert")
    model = Projected(base)
    tuned = wt.apply(model, planned(base, wt.WholeLayers(), (2,)))
    model(torch.randn(2, 5, 32)).sum().backward()
    assert model.project.weight.grad is not None and model.project.weight.grad.abs().sum() > 0
    tuned.undo()


def test_a_config_that_asks_for_all_states_is_not_fed(tmp_path, monkeypatch):
    rows, collate = texts()
    model, tuned = headed("bert", "last-token", (2,))
    monkeypatch.setattr(model.base.config, "output_hidden_states", True)
    with caching(tuned, rows, collate, tmp_path) as report:
        assert report.where == "off"


def test_the_lowest_trained_layer():
    assert lowest_trained(headed("bert", "last-token", (2, 3))[1].stack) == 2
    assert lowest_trained(headed("bert", "last-token", ())[1].stack) == 4
    everything = wt.WholeLayers(embeddings=True)
    assert lowest_trained(headed("bert", "last-token", (2, 3), everything)[1].stack) == 0
    user, plan = classifier((1,))
    assert lowest_trained(wt.apply(user, plan).stack) == 1, "a pooler that trains is above the layers"


def test_texts_in_batches_of_tokens():
    rows, _ = texts(20)
    batches = token_batches(rows, 30)
    assert sorted(row["row"] for batch in batches for row in batch) == list(range(20))
    assert all(len(batch) * len(batch[0]["input_ids"]) <= 30 for batch in batches)
    assert max(map(len, batches)) > 1


def test_idle_weights_lie_in_a_file_while_the_cache_feeds(tmp_path):
    rows, collate = texts()
    model, tuned = headed("llama", "last-token", (2,))
    values = {name: value.clone() for name, value in model.state_dict().items()}
    places = {name: value.data_ptr() for name, value in model.named_parameters()}
    with caching(tuned, rows, collate, tmp_path):
        moved = {name for name, value in model.named_parameters() if value.data_ptr() != places[name]}
        frozen = {
            name for name in places if name.startswith(("base.layers.0", "base.layers.1", "base.embed", "base.norm"))
        }
        assert moved == frozen
        assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
        assert list(tmp_path.iterdir()) == [], "no name is left for a killed process to leave behind"
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        for value in model.parameters():
            value.add_(1)  # they are the model's own memory again


def test_a_model_whose_layers_read_the_embeddings_is_not_fed(tmp_path, caplog):
    rows, collate = texts()
    model, tuned = headed("bert", "last-token", (2,))
    seen = []
    model.base.embeddings.register_forward_hook(lambda _, __, output: seen.append(output))
    model.stack.layers[3].module.register_forward_hook(lambda _, __, output: output + seen[-1] + 1)
    expected = model(**given(rows, collate)[0]).logits
    with caching(tuned, rows, collate, tmp_path) as report:
        assert report.where == "off" and "gives other states" in report.reason and "gives other states" in caplog.text
        torch.testing.assert_close(model(**given(rows, collate)[0]).logits, expected)
