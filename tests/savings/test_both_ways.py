"""What the harness that runs a model both ways calls the same."""

import pytest
import torch
from torch import nn

from wheretune.savings.both_ways import BothWays


def model(dtype=torch.float32):
    return nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).to(dtype).train()


PLAIN = torch.tensor([[3.0, 4.0], [0.0, 1e-3]])  # rows of length 5 and 0.001


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ([[0.0, 0.0], [0.0, 0.0]], True),
        ([[4e-4, 0.0], [0.0, 0.0]], True),  # 4e-4 <= 1e-4 * 5
        ([[6e-4, 0.0], [0.0, 0.0]], False),
        ([[0.0, 0.0], [1e-6, 0.0]], False),  # 1e-6 > 1e-4 * 1e-3: every row by its own length
        ([[0.0, float("nan")], [0.0, 0.0]], False),
    ],
)
def test_rows_are_compared_by_their_length(change, same):
    both = BothWays(model(), lambda: PLAIN, 1e-4)
    assert both.agree(lambda: PLAIN + torch.tensor(change)) is same


def test_in_half_precision_the_tolerance_is_coarse():
    for dtype, same in ((torch.float32, False), (torch.bfloat16, True)):
        both = BothWays(model(dtype), lambda: PLAIN, 1e-4)
        assert both.agree(lambda: PLAIN * 1.05) is same
        assert not both.agree(lambda: PLAIN * 1.07)


def test_what_a_family_cannot_run_is_not_the_same():
    both = BothWays(model(), lambda: PLAIN, 1e-4)
    for error in (RuntimeError, IndexError, ValueError):

        def fails(error=error):
            raise error("other shapes")

        assert not both.agree(fails)
    assert not both.agree(lambda: PLAIN[:1])
    with pytest.raises(KeyError):
        both.agree(lambda: {}["a defect of ours"])


def test_nothing_drops_out_and_no_graph_is_made():
    drops = model()
    given = torch.ones(1, 2)
    both = BothWays(drops, lambda: drops(given), 1e-6)
    seen = []

    def again():
        seen.append(drops(given))
        return seen[-1]

    assert both.agree(again) and not seen[0].requires_grad
    assert all(module.training for module in drops.modules())


def test_under_autocast_weights_say_nothing_of_the_precision():
    maps, given = nn.Linear(8, 8), torch.ones(1, 8)

    def read():
        with torch.autocast("cpu", torch.bfloat16):
            return maps(given)

    both = BothWays(maps, read, 1e-6)
    assert both.agree(lambda: maps(given)) and not maps._forward_hooks
