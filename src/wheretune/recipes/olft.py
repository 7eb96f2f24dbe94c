"""*Optimal Layer Fine-Tuning* (O): probe each layer of the middle third alone, then tune the best of them."""

from __future__ import annotations

from wheretune.recipes.base import PrintedTable, Recipe, Study, method
from wheretune.records.base import Spec

TASKS = ("MNLI-M", "MNLI-MM", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "WNLI", "Avg.")
TUNERS = (Spec("adapter"), Spec("prefix"))
OLFT = Recipe(
    name="olft",
    paper="Optimal Layer Fine-Tuning (OLFT)",
    methods=tuple(
        method(
            scorer=Spec("layer-probe"),
            selector=Spec("middle-best", {"k": 1}),
            tuner=tuner,
            head=Spec("last-token"),
        )
        for tuner in TUNERS
    ),
    study=Study(
        rivals=tuple(
            rival
            for tuner in TUNERS
            for rival in (method(tuner=tuner), method(selector=Spec("top", {"k": 1}), tuner=tuner))
        ),
        reference=TUNERS[0].name,
    ),
    printed=(
        PrintedTable(
            "O, table 1, test set (F1 for MRPC and QQP, else accuracy; the layer is OLFT's own, counted as printed)",
            ("model", "tuned", *TASKS),
            (
                ("GPT-2 Large", "OLFT", "79.3 l-19", "79.3 l-19", "83.0 l-20", "84.1 l-19", "65.6 l-19", "64.6 l-19",
                 "92.4 l-19", "58.9 l-19", "75.8"),
                ("GPT-2 Large", "final layer", "59.9", "59.9", "80.2", "67.1", "58.6", "57.4", "87.5", "51.4", "65.3"),
                ("GPT-2 Large", "all layers", "82.6", "83.0", "82.7", "85.6", "65.6", "62.6", "93.5", "61.6", "77.1"),
                ("LLaMA2-7B", "OLFT", "82.9 l-14", "86.3 l-14", "83.4 l-14", "88.5 l-14", "68.8 l-14", "74.7 l-14",
                 "95.2 l-14", "64.4 l-19", "80.5"),
                ("LLaMA2-7B", "final layer", "58.6", "61.0", "80.8", "62.6", "65.4", "61.0", "91.6", "64.4", "68.2"),
                ("LLaMA2-7B", "all layers", "89.5", "88.8", "80.5", "92.1", "71.6", "58.2", "93.5", "55.5", "78.7"),
                ("Mistral-7B", "OLFT", "87.1 l-12", "87.5 l-12", "86.6 l-12", "91.7 l-14", "70.5 l-12", "81.0 l-12",
                 "95.9 l-14", "65.8 l-12", "83.2"),
                ("Mistral-7B", "final layer", "71.0", "70.7", "80.0", "79.4", "66.6", "62.5", "84.7", "59.6", "71.8"),
                ("Mistral-7B", "all layers", "89.7", "89.4", "80.4", "81.3", "62.7", "52.3", "97.3", "65.1", "77.3"),
            ),
        ),
        PrintedTable(
            "O, table 2 (minutes of training, millions of parameters, average of GLUE; all as printed)",
            ("model", "layers", "time", "time %", "parameters", "parameters %", "Avg. GLUE"),
            (
                ("GPT-2 Large", "all", "33", "100", "14.8", "100", "77.1"),
                ("GPT-2 Large", "one", "13", "39.4", "0.4", "2.7", "75.8"),
                ("LLaMA2-7B", "all", "205", "100", "1.3", "100", "78.7"),
                ("LLaMA2-7B", "one", "85", "41.5", "0.04", "3.1", "80.4"),
                ("Mistral-7B", "all", "36", "100", "134.5", "100", "77.3"),
                ("Mistral-7B", "one", "25", "69.4", "4.2", "3.1", "83.1"),
            ),
        ),
    ),
    decided="O names bottleneck adapters and prefixes and no sizes: ours are Houlsby's with d / 16 and 16 gated keys "
    "and values; learning rates, epochs, batch and seeds are compare's own; speed-ups are over adapters in all "
    "layers",
    preset="olft",
)  # fmt: skip
