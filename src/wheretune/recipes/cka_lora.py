"""Ogawa et al., *Layer-wise LoRA fine-tuning* (C): LoRA on the half of the layers with the lowest CKA."""

from __future__ import annotations

from wheretune.recipes.base import Recipe, Study, method, printed
from wheretune.records.base import Spec

PAPER = "Ogawa et al., Layer-wise LoRA fine-tuning: a similarity metric approach"
CKA = Spec("cka", {"estimator": "biased"})
PRINTED = (
    printed(
        "C, abstract and section 1 (its tables are not in our copy)",
        """
        models                      | layers with LoRA | printed
        encoders                    | half | at most 2.5 points lower on average over GLUE than LoRA on all layers
        LLaMA 2-7B, Mistral-7B-v0.1 | half | better than LoRA on all layers on most tasks
        Gemma-7B                    | half | minor drops
        LLaVA-1.5-7B                | half | competitive
        """,
    ),
)

SMALL = Spec("lora", {"r": 8, "alpha": 16.0})
SMALL_EVERYWHERE = method(tuner=SMALL)
ENCODER = Recipe(
    name="cka-lora-encoder",
    paper=PAPER,
    methods=(method(scorer=CKA, selector=Spec("lowest"), tuner=SMALL, head=Spec("last-token")),),
    study=Study(
        rivals=(SMALL_EVERYWHERE,),
        reference=SMALL_EVERYWHERE.name,
        ratio=0.5,
        learning_rates=(5e-4,),
        settings={"warmup_ratio": 0.06},
    ),
    printed=PRINTED,
    decided="LoRA on query and value; epochs, batch and seeds are compare's own",
    causal=False,
    preset="cka-encoder",
)

LARGE = Spec("lora", {"r": 128, "alpha": 128.0, "targets": "all-linear"})
LARGE_EVERYWHERE = method(tuner=LARGE)
DECODER = Recipe(
    name="cka-lora-decoder",
    paper=PAPER,
    methods=(method(scorer=CKA, selector=Spec("lowest"), tuner=LARGE, head=Spec("last-token")),),
    study=Study(
        rivals=(LARGE_EVERYWHERE,),
        reference=LARGE_EVERYWHERE.name,
        ratio=0.5,
        settings={"warmup_ratio": 0.06},
    ),
    printed=PRINTED,
    decided="a classifier on the last token in place of generation; learning rate, epochs, batch and seeds are "
    "compare's own",
    causal=True,
    preset="cka-decoder",
)
