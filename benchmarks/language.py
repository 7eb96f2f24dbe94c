"""What the savings are worth for a language model: seconds and memory of a step, as ratios to full fine-tuning.

    python benchmarks/language.py MODEL TRAIN.jsonl [--rows 64] [--batch-size 8] [--length 256]
    python benchmarks/language.py --help
    python benchmarks/language.py --show benchmarks/results/language.json      # the table again

MODEL is a folder or the name of a causal language model, TRAIN a file of conversations, instructions or prompts that
`wheretune tune --task chat` reads (`--instruction-column` and `--output-column` name columns). All cases train on the
same rows in fp32 with AdamW; ours in batches of like length:

- full fine-tuning: every layer and the embeddings, logits only where a token is learned, a chunk at a time;
- its plain loss: the same with Transformers' own loss, which makes the logits of every token;
- top third: the upper third of the layers, with the prefix cache in memory and without it;
- LoRA on the top third;
- SFTTrainer, top third: TRL's unmodified trainer on the same plan, `wt.apply` alone; and within `wt.cache_prefix`.

Every case runs in a process of its own, one after the other. Two epochs are trained: the seconds of a step are those
of the second, so that the cache is full and what is made once is made; filling the cache is a number of its own.
Full fine-tuning runs first and last, and the reference is the mean.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

from transformers import TrainerCallback

CHILD = "--measure"
FULL, PLAIN, CACHED, UNCACHED = "full fine-tuning", "its plain loss", "top third", "top third, no cache"
LORA, TRL, TRL_CACHED = "LoRA on the top third", "SFTTrainer, top third", "SFTTrainer, top third, cached"
CASES = (FULL, PLAIN, CACHED, UNCACHED, LORA, TRL, TRL_CACHED, FULL)
SEED = 0


def main() -> None:
    if CHILD in sys.argv:
        print(json.dumps(measure(json.loads(sys.argv[-1]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("train", nargs="?")
    parser.add_argument("--instruction-column")
    parser.add_argument("--output-column")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/language.json"))
    parser.add_argument("--show", type=Path, metavar="JSON")
    options = parser.parse_args()
    if options.show is None:
        if options.train is None:
            parser.error("give MODEL and TRAIN, or --show a file of results")
        run(options)
    print(table(json.loads((options.show or options.output).read_text())))


def run(options: argparse.Namespace) -> None:
    """Every case in a process of its own."""
    from wheretune.support.files import write_json
    from wheretune.support.provenance import provenance, versions

    names = ("model", "train", "rows", "batch_size", "length", "instruction_column", "output_column")
    setting = {name: getattr(options, name) for name in names}
    found = []
    for case in CASES:
        told = json.dumps({**setting, "case": case})
        done = subprocess.run([sys.executable, __file__, CHILD, told], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{case} failed:\n{done.stderr[-2000:]}")
        found.append({"case": case, **json.loads(done.stdout.splitlines()[-1])})
        print(f"{case}: {found[-1]['seconds_a_step']:.2f} s per step", file=sys.stderr, flush=True)
    write_json(options.output, {"setting": setting, "cases": found, "versions": versions(), "provenance": provenance()})


# --- one case ------------------------------------------------------------------------------------


def measure(told: dict[str, Any]) -> dict[str, Any]:
    """What a case took."""
    import psutil

    import wheretune as wt
    from wheretune import planning
    from wheretune.heads.headed import headed
    from wheretune.model.opening import open_model
    from wheretune.records.base import Spec
    from wheretune.records.data import DataSpec
    from wheretune.records.model import ModelSpec
    from wheretune.records.runs import CacheSettings, TrainSettings
    from wheretune.savings.together import saving
    from wheretune.support.provenance import peak_memory
    from wheretune.tasks.base import task_of
    from wheretune.tasks.loading import load_data
    from wheretune.training.loop import train

    os.environ["HF_HUB_OFFLINE"] = "1"
    libraries, case, size = psutil.Process().memory_info().rss, told["case"], told["batch_size"]
    columns = {name: told[name] for name in ("instruction_column", "output_column") if told[name]}
    source = DataSpec(told["train"], Spec("chat", columns), max_samples=told["rows"], max_length=told["length"])
    data, opened = load_data(source), open_model(ModelSpec(told["model"], dtype="fp32"), language=True)
    task, layers = task_of(data.info), len(opened.info)
    rows = task.encode(data, opened.tokenizer, told["length"])
    full = case in (FULL, PLAIN)
    chosen = tuple(range(layers)) if full else tuple(range(layers - layers // 3, layers))
    tuner = wt.LoRA() if case == LORA else wt.WholeLayers(embeddings=full)
    plan = planning.plan(opened.info, wt.Explicit(chosen), tuner=tuner, data=data.info)
    settings = TrainSettings(learning_rate=5e-5, epochs=2, batch_size=size, seed=SEED)
    collate, seconds, cache = task.collator(opened.tokenizer), Seconds(), 0.0
    with tempfile.TemporaryDirectory() as folder, peak_memory() as memory:
        if case in (PLAIN, TRL, TRL_CACHED):
            model = opened.stack.model  # Transformers' own
            wt.apply(model, plan, SEED)
            if case != PLAIN:
                trainer = by_trl(model, rows, opened.tokenizer, size, seconds, folder)
                where = "memory" if case == TRL_CACHED else "off"
                rows, collate = trainer.train_dataset, trainer.data_collator
                with wt.cache_prefix(model, rows, collate, where=where, epochs=2) as kept:
                    trainer.train()
                cache = kept.seconds
            else:
                train(model, rows, collate, settings, None, callbacks=[seconds])
        else:
            model = headed(opened.stack, None, data, SEED)
            tuned = wt.apply(model, plan, SEED, before=opened.hashes_below(model.base_path))
            where = CacheSettings("memory" if case in (CACHED, LORA) else "off")
            with saving(tuned.stack, opened.info.hash, rows, collate, settings, Path(folder), where) as saved:
                train(model, rows, saved.collate, settings, None, callbacks=[seconds])
            cache = saved.cache.seconds
    steps = -(-len(rows) // size)
    return {
        "seconds_a_step": mean(seconds.of_steps[-steps:]),
        "cache_seconds_a_step": cache / steps,
        "peak_memory_bytes": memory["peak"],
        "libraries_bytes": libraries,
        "layers": list(chosen),
        "tokens": sum(len(row["input_ids"]) for row in rows) / len(rows),
        "learned": sum(token >= 0 for row in rows for token in row["labels"]) / len(rows),
    }


class Seconds(TrainerCallback):
    """The seconds of every step."""

    def __init__(self) -> None:
        self.of_steps: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.of_steps.append(time.perf_counter() - self.started)


def by_trl(model: Any, rows: Any, tokenizer: Any, size: int, seconds: Seconds, folder: str) -> Any:
    """An SFTTrainer for two epochs on rows that are tokens already."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        folder, num_train_epochs=2, per_device_train_batch_size=size, learning_rate=5e-5, report_to="none",
        save_strategy="no", disable_tqdm=True, logging_strategy="no", gradient_checkpointing=False, bf16=False,
        completion_only_loss=True, max_length=None, seed=SEED, train_sampling_strategy="group_by_length",
    )  # fmt: skip
    columns = {
        "input_ids": [row["input_ids"] for row in rows],
        "completion_mask": [[int(label >= 0) for label in row["labels"]] for row in rows],
    }
    data = Dataset.from_dict(columns)
    return SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer, callbacks=[seconds])


# --- showing -------------------------------------------------------------------------------------


def table(result: dict[str, Any]) -> str:
    """Seconds and memory as ratios to full fine-tuning."""
    cases, setting = result["cases"], result["setting"]
    full = [one for one in cases if one["case"] == FULL]
    step, peak = mean(one["seconds_a_step"] for one in full), mean(one["peak_memory_bytes"] for one in full)
    libraries = mean(one["libraries_bytes"] for one in cases)
    lines = [
        f"{setting['rows']} rows of {full[0]['tokens']:.0f} tokens, {full[0]['learned']:.0f} of them learned, in "
        f"batches of {setting['batch_size']}; libraries take {libraries / 1e6:.0f} MB of every peak",
        "",
        "| case | s per step | as fast as full | filling the cache, per step | peak, MB | of full's |",
        "|---|---|---|---|---|---|",
    ]
    for one in cases:
        lines.append(
            f"| {one['case']} | {one['seconds_a_step']:.2f} | {step / one['seconds_a_step']:.2f}x | "
            f"{one['cache_seconds_a_step']:.2f} s | {one['peak_memory_bytes'] / 1e6:.0f} | "
            f"{one['peak_memory_bytes'] / peak:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
