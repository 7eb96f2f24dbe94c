"""Heads: parameter counts as the papers print them, and outputs from their formulas."""

import pytest
import torch
import transformers
from transformers import AutoModel

from helpers.models import FAMILIES, tiny_model
from helpers.texts import sentences
from wheretune import Concat, LastToken, from_texts
from wheretune.errors import ConfigError
from wheretune.heads.headed import HeadedModel, headed
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe
from wheretune.tasks.classification import Classification
from wheretune.tasks.regression import Regression
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
        model = HeadedModel(find_layers(AutoModel.from_config(config)), head, 2, Classification(), seed=0)
    layers = WholeLayers().attach(model.stack, (3, 7, 11), seed=0).parameters
    trained = sum(p.numel() for p in [*layers, *model.head.parameters()])
    assert round(trained / 1e6, 1) == printed
    assert head.count(describe(model.stack, {}), 2) == sum(p.numel() for p in model.head.parameters())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_from_plain_hidden_states(family, side):
    base, tokenizer = tiny_model(family, side)
    texts = sentences(7)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    position = -1 if family in ("gpt2", "llama", "qwen2") else 0
    for head in (LastToken(), Concat()):
        model = HeadedModel(find_layers(base), head, 3, Classification(), seed=1).eval()
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
    stack = find_layers(base)
    weights = [HeadedModel(stack, LastToken(), 2, Classification(), seed).head[1].weight for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_losses():
    base, tokenizer = tiny_model("bert")
    batch = tokenizer(["good movie", "bad"], padding=True, return_tensors="pt")
    model = HeadedModel(find_layers(base), LastToken(), 2, Classification(), 0).eval()
    out = model(**batch, labels=torch.tensor([1, 0]))
    expected = -torch.log_softmax(out.logits, 1)[[0, 1], [1, 0]].mean()
    torch.testing.assert_close(out.loss, expected)
    model = HeadedModel(find_layers(base), LastToken(), 1, Regression(), 0, start=3.5).eval()
    out = model(**batch, labels=torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(out.loss, ((out.logits[:, 0] - torch.tensor([1.0, 2.0])) ** 2).mean())
    assert model.head[1].bias.item() == 3.5


def test_concat_gradients_reach_the_layers_that_train():
    base, tokenizer = tiny_model("llama")
    model = HeadedModel(find_layers(base), Concat(dropout=0.0), 2, Classification(), 0)
    for parameter in base.parameters():
        parameter.requires_grad = False
    for parameter in find_layers(base).layers[1].module.parameters():
        parameter.requires_grad = True
    batch = tokenizer(["good movie", "bad"], padding=True, return_tensors="pt")
    model(**batch, labels=torch.tensor([0, 1])).loss.backward()
    with_gradient = {n.split(".")[1] for n, p in base.named_parameters() if p.grad is not None}
    assert with_gradient == {"1"}


def test_by_default_a_head_is_the_tasks_own_and_a_regression_starts_at_its_mean_label():
    base, _ = tiny_model("bert")
    model = headed(find_layers(base), None, from_texts(sentences(3), [0.5, 1.0, 3.0]), seed=0)
    assert not model.all_layers and model.head[1].out_features == 1
    assert model.head[1].bias.item() == 1.5


def test_a_head_of_one_token_refuses_a_task_that_reads_every_token():
    class Everywhere:
        name, places = "everywhere", "every"

        def loss(self, logits, labels):
            return logits.mean()

    base, _ = tiny_model("bert")
    with pytest.raises(ConfigError, match="everywhere reads every token, and the head last-token one per text"):
        HeadedModel(find_layers(base), LastToken(), 2, Everywhere(), seed=0)
