"""Adapters and prefixes compute their formulas, by hand."""

import pytest
import torch

from helpers.models import tiny_model
from wheretune.model.finding import find_layers
from wheretune.model.parts import queries
from wheretune.tuners.modules import Bottleneck, PrefixAttention


def test_an_adapter_computes_its_formula():
    torch.manual_seed(0)
    made = Bottleneck(6, 2)
    hidden = torch.randn(3, 5, 6)
    assert torch.equal(made(hidden), hidden)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    down, up = made.down, made.up
    for row in range(3):
        x = hidden[row, 2]
        inside = down.weight @ x + down.bias
        gelu = inside * 0.5 * (1 + torch.erf(inside / 2**0.5))
        torch.testing.assert_close(made(hidden)[row, 2], x + up.weight @ gelu + up.bias)


def test_a_prefix_computes_its_formula_with_grouped_heads():
    torch.manual_seed(0)
    made = PrefixAttention(length=3, heads=4, kv_heads=2, size=5)
    query = torch.randn(2, 7, 4, 5)
    assert not made(query).any()
    with torch.no_grad():
        made.gate.copy_(torch.tensor([0.3, -1.0, 0.0, 2.0]))
    found = made(query)
    for head in range(4):
        keys, values = made.keys[:, head // 2], made.values[:, head // 2]
        share = (keys @ query[1, 4, head] / 5**0.5).softmax(0)
        torch.testing.assert_close(found[1, 4, head], torch.tanh(made.gate[head]) * (share @ values))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_prefix_reads_the_queries_that_attention_reads(family):
    """Every head's query, against the model's own attention probabilities."""
    model, tokenizer = tiny_model(family)
    model.set_attn_implementation("eager")
    layer = find_layers(model).layers[0]
    kept = {}
    for name in ("query", "key"):
        module = layer.module.get_submodule(getattr(layer.parts, name))
        module.register_forward_hook(lambda *a, name=name: kept.setdefault(name, a[-1]))
    with torch.no_grad():
        shares = model(**tokenizer("the good movie", return_tensors="pt"), output_attentions=True).attentions[0][0]
    q = queries(layer.parts, kept["query"])[0].transpose(0, 1)  # head, token, size
    size = q.shape[-1]
    key = kept["key"][..., 32:64] if family == "gpt2" else kept["key"]
    k = key[0].reshape(-1, 4, size).transpose(0, 1)
    scores = q @ k.transpose(1, 2) / size**0.5
    # the first token of a decoder sees itself alone; rotation leaves the token at position 0 as it is
    if family == "bert":
        torch.testing.assert_close(scores.softmax(-1), shares)
    elif family == "gpt2":
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
        torch.testing.assert_close(scores.masked_fill(hidden, -torch.inf).softmax(-1), shares)
    else:
        assert q.shape == (4, 3, 8)
        torch.testing.assert_close(q.transpose(0, 1).reshape(3, 32), kept["query"][0])
