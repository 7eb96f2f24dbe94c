"""A user's own, unmodified Trainer with the prefix cache ends with the weights that it ends with without."""

import warnings

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

import wheretune as wt
from helpers.models import tiny_model, tiny_tokenizer
from helpers.often import often
from helpers.texts import sentences
from wheretune.errors import ConfigError, DataError
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe

EPOCHS = 2


def applied(family, layers, kind=AutoModelForSequenceClassification, seed=0):
    """An own model with a plan of these layers applied, and its tokenizer."""
    tokenizer = tiny_tokenizer(family)
    base, _ = tiny_model(family)
    base.config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(seed)
    model = kind.from_config(base.config)
    info = describe(find_layers(model))
    plan = wt.plan(info, wt.Explicit(layers)) if layers else wt.plan(info, None, tuner=wt.HeadOnly())
    return wt.apply(model, plan), tokenizer


def encoded(tokenizer, n=24, **how):
    """Tokenised rows of different lengths, with a column that no model takes."""
    return [
        {**tokenizer(text, **how), "label": i % 2, "text": text} for i, text in enumerate(sentences(n, seed=1))
    ]  # fmt: skip


def trainer(model, rows, collate, folder, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = TrainingArguments(
            str(folder), num_train_epochs=EPOCHS, per_device_train_batch_size=5, report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True, learning_rate=1e-3, use_cpu=True, seed=3, **arguments,
        )  # fmt: skip
        return Trainer(model=model, args=made, train_dataset=rows, data_collator=collate)


def ran(stack):
    """The layers that truly run, noted where their MLP ends."""
    seen = []
    for layer in stack.layers:
        inner = layer.module.get_submodule(layer.parts.mlp_output)
        inner.register_forward_hook(lambda *_, index=layer.index: seen.append(index))
    return seen


def hanging(model):
    """How many hooks hang on a model, and how many modules have a `forward` of their own."""
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return hooks, sum("forward" in vars(m) for m in model.modules())


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        # the gradient of a key's bias is exactly zero, so Adam makes steps of the rounding noise, which differs
        apart = 1e-3 if name.endswith("key.bias") else 1e-5
        torch.testing.assert_close(other[name], value, atol=apart, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def own(family, layers, kind, make_rows, make_collate, folder, cached, **options):
    """Trains an own model; returns its weights, which layers ran, and the report."""
    tuned, tokenizer = applied(family, layers, kind)
    rows, collate = make_rows(tokenizer), make_collate(tokenizer)
    mine = trainer(tuned.model, rows, collate, folder)
    seen, before = ran(tuned.stack), None
    if not cached:
        mine.train()
        return weights(tuned.model), seen, None
    before = hanging(tuned.model)
    with wt.cache_prefix(tuned.model, rows, collate, epochs=EPOCHS, **options) as report:
        assert report.where == options.get("where", "memory"), report.reason
        seen.clear()
        mine.train()
        fed = list(seen)
    assert hanging(tuned.model) == before
    tuned.check()
    return weights(tuned.model), fed, report


def padded_by(tokenizer):
    return DataCollatorWithPadding(tokenizer)


SEQUENCE = AutoModelForSequenceClassification


@pytest.mark.parametrize(
    ("family", "layers", "kind", "make_rows", "make_collate", "options"),
    often(
        [
            ("bert", (2, 3), SEQUENCE, encoded, padded_by, dict(where="memory")),
            ("bert", (), SEQUENCE, encoded, padded_by, dict(where="memory")),
            ("roberta", (1,), SEQUENCE, encoded, padded_by, dict(where="disk")),
            ("gpt2", (3,), SEQUENCE, encoded, padded_by, dict(where="memory")),
            ("llama", (), SEQUENCE, encoded, padded_by, dict(where="memory")),
            (
                "bert",
                (2,),
                SEQUENCE,
                lambda tokenizer: encoded(tokenizer, padding="max_length", max_length=24),
                lambda _: default_data_collator,
                dict(where="memory"),
            ),
            (
                "llama",
                (2,),
                AutoModelForCausalLM,
                lambda tokenizer: [{k: row[k] for k in ("input_ids", "attention_mask")} for row in encoded(tokenizer)],
                lambda tokenizer: DataCollatorForLanguageModeling(tokenizer, mlm=False),
                dict(where="memory"),
            ),
        ],
        lambda family, layers, *_: family == "roberta" or layers == (2,) or (family, layers) == ("bert", ()),
    ),
    ids=["bert", "pooler", "disk", "gpt2", "head-only", "already padded", "language model"],
)
def test_cached_and_uncached_end_with_the_same_weights(
    family, layers, kind, make_rows, make_collate, options, tmp_path
):
    plain, every, _ = own(family, layers, kind, make_rows, make_collate, tmp_path, cached=False)
    fast, fed, report = own(family, layers, kind, make_rows, make_collate, tmp_path, cached=True, **options)
    assert_same_weights(plain, fast)
    first = min(layers, default=4)
    assert set(every) == {0, 1, 2, 3} and set(fed) == set(range(first, 4))
    assert fed.count(3) == (every.count(3) if first < 4 else 0), "layers that train run as often"
    assert report.bytes > 0
    start = weights(applied(family, layers, kind)[0].model)
    assert max((fast[name] - value).abs().max() for name, value in start.items()) > 1e-4, "something was trained"


def test_a_head_that_reads_every_token(tmp_path):
    tuned, tokenizer = applied("bert", (), AutoModelForTokenClassification)
    rows = [{**row, "labels": [i % 2 for i in row["input_ids"]]} for row in encoded(tokenizer)]

    def collate(some):
        batch = tokenizer.pad(
            [{k: row[k] for k in ("input_ids", "attention_mask")} for row in some], return_tensors="pt"
        )
        longest = batch["input_ids"].shape[1]
        batch["labels"] = torch.tensor([row["labels"] + [-100] * (longest - len(row["labels"])) for row in some])
        return batch

    batch = collate(rows[:5])
    mask = batch["attention_mask"].bool()
    tuned.model.eval()
    expected = tuned.model(**batch)
    seen = ran(tuned.stack)
    with wt.cache_prefix(tuned.model, rows, collate, where="memory") as report:
        assert report.where == "memory", report.reason
        seen.clear()
        found = tuned.model(**batch)
        assert seen == []
    torch.testing.assert_close(found.logits[mask], expected.logits[mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-5, rtol=1e-5)


def test_a_tokenizer_pads_and_rows_may_be_tensors():
    tuned, tokenizer = applied("bert", (2,))

    class Tensors(torch.utils.data.Dataset):
        def __init__(self, rows):
            self.rows = [{name: torch.tensor(value) for name, value in row.items() if name != "text"} for row in rows]

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, index):
            return self.rows[index]

    plain = encoded(tokenizer)
    batch = DataCollatorWithPadding(tokenizer)([{k: v for k, v in row.items() if k != "text"} for row in plain[:4]])
    expected = tuned.model.eval()(**batch).logits
    seen = ran(tuned.stack)
    rows = [{**row, "labels": row["label"]} for row in plain]
    for row in rows:
        del row["label"]
    for given in (rows, Tensors(rows)):
        with wt.cache_prefix(tuned.model, given, tokenizer, where="memory") as report:
            assert report.where == "memory", report.reason
            seen.clear()
            torch.testing.assert_close(tuned.model(**batch).logits, expected, atol=1e-5, rtol=1e-5)
            assert seen == [2, 3]


def test_an_evaluation_and_what_trains_since_run_as_ever(caplog):
    tuned, tokenizer = applied("bert", (2,))
    rows, collate = encoded(tokenizer), DataCollatorWithPadding(tokenizer)

    def batch(some):
        return collate([{k: v for k, v in row.items() if k != "text"} for row in some])

    others = encoded(tokenizer, n=40)[24:]
    seen = ran(tuned.stack)
    with wt.cache_prefix(tuned.model, rows, collate, where="memory"):
        tuned.model.eval()
        seen.clear()
        tuned.model(**batch(others))
        assert seen == [0, 1, 2, 3]
        tuned.model.train()
        seen.clear()
        tuned.model(**batch(rows[:3]))
        assert seen == [2, 3]
        weight = next(tuned.stack.layers[1].module.parameters()).requires_grad_()
        seen.clear()
        tuned.model(**batch(rows[:3])).loss.backward()
        assert seen == [0, 1, 2, 3] and weight.grad is not None
    assert "1 of 2 batches were not in the prefix cache" in caplog.text, "an evaluation is no miss"


def test_a_kept_cache_serves_the_next_training(tmp_path):
    shared = tmp_path / "shared"
    for number, (layers, expected) in enumerate([((2,), False), ((2,), True), ((1, 2), False)]):
        tuned, tokenizer = applied("bert", layers)
        if number == 1:  # what trains may have changed meanwhile
            with torch.no_grad():
                next(tuned.stack.layers[2].module.parameters()).add_(0.1)
        rows, collate = encoded(tokenizer), DataCollatorWithPadding(tokenizer)
        with wt.cache_prefix(tuned.model, rows, collate, where="disk", folder=shared) as report:
            assert report.where == "disk" and ("found whole" in report.reason) is expected
    with torch.no_grad():
        next(tuned.stack.layers[0].module.parameters()).add_(0.1)
    with wt.cache_prefix(tuned.model, rows, collate, where="disk", folder=shared) as report:
        assert "found whole" not in report.reason
    assert len(list(shared.glob("prefix-*"))) == 3


# --- where a cache would be wrong ----------------------------------------------------------------


def refused(model, rows, collate):
    before = hanging(model)
    with wt.cache_prefix(model, rows, collate, where="memory") as report:
        assert report.where == "off" and hanging(model) == before
    return report.reason


def test_a_decoder_padded_on_the_left_without_positions_gets_none():
    tuned, tokenizer = applied("gpt2", (2,))
    tokenizer.padding_side = "left"
    assert "gives other states" in refused(tuned.model, encoded(tokenizer), DataCollatorWithPadding(tokenizer))


def test_a_collator_that_changes_the_tokens_gets_none():
    tuned, tokenizer = applied("bert", (2,))
    collate = DataCollatorWithPadding(tokenizer)

    def masking(some):
        batch = collate(some)
        batch["input_ids"][:, 1] = 4
        return batch

    assert "other tokens than its rows" in refused(tuned.model, encoded(tokenizer), masking)


def test_a_head_that_reads_lower_layers_gets_none():
    class Reading(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.config, self.base_model = inner, inner.config, inner.base_model
            self.lower = []
            find_layers(inner).layers[0].module.register_forward_hook(
                lambda _, __, output: self.lower.append(output[0] if isinstance(output, tuple) else output)
            )

        def forward(self, input_ids, attention_mask, labels=None):
            logits = self.inner(input_ids=input_ids, attention_mask=attention_mask).logits
            return {"logits": logits + self.lower.pop()[:, 0, :2]}

    tuned, tokenizer = applied("bert", (2,))
    model = Reading(tuned.model)
    assert "gives other states" in refused(model, encoded(tokenizer), DataCollatorWithPadding(tokenizer))
    asking, _ = applied("bert", (2,))
    asking.model.config.output_hidden_states = True
    collate = DataCollatorWithPadding(tokenizer)
    with wt.cache_prefix(asking.model, encoded(tokenizer), collate, where="memory") as report:
        assert report.where == "off" and "gives other states" in report.reason


def test_what_trains_at_the_bottom_gets_none():
    tuned, tokenizer = applied("bert", (0,))
    assert "nothing frozen" in refused(tuned.model, encoded(tokenizer), DataCollatorWithPadding(tokenizer))


def test_rows_and_settings_that_mean_nothing_are_refused(tmp_path):
    tuned, tokenizer = applied("bert", (2,))
    for rows, complaint in (([], "no rows"), ([{"text": "a"}], "row 1 has no input_ids")):
        with pytest.raises(DataError, match=complaint), wt.cache_prefix(tuned.model, rows, tokenizer):
            pass
    with pytest.raises(ConfigError), wt.cache_prefix(tuned.model, [], tokenizer, where="memory", folder=tmp_path):
        pass
