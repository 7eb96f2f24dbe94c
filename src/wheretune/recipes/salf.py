"""*SALF* (S): train from the layer upwards that brings the last token nearest to what the label means."""

from __future__ import annotations

from wheretune.recipes.base import Recipe, Study, method, printed
from wheretune.records.base import Spec

LORA = Spec("lora")
EVERYWHERE = method(tuner=LORA)
SALF = Recipe(
    name="salf",
    paper="Gu et al., A semantic-aware layer-freezing approach to computation-efficient fine-tuning (SALF)",
    methods=(
        method(
            scorer=Spec("semantic-deviation", {"variant": "cosine"}),
            selector=Spec("suffix"),
            tuner=LORA,
        ),
        *(
            method(tuner=LORA, schedule=Spec("salf", {"budget": budget, "fill": fill}))
            for budget in ("half", "geometric", "arithmetic")
            for fill in ("breadth-first", "depth-first")
            if (budget, fill) != ("half", "breadth-first")  # the same as depth-first
        ),
    ),
    study=Study(
        rivals=(
            EVERYWHERE,
            method(selector=Spec("top", {"ratio": 0.5}), tuner=LORA),
            method(tuner=LORA, schedule=Spec("lift")),
            method(tuner=LORA, schedule=Spec("lift-star")),
        ),
        reference=EVERYWHERE.name,
        seeds=(42,),
        settings={"epochs": 1, "warmup_ratio": 0.0},
    ),
    printed=(
        printed(
            "S, table 3 (F1 of the next token)",
            """
            LLM         | tuned       | CARER | MRPC  | SST5  | TREC  | WebSS | Avg.
            Qwen2-0.5B  | LoRA[full]  | 0.765 | 0.454 | 0.302 | 0.779 | 0.837 | 0.627
            Qwen2-0.5B  | LoRA[half]  | 0.746 | 0.663 | 0.335 | 0.795 | 0.847 | 0.677
            Qwen2-0.5B  | LIFT[half]  | 0.241 | 0.399 | 0.239 | 0.701 | 0.583 | 0.433
            Qwen2-0.5B  | LIFT*[half] | 0.806 | 0.755 | 0.456 | 0.805 | 0.891 | 0.743
            Qwen2-0.5B  | SALF[half]  | 0.807 | 0.785 | 0.444 | 0.941 | 0.847 | 0.765
            Qwen2-1.5B  | LoRA[full]  | 0.835 | 0.750 | 0.293 | 0.787 | 0.749 | 0.683
            Qwen2-1.5B  | LoRA[half]  | 0.687 | 0.769 | 0.373 | 0.793 | 0.856 | 0.696
            Qwen2-1.5B  | LIFT[half]  | 0.469 | 0.566 | 0.318 | 0.727 | 0.705 | 0.557
            Qwen2-1.5B  | LIFT*[half] | 0.823 | 0.779 | 0.503 | 0.808 | 0.917 | 0.766
            Qwen2-1.5B  | SALF[half]  | 0.815 | 0.735 | 0.520 | 0.940 | 0.876 | 0.777
            Qwen2-7B    | LoRA[full]  | 0.820 | 0.399 | 0.075 | 0.252 | 0.029 | 0.315
            Qwen2-7B    | LoRA[half]  | 0.794 | 0.690 | 0.388 | 0.796 | 0.866 | 0.707
            Qwen2-7B    | LIFT[half]  | 0.532 | 0.739 | 0.320 | 0.747 | 0.699 | 0.607
            Qwen2-7B    | LIFT*[half] | 0.797 | 0.781 | 0.534 | 0.802 | 0.915 | 0.766
            Qwen2-7B    | SALF[half]  | 0.823 | 0.831 | 0.542 | 0.951 | 0.852 | 0.800
            Gemma2-2B   | LoRA[full]  | 0.867 | 0.494 | 0.281 | 0.711 | 0.771 | 0.625
            Gemma2-2B   | LoRA[half]  | 0.865 | 0.498 | 0.243 | 0.711 | 0.694 | 0.602
            Gemma2-2B   | LIFT[half]  | 0.328 | 0.399 | 0.082 | 0.505 | 0.453 | 0.353
            Gemma2-2B   | LIFT*[half] | 0.872 | 0.518 | 0.280 | 0.737 | 0.797 | 0.641
            Gemma2-2B   | SALF[half]  | 0.877 | 0.399 | 0.199 | 0.734 | 0.778 | 0.597
            Gemma2-9B   | LoRA[full]  | 0.801 | 0.399 | 0.193 | 0.706 | 0.765 | 0.573
            Gemma2-9B   | LoRA[half]  | 0.865 | 0.399 | 0.201 | 0.725 | 0.741 | 0.586
            Gemma2-9B   | LIFT[half]  | 0.382 | 0.399 | 0.187 | 0.577 | 0.484 | 0.406
            Gemma2-9B   | LIFT*[half] | 0.862 | 0.399 | 0.281 | 0.729 | 0.791 | 0.612
            Gemma2-9B   | SALF[half]  | 0.860 | 0.399 | 0.190 | 0.658 | 0.797 | 0.581
            Llama3-8B   | LoRA[full]  | 0.394 | 0.399 | 0.402 | 0.256 | 0.029 | 0.296
            Llama3-8B   | LoRA[half]  | 0.818 | 0.664 | 0.338 | 0.784 | 0.861 | 0.693
            Llama3-8B   | LIFT[half]  | 0.590 | 0.466 | 0.476 | 0.779 | 0.837 | 0.630
            Llama3-8B   | LIFT*[half] | 0.843 | 0.468 | 0.552 | 0.799 | 0.900 | 0.712
            Llama3-8B   | SALF[half]  | 0.872 | 0.399 | 0.571 | 0.945 | 0.885 | 0.734
            """,
        ),
        printed(
            "S, table 5 (share of the backward pass that is saved; Llama3-8B)",
            """
            Budget      | CARER | MRPC  | SST5  | TREC  | WebSS | Avg.
            LoRA[full]  | 0.000 | 0.000 | 0.000 | 0.000 | 0.000 | 0.000
            LoRA[half]  | 0.500 | 0.500 | 0.500 | 0.500 | 0.500 | 0.500
            LIFT[half]  | 0.484 | 0.483 | 0.484 | 0.484 | 0.484 | 0.484
            LIFT*[half] | 0.484 | 0.483 | 0.484 | 0.484 | 0.484 | 0.484
            SALF[half]  | 0.484 | 0.483 | 0.484 | 0.484 | 0.484 | 0.484
            [geom][bf]  | 0.374 | 0.312 | 0.346 | 0.328 | 0.355 | 0.343
            [geom][df]  | 0.616 | 0.583 | 0.601 | 0.589 | 0.604 | 0.598
            [arith][bf] | 0.614 | 0.613 | 0.613 | 0.609 | 0.615 | 0.613
            [arith][df] | 0.644 | 0.640 | 0.644 | 0.642 | 0.645 | 0.643
            """,
        ),
        printed(
            "S, table 6 (F1 of the next token; Llama3-8B)",
            """
            Variant          | CARER | MRPC  | SST5  | TREC  | WebSS | Avg.
            SALF[half]       | 0.872 | 0.399 | 0.571 | 0.945 | 0.885 | 0.734
            SALF[half][ce]   | 0.213 | 0.595 | 0.419 | 0.952 | 0.835 | 0.603
            SALF[half][rank] | 0.086 | 0.753 | 0.455 | 0.946 | 0.876 | 0.623
            """,
        ),
    ),
    decided="S freezes sample by sample: the first method freezes below the layer with the largest mean gain, the "
    "others by S's budgets, the layer of every text found once; S's arithmetic rows are met within .03; S trains the "
    "next token, as the task next-token does, and a classifier may be taken; LoRA's sizes, learning rate and batch are "
    "not said, one pass follows from no text being read twice; S holds models of 7 B or more in 4 bits",
    causal=True,
    preset="salf",
)
