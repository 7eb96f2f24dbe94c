"""*RECAP* (Ilhan et al., CVPR 2024): a pruned and masked working copy trains, is written back, and is made anew."""

from __future__ import annotations

from wheretune.recipes.base import FULL, Recipe, Study, method, printed
from wheretune.records.base import Spec

RECAP = Recipe(
    name="recap",
    paper="Ilhan et al., Resource-efficient transformer pruning for finetuning of large models (CVPR 2024)",
    methods=(method(schedule=Spec("recap", {"prune": 0.17, "mask": 0.5, "rounds": 6, "substeps": 1})),),
    study=Study(
        rivals=(FULL,),
        learning_rates=(2e-5,),
        settings={"epochs": 12, "batch_size": 32, "warmup_ratio": 0.0, "weight_decay": 0.0},
    ),
    printed=(
        printed(
            "the authors' README (CoLA, bert-base-uncased, batch 32, linear to 0 in every round, no decay)",
            """
            pruned (r_p) | masked (r_f) | sub-steps (N_p) | rounds after round 0 (N) | learning rate | epochs a round
            .17          | .5           | 1               | 5                        | 2e-5          | 2
            """,
        ),
        printed(
            "P, tables 1 to 3, which compare with it on bert-base-cased",
            """
            single sentences | sentence pairs | Avg Speedup | #Params
            84.4             | 81.1           | 1.39        | 32.1 M
            """,
        ),
    ),
    decided="2 real epochs a round make 12, for full fine-tuning too (the code counts steps of 8 texts: its 2 are 8, "
    "of 10,000 steps at most); P's own runs explain neither number: with .17 pruned and plain masks no more than 1.20 "
    "can be saved, and .17 with .875 masked trains 32.14 M",
)
