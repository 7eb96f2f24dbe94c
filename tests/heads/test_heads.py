"""Heads: parameter counts as the papers print them, and outputs from their formulas."""

import pytest
import torch
import transformers
from transformers import AutoModel

from helpers.models import FAMILIES, tiny_model
from helpers.texts import sentences
from wheretune import Concat, LastToken
from wheretune.heads.base import count
from wheretune.heads.headed import HeadedModel
from wheretune.model.finding import find_layers
from wheretune.tuners.whole_layers import WholeLayers


@pytest.mark.parametrize(
    ("config", "head", "printed"),
    [
        (transformers.BertConfig(vocab_size=28996), LastToken(), 21.3),  # P's own linear head
        (transformers.BertConfig(vocab_size=28996), Concat(), 28.3),  # P table 3, T table 4
        (transformers.GPT2Config(), LastToken(), 21.3),  # T table 3
    ],
)
def test_three_layers_train_what_the_papers_print(config, head, printed):
    with torch.device("meta"):
        model = HeadedModel(AutoModel.from_config(config), head, 2, "classification", seed=0)
    layers = WholeLayers().attach(model.stack, (3, 7, 11), seed=0).parameters
    trained = sum(p.numel() for p in [*layers, *model.head.parameters()])
    assert round(trained / 1e6, 1) == printed
    assert count(head, 12, 768, 2, model.stack.causal) == sum(p.numel() for p in model.head.parameters())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_from_plain_hidden_states(family, side):
    base, tokenizer = tiny_model(family, side)
    texts = sentences(7)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    position = -1 if family in ("gpt2", "llama", "qwen2") else 0
    for head in (LastToken(), Concat()):
        model = HeadedModel(base, head, 3, "classification", seed=1).eval()
        with torch.no_grad():
            found = model(**batch).logits
            alone = []
            for text in texts:
                states = base(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
                tokens = [state[0, position] for state in states[1:]]
                linear = [m for m in model.head if isinstance(m, torch.nn.Linear)]
                if isinstance(head, Concat):
                    middle = torch.relu(linear[0].weight @ torch.cat(tokens) + linear[0].bias)
                    alone.append(linear[1].weight @ middle + linear[1].bias)
                else:
                    bias = 0 if linear[0].bias is None else linear[0].bias
                    alone.append(linear[0].weight @ tokens[-1] + bias)
        torch.testing.assert_close(found, torch.stack(alone), atol=1e-5, rtol=1e-4)


def test_the_head_is_drawn_with_its_seed_and_leaves_the_global_generator_alone():
    base, _ = tiny_model("bert")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    weights = [HeadedModel(base, LastToken(), 2, "classification", seed).head[1].weight for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_losses():
    base, tokenizer = tiny_model("bert")
    batch = tokenizer(["good movie", "bad"], padding=True, return_tensors="pt")
    model = HeadedModel(base, LastToken(), 2, "classification", 0).eval()
    out = model(**batch, labels=torch.tensor([1, 0]))
    expected = -torch.log_softmax(out.logits, 1)[[0, 1], [1, 0]].mean()
    torch.testing.assert_close(out.loss, expected)
    model = HeadedModel(base, LastToken(), 1, "regression", 0, centre=3.5).eval()
    out = model(**batch, labels=torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(out.loss, ((out.logits[:, 0] - torch.tensor([1.0, 2.0])) ** 2).mean())
    assert model.head[1].bias.item() == 3.5


def test_concat_gradients_reach_the_layers_that_train():
    base, tokenizer = tiny_model("llama")
    model = HeadedModel(base, Concat(dropout=0.0), 2, "classification", 0)
    for parameter in base.parameters():
        parameter.requires_grad = False
    for parameter in find_layers(base).layers[1].module.parameters():
        parameter.requires_grad = True
    batch = tokenizer(["good movie", "bad"], padding=True, return_tensors="pt")
    model(**batch, labels=torch.tensor([0, 1])).loss.backward()
    with_gradient = {n.split(".")[1] for n, p in base.named_parameters() if p.grad is not None}
    assert with_gradient == {"1"}
