"""The FLOPs of a language model's head, against what PyTorch counts of the model that trains, and by hand."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from helpers.language import FAMILIES, batch, conversations, speaking
from wheretune import planning
from wheretune.cost.flops import Savings, compute_share, estimate, full
from wheretune.cost.price import price
from wheretune.cost.training import Training
from wheretune.data.tokens import learned_tokens
from wheretune.heads.lm import LM
from wheretune.model.identity import describe
from wheretune.savings.one_token import one_token
from wheretune.selectors.fixed import Explicit
from wheretune.tuners.head_only import HeadOnly

ONE = Savings(one_token=True)


def equal_rows(tokens=24):
    """Rows of one length, so that nothing is padded."""
    rows = []
    for one in conversations(6, seed=4):
        ids = (one["input_ids"] * tokens)[:tokens]
        labels = ([-100] * (tokens - 7)) + ids[-7:]
        rows.append({"input_ids": ids, "attention_mask": [1] * tokens, "labels": labels, "row": one["row"]})
    return rows


@pytest.mark.parametrize("chosen", [(3,), (1, 2), "full"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_flops_are_those_that_pytorch_counts(family, chosen):
    model, rows = speaking(family), equal_rows()
    model.language.set_attn_implementation("eager")
    layers = (0, 1, 2, 3) if chosen == "full" else chosen
    for parameter in model.parameters():
        parameter.requires_grad = chosen == "full"
    for layer in layers:
        for parameter in model.stack.layers[layer].module.parameters():
            parameter.requires_grad = True
    info = describe(model.stack, {})
    speech = info.vocabulary * info.hidden_size
    learned = sum(map(learned_tokens, rows)) / len(rows)
    assert learned == 7
    given = batch(rows)
    with one_token(model.stack, given, model) as holds:
        assert holds
        with FlopCounterMode(display=False) as counted:
            model.train()(**given).loss.backward()
    parts = [layer.parts for layer in model.stack.layers]
    training = Training(
        layers, embeddings=chosen == "full", read=learned, speech=speech, speech_trains=chosen == "full"
    )
    told = estimate(parts, training, 24.0, ONE)
    assert len(rows) * told.total == pytest.approx(counted.get_total_flops(), rel=0.03)


def test_by_hand():
    speech = 1000.0
    plain, head = Training((1,), read=3.0), Training((1,), read=3.0, speech=1000)
    from helpers.cost import BERT, TEXT

    parts = [BERT] * 3
    more = estimate(parts, head, TEXT), estimate(parts, plain, TEXT)
    assert more[0].forward - more[1].forward == more[0].input_gradients - more[1].input_gradients == 2 * speech * TEXT
    assert more[0].weight_gradients == more[1].weight_gradients
    cut = estimate(parts, head, TEXT, ONE), estimate(parts, plain, TEXT, ONE)
    assert cut[0].forward - cut[1].forward == pytest.approx(2 * speech * 3)
    assert full(parts, TEXT, 1000).total - full(parts, TEXT).total == 6 * speech * TEXT
    alone = Training((), read=3.0, speech=1000, speech_trains=True)
    assert estimate(parts, alone, TEXT).input_gradients == 0
    assert estimate(parts, alone, TEXT, ONE).weight_gradients == 2 * speech * 3
    assert (
        compute_share(parts, head, TEXT)
        > compute_share(parts, plain, TEXT) * full(parts, TEXT).total / full(parts, TEXT, 1000).total
    )


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_what_a_plan_says_of_the_head(family):
    model = speaking(family)
    info = describe(model.stack, {})
    matrix = model.language.lm_head.weight.numel()
    assert (info.vocabulary * info.hidden_size, info.tied) == (matrix, FAMILIES[family]().tie_word_embeddings)
    made = planning.plan(info, Explicit((2,)), head=LM(), tokens=20.0, learned=5.0)
    assert made.cost.learned == 5.0 and made.cost.trainable_parameters == info.layers[2].parameters
    assert made.cost.total_parameters == sum(p.numel() for p in model.parameters())
    assert planning.cost(made).lines == planning.cost(made, tokens=20.0, learned=5.0).lines
    assert planning.cost(made, learned=10.0).expected_speed_up < made.cost.expected_speed_up
    if not info.tied:
        trained = planning.plan(info, None, tuner=HeadOnly(), head=LM(train=True))
        assert trained.cost.trainable_parameters == matrix
        assert trained.cost.total_parameters == made.cost.total_parameters
    assert price(info, Training((2,))).learned is None
