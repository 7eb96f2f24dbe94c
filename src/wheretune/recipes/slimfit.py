"""*SlimFit* (Ardakani et al.): nine in ten tensors are frozen in every step, those that changed least."""

from __future__ import annotations

from wheretune.recipes.base import FULL, Recipe, Study, method, printed
from wheretune.records.base import Spec

SLIMFIT = Recipe(
    name="slimfit",
    paper="Ardakani et al., SlimFit: memory-efficient fine-tuning of transformer-based models using training dynamics",
    methods=(
        method(schedule=Spec("slimfit", {"freeze": 0.9})),
        method(schedule=Spec("slimfit", {"freeze": 0.95})),
    ),
    study=Study(
        rivals=(FULL,),
        seeds=(43,),
        learning_rates=(4e-5, 5e-5, 8e-5, 1.2e-4),
        settings={"epochs": 3, "batch_size": 32, "warmup_ratio": 0.0},
    ),
    printed=(
        printed(
            "the authors' GLUE scripts (bert-base-cased, 3 epochs, batch 32 and of RTE 16, linear to 0, no warm-up)",
            """
            data set | frozen share | learning rate | seed
            CoLA     | .90          | 8e-5          | 43
            SST-2    | .95          | 8e-5          | 44
            MRPC     | .90          | 12.5e-5       | 43
            STS-B    | .85          | 8e-5          | 43
            QQP      | .80          | 5e-5          | 43
            MNLI     | .80          | 4e-5          | 43
            QNLI     | .95          | 5e-5          | 43
            RTE      | .90          | 12e-5         | 47
            """,
        ),
        printed(
            "P, tables 1 to 3, which compare with it on bert-base-cased",
            """
            single sentences | sentence pairs | Avg Speedup | #Params
            84.5             | 80.8           | 1.21        | 40.7 M
            """,
        ),
    ),
    decided="the share and the learning rate that the scripts take hang on the data set: two shares stand side by "
    "side, and the learning rate is chosen on validation data; frozen tensors do not move (the code's, under the torch "
    "of 2022, did); quantised activations are left out; the classifier is ranked too, which the script for STS-B "
    "leaves out",
)
