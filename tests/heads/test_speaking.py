"""A language model that learns some of its tokens: the loss, gradients and logits that Transformers gives itself."""

import pytest
import torch
import transformers as hf
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers.language import FAMILIES, Learning, assert_same, batch, conversations, outcome, speaker, speaking
from helpers.models import tiny_model
from wheretune.errors import ConfigError, ModelError
from wheretune.heads import speaking as room
from wheretune.heads.last_token import LastToken
from wheretune.heads.lm import LM
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe
from wheretune.tasks.classification import Classification


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_transformers(family, side, monkeypatch):
    monkeypatch.setattr(room, "FEW", 120 * 16)  # several chunks
    given, model = batch(side=side), speaking(family)
    positions = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
    plain = model.language
    takes = {} if family == "opt" and side == "right" else {"position_ids": positions}
    expected = outcome(plain, given | takes)
    found = outcome(model, given)
    found = found[0], {name.removeprefix("language."): value for name, value in found[1].items()}
    assert_same(found, expected)


def test_only_what_is_learned_counts_and_only_gradients_that_are_wanted_are_made():
    rows = conversations()
    model = speaking("qwen2")
    for parameter in model.parameters():
        parameter.requires_grad = False
    for parameter in model.stack.layers[2].module.parameters():
        parameter.requires_grad = True
    loss, gradients = outcome(model, batch(rows))
    assert gradients and all(".layers.2." in name for name in gradients)
    alone = []
    for row in rows:  # the slow twin: one row, one token at a time
        with torch.no_grad():
            logits = model.language(torch.tensor([row["input_ids"]])).logits[0]
        alone += [
            -torch.log_softmax(logits[place - 1], 0)[label] for place, label in enumerate(row["labels"]) if label >= 0
        ]
    torch.testing.assert_close(loss, torch.stack(alone).mean())


def test_what_is_judged_is_a_few_numbers_per_row():
    rows = conversations()
    rows[3] |= {"labels": [-100] * len(rows[3]["labels"])}  # teaches nothing
    model, given = speaking("gemma2"), batch(rows)
    choices = torch.tensor([[5, 9, 70]] * len(rows))
    with torch.no_grad():
        found = model(**given, choices=choices).logits
        assert found.shape == (9, 6)
        for row, numbers in zip(rows, found, strict=True):
            logits = model.language(torch.tensor([row["input_ids"]])).logits[0].float()
            learned = [place for place, label in enumerate(row["labels"]) if label >= 0]
            lost = [-torch.log_softmax(logits[place - 1], 0)[row["labels"][place]] for place in learned]
            right = [logits[place - 1].argmax() == row["labels"][place] for place in learned]
            expected = [float(sum(lost)), len(learned), float(sum(right))]
            first = learned[0] - 1 if learned else -1
            torch.testing.assert_close(numbers, torch.tensor([*expected, *logits[first, [5, 9, 70]]]))
        torch.testing.assert_close(
            model(given["input_ids"][:1], given["attention_mask"][:1]).logits,
            model.language(torch.tensor([rows[0]["input_ids"]])).logits[:, -1],
        )


def test_gradients_of_batches_add_up_to_those_of_one():
    rows, model = conversations(12), speaking("llama")
    total = sum(label >= 0 for row in rows for label in row["labels"])
    whole = outcome(model, batch(rows))
    count = torch.tensor(total)
    parts = [outcome(model, batch(rows[start : start + 5]), num_items_in_batch=count) for start in (0, 5, 10)]
    summed = {name: sum(gradients[name] for _, gradients in parts) for name in whole[1]}
    assert_same((sum(loss for loss, _ in parts), summed), whole)


class Largest(TorchDispatchMode):
    """Sees the largest tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.numbers = max(self.numbers, leaf.numel())
        return out


def test_no_matrix_of_all_places_and_the_vocabulary_is_ever_made(monkeypatch):
    monkeypatch.setattr(room, "FEW", 4000 * 16)
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=4000, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = LM().on(find_layers(hf.AutoModelForCausalLM.from_config(config)), 1, Learning(), 0).train()
    ids = torch.randint(3, 4000, (8, 32))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    with Largest() as ours:
        model(**given).loss.backward()
    with Largest() as plain:
        model.language(**given).loss.backward()
    assert plain.numbers >= 8 * 31 * 4000 and ours.numbers <= 16 * 4000


def test_the_output_matrix_trains_where_that_is_asked_for_and_it_is_not_the_embeddings_too():
    model = speaking("qwen2", train=True)
    assert model.get_output_embeddings() is None
    assert LM(train=True).count(describe(model.stack, {}), 1) == model.language.lm_head.weight.numel()
    assert LM().count(describe(model.stack, {}), 1) == 0
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.language.lm_head.weight.requires_grad = True
    expected = outcome(model.language, batch())
    found = outcome(model, batch())
    assert_same((found[0], {"lm_head.weight": found[1]["language.lm_head.weight"]}), expected)
    with pytest.raises(ConfigError, match="is its embeddings too"):
        speaking("llama", train=True)


class Matrices(TorchDispatchMode):
    """Counts the tensors of a shape that are made."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.made = shape, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {leaf.data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.shape == self.shape and leaf.data_ptr() not in known:
                self.made += 1
        return out


def test_one_gradient_of_the_output_matrix_is_made_whatever_the_number_of_chunks(monkeypatch):
    monkeypatch.setattr(room, "FEW", 120 * 16)
    model = speaking("qwen2", train=True)  # its embeddings are another matrix
    matrix = model.language.lm_head.weight
    model.requires_grad_(False)
    matrix.requires_grad = True
    given = batch()
    assert (given["labels"] >= 0).sum() > 2 * 16
    with Matrices(matrix.shape) as seen:
        model(**given).loss.backward()
    assert seen.made == 1 and matrix.grad.shape == matrix.shape


def test_what_cannot_speak_is_refused():
    bert, _ = tiny_model("bert")
    llama, _ = tiny_model("llama")
    with pytest.raises(ModelError, match="BertModel is an encoder"):
        LM().on(find_layers(bert), 1, Learning(), 0)
    with pytest.raises(ModelError, match="LlamaModel has no output matrix"):
        LM().on(find_layers(llama), 1, Learning(), 0)
    with pytest.raises(ConfigError, match="classification reads one token per text, and the head lm every one"):
        LM().on(find_layers(speaker("llama")), 2, Classification(), 0)
    with pytest.raises(ConfigError, match="learning reads every token, and the head last-token one per text"):
        LastToken().on(find_layers(speaker("llama")), 2, Learning(), 0)


def test_what_a_family_does_on_top_is_seen():
    plain = speaker("llama")
    real = type(plain).forward

    def other(self, input_ids=None, **given):
        out = real(self, input_ids=input_ids, **given)
        out.logits = out.logits + input_ids.unsqueeze(-1)
        return out

    plain.forward = other.__get__(plain)
    with pytest.raises(ModelError, match="gives other logits without the base model"):
        LM().on(find_layers(plain), 1, Learning(), 0)
