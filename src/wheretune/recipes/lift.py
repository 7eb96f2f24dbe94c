"""*LIFT* (Zhu et al.): one layer at a time, from front to back; beside it LIFT*, as S compares with."""

from __future__ import annotations

from wheretune.recipes.base import FULL, Recipe, Study, method, printed
from wheretune.records.base import Spec

LIFT = Recipe(
    name="lift",
    paper="Zhu et al., LIFT: efficient layer-wise fine-tuning for large model models",
    methods=(method(schedule=Spec("lift")), method(schedule=Spec("lift-star"))),
    study=Study(rivals=(FULL,), settings={"warmup_ratio": 0.0}),
    printed=(
        printed(
            "the abstract (the paper itself was not to be had)",
            """
            beside full fine-tuning | printed
            memory                  | 3.7 times less
            throughput              | 2.1 to 2.6 times as much
            """,
        ),
        printed(
            "P, tables 1 to 3, which compare with it on bert-base-cased",
            """
            single sentences | sentence pairs | Avg Speedup | #Params
            84.1             | 80.6           | 0.53        | 29.7 M
            """,
        ),
        printed(
            "S, table 5, LIFT[half] and LIFT*[half] (share of the backward pass that is saved; Llama3-8B)",
            """
            CARER | MRPC  | SST5  | TREC  | WebSS
            0.484 | 0.483 | 0.484 | 0.484 | 0.484
            """,
        ),
    ),
    decided="the interval, the state of the optimizer, what else trains and the learning rate are not said: equal "
    "shares of the steps, state dropped when a layer freezes, the head always and the embeddings never, one "
    "learning-rate schedule over all steps; P's speed-up of 0.53 contradicts the abstract: a sweep over 12 layers "
    "costs 1.54 of full fine-tuning's 3 units",
)
