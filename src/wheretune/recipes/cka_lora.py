"""Ogawa et al., *Layer-wise LoRA fine-tuning* (C): LoRA on the half of the layers with the lowest CKA."""

from __future__ import annotations

from wheretune.recipes.base import Recipe, Reference

PAPER = "Ogawa et al., Layer-wise LoRA fine-tuning: a similarity metric approach"
PRINTED = (
    Reference(
        "C, abstract and section 1 (its tables are not in our copy)",
        ("models", "layers with LoRA", "printed"),
        (
            ("encoders", "half", "at most 2.5 points lower on average over GLUE than LoRA on all layers"),
            ("LLaMA 2-7B, Mistral-7B-v0.1", "half", "better than LoRA on all layers on most tasks"),
            ("Gemma-7B", "half", "minor drops"),
            ("LLaVA-1.5-7B", "half", "competitive"),
        ),
    ),
)
ENCODER = Recipe(
    name="cka-lora-encoder",
    paper=PAPER,
    scorer="cka:estimator=biased",
    selector="lowest",
    tuners=("lora:r=8:alpha=16",),
    head="last-token",
    schedule="static",
    rivals=("{tuner}",),
    options={"ratio": "0.5", "learning_rates": "5e-4", "warmup_ratio": "0.06"},
    causal=False,
    references=PRINTED,
    decided="LoRA on query and value; epochs, batch and seeds are compare's own",
)
DECODER = Recipe(
    name="cka-lora-decoder",
    paper=PAPER,
    scorer="cka:estimator=biased",
    selector="lowest",
    tuners=("lora:r=128:alpha=128:targets=all-linear",),
    head="last-token",
    schedule="static",
    rivals=("{tuner}",),
    options={"ratio": "0.5", "warmup_ratio": "0.06"},
    causal=True,
    references=PRINTED,
    decided="a classifier on the last token in place of generation; learning rate, epochs, batch and seeds are "
    "compare's own",
)
