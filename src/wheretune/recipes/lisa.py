"""*LISA* (Pan et al.): a fresh draw of a few layers every few steps, embeddings and head always."""

from __future__ import annotations

from wheretune.recipes.base import FULL, Recipe, Study, method, printed
from wheretune.records.base import Spec

LISA = Recipe(
    name="lisa",
    paper="Pan et al., LISA: layerwise importance sampling for memory-efficient large language model fine-tuning",
    methods=(
        method(schedule=Spec("lisa", {"layers": 2, "every": 20})),
        method(schedule=Spec("lisa", {"layers": 2, "every": 20, "state": "drop-all"})),
    ),
    study=Study(rivals=(FULL,), learning_rates=(2e-5,), settings={"epochs": 1, "lr_scheduler_type": "cosine"}),
    printed=(
        printed(
            "the authors' code (LMFlow), args.py and the script for LISA",
            """
            where  | layers drawn | steps between draws | learning rate  | epochs
            args   | 2            | 20                  | -              | -
            script | 1            | 20                  | 2e-5, cosine   | 1
            """,
        ),
    ),
    decided="LMFlow keeps the state of every layer ever drawn, and its authors say that the paper's runs started every "
    "interval anew: ours drops the state of layers that leave, and drop-all stands beside it; draws are uniform, for "
    "no importance weights exist in the code; the paper tunes language models on conversations, which "
    "the task chat does, and any other task may be taken; batch and seeds are compare's own",
)
