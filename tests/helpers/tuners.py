"""Every tuner as the command line has it, and plans of layers 1 and 3."""

from functools import partial

from helpers import families

EVERY = {
    "lora": ("r=2",), "pissa": ("r=2",), "dora": ("r=2", "alpha=4"), "adalora": ("r=2", "start=3", "every=1"),
    "ia3": (), "adapter": ("reduction=8", "place=pfeiffer"), "prefix": ("length=2",), "bias": (), "head-only": (),
}  # fmt: skip
PEFT = ("lora", "pissa", "dora", "adalora", "ia3")  # those that PEFT opens
planned = partial(families.planned, layers=(1, 3))
