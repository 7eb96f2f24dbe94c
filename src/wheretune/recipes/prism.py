"""*PRiSM* (P): fine-tune the most central layer of each of k blocks, found by one forward pass."""

from __future__ import annotations

from wheretune.recipes.base import FULL, Recipe, Study, method, printed
from wheretune.records.base import Spec

LORA = Spec("lora", {"r": 16, "alpha": 32.0})
PRISM = Recipe(
    name="prism",
    paper="Biswas et al., PRiSM: partial ranking via inter-layer semantic measurement",
    methods=(
        method(scorer=Spec("cosine-centrality"), selector=Spec("block-highest"), head=Spec("last-token")),
    ),
    study=Study(
        rivals=(
            FULL,
            method(tuner=LORA),
            method(tuner=Spec("adapter")),
            method(tuner=Spec("prefix")),
            method(schedule=Spec("lift")),
            method(schedule=Spec("slimfit")),
            method(schedule=Spec("recap")),
            method(selector=Spec("random")),
            method(selector=Spec("bottom")),
            method(selector=Spec("top")),
            method(scorer=Spec("io-cosine"), selector=Spec("lowest")),
        ),
        k=3,
        seeds=(0, 42, 100),
        learning_rates=(1e-5, 2e-5, 5e-5),
        settings={"warmup_ratio": 0.0},
    ),
    printed=(
        printed(
            "P, table 1, single sentences (accuracy; bert-base-cased, k = 3, mean of 3 seeds)",
            """
            tuned                | SST-2 | SST-5 | MR   | CR   | MPQA | Subj | TREC | CoLA | Avg.
            Full Fine-tuning     | 91.7  | 53.7  | 87.8 | 88.0 | 88.4 | 96.8 | 96.7 | 82.4 | 85.7
            LoRA                 | 88.6  | 50.9  | 85.8 | 85.2 | 86.1 | 92.6 | 92.8 | 80.3 | 82.8
            Adapters             | 89.0  | 51.1  | 86.0 | 85.4 | 86.3 | 93.0 | 93.1 | 80.5 | 83.1
            Prefix-Tuning        | 88.7  | 50.9  | 85.9 | 85.3 | 86.2 | 92.7 | 92.9 | 80.3 | 82.9
            Random k layers      | 88.4  | 50.2  | 85.4 | 84.7 | 85.5 | 93.3 | 95.2 | 79.6 | 82.8
            Bottom k layers      | 88.2  | 50.8  | 85.1 | 84.8 | 85.4 | 93.2 | 94.1 | 79.2 | 82.6
            Top k layers         | 89.0  | 51.2  | 86.6 | 85.5 | 86.8 | 94.9 | 94.2 | 80.4 | 83.6
            LIFT                 | 90.4  | 50.5  | 86.8 | 86.1 | 87.0 | 95.9 | 95.8 | 80.5 | 84.1
            RECAP                | 90.3  | 51.2  | 86.3 | 86.7 | 87.3 | 96.2 | 96.3 | 81.0 | 84.4
            SlimFit              | 90.1  | 51.8  | 87.5 | 87.2 | 87.8 | 96.3 | 96.1 | 79.5 | 84.5
            Layer Drop           | 89.1  | 51.3  | 86.3 | 85.2 | 86.0 | 95.2 | 94.0 | 80.0 | 83.4
            PRiSM                | 90.7  | 52.5  | 88.0 | 86.7 | 88.2 | 96.2 | 96.4 | 81.1 | 85.0
            """,
        ),
        printed(
            "P, table 2, sentence pairs (F1 for MRPC and QQP, Pearson for STS-B, else accuracy; as table 1)",
            """
            tuned                | MNLI | SNLI | QNLI | RTE  | MRPC | QQP  | STS-B | Avg.
            Full Fine-tuning     | 84.0 | 90.8 | 90.9 | 62.0 | 81.8 | 90.5 | 86.2  | 83.7
            LoRA                 | 80.5 | 88.2 | 84.9 | 56.3 | 72.1 | 88.3 | 83.4  | 79.1
            Adapters             | 81.0 | 88.5 | 86.0 | 58.0 | 73.0 | 88.5 | 83.8  | 79.8
            Prefix-Tuning        | 80.8 | 88.3 | 85.5 | 57.1 | 72.5 | 88.4 | 83.5  | 79.4
            Random k layers      | 80.2 | 87.6 | 86.9 | 59.7 | 70.6 | 87.2 | 80.5  | 79.0
            Bottom k layers      | 80.3 | 87.4 | 85.7 | 58.8 | 71.4 | 87.9 | 81.4  | 79.0
            Top k layers         | 81.6 | 88.9 | 87.8 | 60.9 | 74.1 | 88.8 | 83.0  | 80.7
            LIFT                 | 81.5 | 89.3 | 87.6 | 59.2 | 74.2 | 88.4 | 83.7  | 80.6
            RECAP                | 81.3 | 89.1 | 87.5 | 61.3 | 75.0 | 89.2 | 84.4  | 81.1
            SlimFit              | 82.2 | 89.2 | 88.0 | 58.5 | 75.9 | 87.8 | 84.3  | 80.8
            Layer Drop           | 80.8 | 88.7 | 88.1 | 60.4 | 72.2 | 88.8 | 82.0  | 80.1
            PRiSM                | 81.8 | 89.7 | 88.7 | 61.7 | 75.3 | 89.8 | 84.5  | 81.6
            """,
        ),
        printed(
            "P, table 3 (training speed over full fine-tuning, trainable parameters)",
            """
            tuned                | Avg Speedup | #Params
            Full Fine-tuning     | -           | 110 M
            LoRA                 | 1.63        | 1.84 M
            Adapters             | 1.35        | 3.6 M
            Prefix-Tuning        | 1.58        | 2.1 M
            Random               | 1.47        | 28.3 M
            LIFT                 | 0.53        | 29.7 M
            RECAP                | 1.39        | 32.1 M
            SlimFit              | 1.21        | 40.7 M
            PRiSM                | 1.54        | 28.3 M
            """,
        ),
        printed(
            "P, table 5 (average over all data sets)",
            """
            Similarity Metric    | Average Score
            Cosine Similarity    | 83.3
            Euclidean Distance   | 77.8
            """,
        ),
    ),
    decided="P takes the best of 3, 5 and 10 epochs and of batches of 16 and 32 per data set: ours are compare's own, "
    "and the learning rate is chosen on validation data; its head is a linear map on the last layer's token, with "
    "which k = 3 trains 21.3 M parameters and not the 28.3 M it prints; sizes of adapters and prefixes are not said; "
    "RECAP's settings are its authors', with the study's epochs",
    preset="prism",
)  # fmt: skip
