"""The journal version of PRiSM (T): four ways to choose by centrality, and a head on all layers' tokens."""

from __future__ import annotations

from wheretune.recipes.base import FULL, Recipe, Study, method, printed
from wheretune.records.base import Spec

LORA = Spec("lora", {"r": 16, "alpha": 32.0})
CHOICES = ("block-highest", "block-lowest", "highest", "lowest")
JOURNAL = Recipe(
    name="prism-journal",
    paper="Biswas et al., Training-free layer selection for partial fine-tuning of language models",
    methods=tuple(
        method(scorer=Spec("cosine-centrality"), selector=Spec(choice), head=Spec("concat")) for choice in CHOICES
    ),
    study=Study(
        rivals=(
            FULL,
            method(tuner=LORA),
            method(tuner=Spec("adapter")),
            method(tuner=Spec("prefix")),
            method(tuner=Spec("ia3")),
            method(schedule=Spec("lift")),
            method(schedule=Spec("slimfit")),
            method(schedule=Spec("recap")),
            method(selector=Spec("random")),
            method(selector=Spec("bottom")),
            method(selector=Spec("top")),
            method(scorer=Spec("io-cosine"), selector=Spec("lowest")),
            method(scorer=Spec("io-cosine"), selector=Spec("highest")),
        ),
        k=3,
        seeds=(0, 42, 100),
        learning_rates=(1e-5, 2e-5, 5e-5),
        settings={"warmup_ratio": 0.0},
    ),
    printed=(
        printed(
            "T, table 1, single sentences (accuracy; bert-base-cased, k = 3, mean and deviation of 3 seeds)",
            """
            tuned                         | SST-2      | SST-5      | MR         | CR         | MPQA       | Subj       | TREC       | CoLA       | Avg.
            Full Fine-tuning              | 91.7 ± 0.3 | 53.7 ± 0.6 | 87.8 ± 0.4 | 88.0 ± 0.5 | 88.4 ± 0.4 | 96.8 ± 0.2 | 96.7 ± 0.2 | 82.4 ± 0.8 | 85.7
            LoRA                          | 88.6 ± 0.5 | 50.9 ± 0.8 | 85.8 ± 0.4 | 85.2 ± 0.7 | 86.1 ± 0.5 | 92.6 ± 0.4 | 92.8 ± 0.4 | 80.3 ± 1.0 | 82.8
            Adapters                      | 89.0 ± 0.4 | 51.1 ± 0.7 | 86.0 ± 0.5 | 85.4 ± 0.6 | 86.3 ± 0.4 | 93.0 ± 0.3 | 93.1 ± 0.3 | 80.5 ± 0.9 | 83.1
            Prefix-Tuning                 | 88.7 ± 0.5 | 50.9 ± 0.8 | 85.9 ± 0.4 | 85.3 ± 0.6 | 86.2 ± 0.5 | 92.7 ± 0.4 | 92.9 ± 0.3 | 80.3 ± 1.1 | 82.9
            (IA)³                         | 88.9 ± 0.4 | 51.0 ± 0.9 | 85.8 ± 0.5 | 85.6 ± 0.5 | 86.3 ± 0.4 | 92.8 ± 0.4 | 93.0 ± 0.4 | 80.4 ± 1.0 | 83.0
            Random k layers               | 88.4 ± 1.7 | 50.2 ± 2.1 | 85.4 ± 1.6 | 84.7 ± 1.8 | 85.5 ± 1.6 | 93.3 ± 1.5 | 95.2 ± 1.4 | 79.6 ± 2.2 | 82.8
            Bottom k layers               | 88.2 ± 0.8 | 50.8 ± 0.9 | 85.1 ± 0.7 | 84.8 ± 0.8 | 85.4 ± 0.6 | 93.2 ± 0.6 | 94.1 ± 0.5 | 79.2 ± 1.3 | 82.6
            Top k layers                  | 89.0 ± 0.6 | 51.2 ± 0.8 | 86.6 ± 0.5 | 85.5 ± 0.6 | 86.8 ± 0.5 | 94.9 ± 0.4 | 94.2 ± 0.5 | 80.4 ± 1.1 | 83.6
            LIFT                          | 90.4 ± 0.4 | 50.5 ± 0.9 | 86.8 ± 0.4 | 86.1 ± 0.5 | 87.0 ± 0.4 | 95.9 ± 0.3 | 95.8 ± 0.3 | 80.5 ± 1.0 | 84.1
            RECAP                         | 90.3 ± 0.4 | 51.2 ± 0.7 | 86.3 ± 0.5 | 86.7 ± 0.4 | 87.3 ± 0.3 | 96.2 ± 0.2 | 96.3 ± 0.2 | 81.0 ± 0.9 | 84.4
            SlimFit                       | 90.1 ± 0.5 | 51.8 ± 0.6 | 87.5 ± 0.4 | 87.2 ± 0.4 | 87.8 ± 0.3 | 96.3 ± 0.2 | 96.1 ± 0.3 | 79.5 ± 1.2 | 84.5
            k Low Similarity (Important)  | 89.1 ± 0.6 | 51.3 ± 0.8 | 86.3 ± 0.5 | 85.2 ± 0.7 | 86.0 ± 0.5 | 95.2 ± 0.4 | 94.0 ± 0.5 | 80.0 ± 1.1 | 83.4
            k High Similarity (Redundant) | 89.8 ± 0.5 | 51.8 ± 0.7 | 86.8 ± 0.4 | 85.5 ± 0.6 | 86.8 ± 0.4 | 95.1 ± 0.4 | 95.4 ± 0.4 | 80.6 ± 1.0 | 84.0
            High Scoring k layers         | 90.6 ± 0.4 | 52.5 ± 0.7 | 88.1 ± 0.3 | 86.0 ± 0.5 | 87.1 ± 0.4 | 96.2 ± 0.2 | 96.2 ± 0.3 | 81.0 ± 0.9 | 84.7
            Low Scoring k layers          | 90.8 ± 0.3 | 52.9 ± 0.6 | 87.0 ± 0.5 | 86.7 ± 0.4 | 87.7 ± 0.3 | 96.2 ± 0.2 | 96.8 ± 0.2 | 80.8 ± 1.0 | 84.9
            Block-wise highest layer      | 90.7 ± 0.3 | 52.5 ± 0.7 | 88.0 ± 0.3 | 86.7 ± 0.4 | 88.2 ± 0.3 | 96.2 ± 0.3 | 96.4 ± 0.2 | 81.1 ± 0.9 | 85.0
            Block-wise lowest layer       | 90.4 ± 0.4 | 52.3 ± 0.8 | 87.7 ± 0.4 | 86.9 ± 0.4 | 88.1 ± 0.3 | 96.4 ± 0.2 | 96.7 ± 0.2 | 81.2 ± 0.8 | 85.0
            """,  # noqa: E501
        ),
        printed(
            "T, table 2, sentence pairs (F1 for MRPC and QQP, Pearson for STS-B, else accuracy; as table 1)",
            """
            tuned                         | MNLI       | SNLI       | QNLI       | RTE        | MRPC       | QQP        | STS-B      | Avg.
            Full Fine-tuning              | 84.0 ± 0.2 | 90.8 ± 0.3 | 90.9 ± 0.3 | 62.0 ± 1.5 | 81.8 ± 0.8 | 90.5 ± 0.4 | 86.2 ± 0.5 | 83.7
            LoRA                          | 80.5 ± 0.4 | 88.2 ± 0.5 | 84.9 ± 0.6 | 56.3 ± 1.8 | 72.1 ± 1.2 | 88.3 ± 0.6 | 83.4 ± 0.7 | 79.1
            Adapters                      | 81.0 ± 0.4 | 88.5 ± 0.4 | 86.0 ± 0.5 | 58.0 ± 1.7 | 73.0 ± 1.1 | 88.5 ± 0.5 | 83.8 ± 0.6 | 79.8
            Prefix-Tuning                 | 80.8 ± 0.5 | 88.3 ± 0.5 | 85.5 ± 0.5 | 57.1 ± 1.9 | 72.5 ± 1.2 | 88.4 ± 0.6 | 83.5 ± 0.7 | 79.4
            (IA)³                         | 80.6 ± 0.5 | 88.5 ± 0.4 | 85.7 ± 0.6 | 57.5 ± 1.8 | 72.7 ± 1.1 | 88.2 ± 0.7 | 83.7 ± 0.6 | 79.6
            Random k layers               | 80.2 ± 1.7 | 87.6 ± 1.8 | 86.9 ± 1.6 | 59.7 ± 3.0 | 70.6 ± 2.5 | 87.2 ± 1.8 | 80.5 ± 1.9 | 79.0
            Bottom k layers               | 80.3 ± 0.8 | 87.4 ± 0.8 | 85.7 ± 0.7 | 58.8 ± 2.1 | 71.4 ± 1.4 | 87.9 ± 0.7 | 81.4 ± 0.8 | 79.0
            Top k layers                  | 81.6 ± 0.6 | 88.9 ± 0.6 | 87.8 ± 0.5 | 60.9 ± 1.8 | 74.1 ± 1.2 | 88.8 ± 0.5 | 83.0 ± 0.7 | 80.7
            LIFT                          | 81.5 ± 0.5 | 89.3 ± 0.4 | 87.6 ± 0.5 | 59.2 ± 1.9 | 74.2 ± 1.1 | 88.4 ± 0.6 | 83.7 ± 0.6 | 80.6
            RECAP                         | 81.3 ± 0.4 | 89.1 ± 0.5 | 87.5 ± 0.4 | 61.3 ± 1.6 | 75.0 ± 1.0 | 89.2 ± 0.5 | 84.4 ± 0.6 | 81.1
            SlimFit                       | 82.2 ± 0.4 | 89.2 ± 0.4 | 88.0 ± 0.4 | 58.5 ± 1.8 | 75.9 ± 0.9 | 87.8 ± 0.7 | 84.3 ± 0.6 | 80.8
            k Low Similarity (Important)  | 80.8 ± 0.6 | 88.7 ± 0.5 | 88.1 ± 0.4 | 60.4 ± 1.7 | 72.2 ± 1.3 | 88.8 ± 0.6 | 82.0 ± 0.8 | 80.1
            k High Similarity (Redundant) | 81.3 ± 0.5 | 88.9 ± 0.5 | 88.5 ± 0.4 | 60.8 ± 1.7 | 73.4 ± 1.2 | 88.6 ± 0.6 | 81.2 ± 0.9 | 80.4
            High Scoring k layers         | 82.1 ± 0.4 | 90.1 ± 0.3 | 90.2 ± 0.3 | 61.0 ± 1.6 | 75.0 ± 1.0 | 89.0 ± 0.5 | 82.4 ± 0.7 | 81.4
            Low Scoring k layers          | 82.5 ± 0.3 | 90.0 ± 0.4 | 89.4 ± 0.4 | 61.4 ± 1.5 | 72.5 ± 1.2 | 89.0 ± 0.5 | 83.3 ± 0.6 | 81.2
            Block-wise highest layer      | 81.8 ± 0.4 | 89.7 ± 0.4 | 88.7 ± 0.5 | 61.7 ± 1.5 | 75.3 ± 0.9 | 89.8 ± 0.4 | 84.5 ± 0.5 | 81.6
            Block-wise lowest layer       | 82.0 ± 0.4 | 90.0 ± 0.3 | 90.1 ± 0.3 | 62.0 ± 1.4 | 71.6 ± 1.3 | 89.7 ± 0.4 | 83.3 ± 0.7 | 81.2
            """,  # noqa: E501
        ),
        printed(
            "T, table 4 (BERT; training speed over full fine-tuning, trainable parameters)",
            """
            tuned                         | Avg Speedup | #Params
            Full Fine-tuning              | –           | 116.6 M
            LoRA                          | 1.63        | 1.84 M
            Adapters                      | 1.35        | 3.6 M
            Prefix-Tuning                 | 1.58        | 0.4 M
            (IA)³                         | 1.76        | 0.1 M
            LIFT                          | 0.53        | 29.7 M
            RECAP                         | 1.39        | 32.1 M
            SlimFit                       | 1.21        | 40.7 M
            I/O Similarity based          | 1.40        | 31.1 M
            Random Selection              | 1.47        | 28.3 M
            Our Method                    | 1.54        | 28.3 M
            """,
        ),
        printed(
            "T, table 7 (k = 3; F1 for MRPC, else accuracy)",
            """
            by                 | chosen                | SST-2 | CoLA | QNLI | MRPC
            Euclidean distance | High Scoring k layers | 87.3  | 78.6 | 87.3 | 72.4
            Euclidean distance | Low Scoring k layers  | 87.6  | 77.3 | 86.5 | 70.7
            cosine similarity  | High Scoring k layers | 90.6  | 81.0 | 90.2 | 75.0
            cosine similarity  | Low Scoring k layers  | 90.8  | 80.8 | 89.4 | 72.5
            """,
        ),
        printed(
            "T, table 8 (k = 3; for its own, the best of its strategies per data set)",
            """
            Selection Metric        | SST-2 | CoLA | QNLI | MRPC
            Gradient Norm           | 90.1  | 78.8 | 89.5 | 73.9
            Feature Variance        | 89.5  | 77.4 | 87.9 | 71.5
            [CLS] Similarity (Ours) | 90.8  | 81.2 | 90.2 | 75.3
            """,
        ),
        printed(
            "T, table 9 (k = 3 blocks)",
            """
            Intra-Block Selection Criterion | SST-2 | CoLA | QNLI | MRPC
            Block-wise Random               | 89.9  | 79.9 | 88.5 | 70.2
            Block-wise Median               | 90.1  | 80.1 | 88.8 | 70.8
            Block-wise Highest (Ours)       | 90.7  | 81.1 | 90.2 | 75.3
            Block-wise Lowest (Ours)        | 90.4  | 81.2 | 90.1 | 71.6
            """,
        ),
    ),
    decided="T takes the best of 3, 5 and 10 epochs and of batches of 16 and 32 per data set: ours are compare's own, "
    "and the learning rate is chosen on validation data; sizes of adapters and prefixes are not said; RECAP's "
    "settings are its authors', with the study's epochs, and it is left out where it cannot run (GPT-2); T tunes "
    "GPT-2 to generate, through its own frozen output matrix (table 3): ours puts a classifier on decoders too",
)  # fmt: skip
