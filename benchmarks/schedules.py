"""What a schedule is worth: seconds and memory of a step, as ratios to full fine-tuning.

    python benchmarks/schedules.py [--model path/to/smollm2-135m] [--lmflow path/to/LMFlow] [--tokens 128]
    python benchmarks/schedules.py --help                                          # all options
    python benchmarks/schedules.py --show benchmarks/results/schedules.json        # the tables again

With `--model` a causal language model learns the second half of texts of random words, without it a BERT-base with
random weights learns classes of such texts. All cases train whole layers (but one, which says LoRA) in fp32 with fused
AdamW on the same batches, each in a process of its own, one after the other; leave the machine alone meanwhile. Every
text is read once, so there is no prefix cache. Full fine-tuning runs first and last, and the reference is the mean.

The seconds are the mean over the steps, the first counted as the second. A schedule that goes through all layers takes
`--steps` steps, one for each layer or more; what costs the same at every step takes fewer. SALF's stages have the
shares of the steps that they have of 5,000 texts. Its scan, one forward pass over all texts, is a line of its own. Of
RECAP one round is measured, without the passes that choose what is removed.

Memory is the peak of the whole process while it trains, and what of it is no import; beside it what weights, gradients
and optimizer take at most. "recomputed" runs layers again in the backward pass (`--gradient-checkpointing`).

LMFlow's LISA is its own callback (`lmflow/pipeline/utils/lisa_trainer.py`), read from a checkout that is given, in the
same loop on Transformers' own model, whose loss makes the logits of every token. Of both it is said how many layers the
optimizer holds state of, how many train right after a stop between two draws, and whether numpy's global generator was
drawn from.

Finished cases are kept in `--output` and do not run again with the same settings; `--redo CASE` forgets one.
"""

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import psutil
from transformers import TrainerCallback

CHILD = "--measure"
FULL, STATIC, RIVAL, SCAN = "full fine-tuning", "top third", "LMFlow's LISA", "SALF's scan, per batch"
LISA, LISA_ALONE = "lisa, 2 layers", "lisa, 2 layers, embeddings frozen"
SALF, RECOMPUTED = "salf[geometric, depth-first]", ", recomputed"
CASES = (
    FULL, STATIC, "lift", "lift*", LISA, LISA_ALONE, RIVAL, "slimfit", "recap", SALF, SALF + ", LoRA", SCAN,
    FULL + RECOMPUTED, LISA + RECOMPUTED, LISA_ALONE + RECOMPUTED,
)  # fmt: skip
AGAIN = FULL + ", again"
OF_LANGUAGE = (RIVAL, SALF, SALF + ", LoRA", SCAN)  # what asks a language model
SEED, EVERY, TEXTS, CLASSES = 0, 2, 5000, 6  # EVERY: steps between LISA's draws; TEXTS: whose stages SALF's are


@dataclass(frozen=True)
class Setting:
    """What all cases have in common."""

    model: str | None
    tokens: int
    batch_size: int
    steps: int
    few_steps: int
    layers: int
    hidden: int


def main() -> None:
    if CHILD in sys.argv:
        told = json.loads(sys.argv[-1])
        print("\n" + json.dumps(measure(Setting(**told["setting"]), told["case"], told["lmflow"])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a causal language model; by default BERT-base with random weights")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30, help="of schedules that go through all layers")
    parser.add_argument("--few-steps", type=int, default=5, help="of what costs the same at every step")
    parser.add_argument("--layers", type=int, default=12, help="of the BERT")
    parser.add_argument("--hidden", type=int, default=768, help="of the BERT")
    parser.add_argument("--lmflow", metavar="FOLDER", help="a checkout of LMFlow")
    parser.add_argument("--cases", default="", help="with semicolons between; all by default")
    parser.add_argument("--redo", metavar="CASE")
    parser.add_argument("--busy", action="store_true", help="the machine does other things: keep memory, no seconds")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/schedules.json"))
    parser.add_argument("--show", type=Path, metavar="JSON")
    options = parser.parse_args()
    if options.show is None:
        run(options)
    for one in read(options.show or options.output):
        print("\n".join(table(one)))


def read(path: Path) -> list[dict[str, Any]]:
    """The settings that were measured, with their cases."""
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return found


def run(options: argparse.Namespace) -> None:
    """Every case that is missing, in a process of its own."""
    from wheretune.support.files import write_json
    from wheretune.support.provenance import provenance, versions

    given = [name.strip() for name in options.cases.split(";") if name.strip()] or [*CASES, AGAIN]
    names = {"model": options.model and Path(options.model).name}
    setting = {name: getattr(options, name) for name in Setting.__dataclass_fields__}
    kept = [one for one in read(options.output) if one["setting"] != setting | names]
    mine = next((one["cases"] for one in read(options.output) if one["setting"] == setting | names), {})
    mine.pop(options.redo, None)
    for case in given:
        asks = options.model is None and case in OF_LANGUAGE
        if asks or case in mine or (case == RIVAL and not options.lmflow):
            continue
        told = json.dumps({"setting": setting, "case": case, "lmflow": options.lmflow})
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        command = [sys.executable, __file__, CHILD, told]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            print(f"{case} failed:\n{done.stderr[-2000:]}", file=sys.stderr, flush=True)
            continue
        mine[case] = json.loads(done.stdout.splitlines()[-1])
        print(f"{case}: {mine[case]['seconds_a_step']:.2f} s per step", file=sys.stderr, flush=True)
        if options.busy:
            mine[case]["seconds_a_step"] = None
        made = {"setting": setting | names, "cases": mine, "versions": versions(), "provenance": provenance()}
        write_json(options.output, [*kept, made])


# --- one case ------------------------------------------------------------------------------------


def measure(setting: Setting, case: str, lmflow: str | None) -> dict[str, Any]:
    """What a case took."""
    import wheretune as wt
    from wheretune import planning
    from wheretune.heads.headed import headed
    from wheretune.records.runs import CacheSettings
    from wheretune.savings.together import saving
    from wheretune.support.provenance import peak_memory
    from wheretune.tasks.base import task_of
    from wheretune.training.loop import train

    libraries = psutil.Process().memory_info().rss
    opened = opened_model(setting)
    layers = len(opened.info)
    what = case.removesuffix(", again").removesuffix(RECOMPUTED)
    chosen, tuner, schedule = choice(what, layers, setting)
    moving = what in ("lift", "lift*") or what.startswith(SALF)
    steps = setting.steps if moving else setting.few_steps
    with tempfile.TemporaryDirectory() as folder:
        data = texts(setting, opened.tokenizer, steps * setting.batch_size, Path(folder))
        task = task_of(data.info)
        rows, collate = task.encode(data, opened.tokenizer, setting.tokens), task.collator(opened.tokenizer)
        if case == SCAN:
            return scan(opened, data, steps)
        settings = wt.TrainSettings(learning_rate=5e-5, epochs=1, batch_size=setting.batch_size, seed=SEED)
        look = Look()
        if case == RIVAL:
            assert lmflow is not None
            theirs = rival(opened.stack.model, lmflow)
            with peak_memory() as memory:
                train(opened.stack.model, rows, collate, settings, None, callbacks=[theirs, look])
            resumed = after_a_stop(opened.stack.model, lmflow)
        else:
            plan = planning.plan(opened.info, wt.Explicit(chosen), tuner=tuner, schedule=schedule, data=data.info)
            head = None if setting.model else wt.LastToken()
            model = headed(opened.stack, head, data, SEED)
            tuned = wt.apply(model, plan, SEED, before=opened.hashes_below(model.base_path))
            if case.endswith(RECOMPUTED):
                tuned.recompute()
            look.stack, look.followers = tuned.stack, tuned.followers
            off = CacheSettings("off")
            with (
                saving(tuned.stack, opened.info.hash, rows, collate, settings, Path(folder), off),
                peak_memory() as memory,
            ):
                train(model, rows, collate, settings, None, followers=tuned.followers, callbacks=[look])
            resumed = look.resumed()
    seconds = [look.seconds[1], *look.seconds[1:]]
    return {
        "seconds_a_step": mean(seconds),
        "steps": len(seconds),
        "peak_memory_bytes": memory["peak"],
        "libraries_bytes": libraries,
        **look.bytes,
        "layers_with_state": look.layers_with_state(opened.stack),
        "layers_after_a_stop": resumed,
        "numpy_was_drawn_from": look.drawn,
        "tokens": sum(len(row["input_ids"]) for row in rows) / len(rows),
    }


def choice(what: str, layers: int, setting: Setting) -> tuple[tuple[int, ...], Any, Any]:
    """Layers, tuner and schedule of a case."""
    import wheretune as wt
    from wheretune import catalog
    from wheretune.schedules.salf import Salf

    every = tuple(range(layers))
    if what in (FULL, RIVAL, SCAN):
        return every, wt.WholeLayers(embeddings=True), None
    if what == STATIC:
        return every[layers - layers // 3 :], wt.WholeLayers(), None
    if what in (LISA, LISA_ALONE):
        return every, wt.WholeLayers(), wt.Lisa(2, EVERY, train_embeddings=what == LISA)
    if what.startswith(SALF):
        of_texts = accumulate(Salf("geometric", "depth-first").amounts(TEXTS, layers))
        ends = tuple(round(end * setting.steps / TEXTS) for end in of_texts)
        tuner = wt.LoRA() if what.endswith("LoRA") else wt.WholeLayers()
        return every, tuner, Salf("geometric", "depth-first", ends=ends)
    if what == "recap":  # one round, whose pruning is part of the first step
        return every, wt.WholeLayers(embeddings=True), catalog.read("schedule", "recap:rounds=1:batches=2")
    return every, wt.WholeLayers(), catalog.read("schedule", catalog.SPELLINGS.get(what, what))


def opened_model(setting: Setting) -> Any:
    """The language model in fp32, or a BERT with random weights and MiniLM's tokenizer."""
    from transformers import BertConfig, BertModel

    from wheretune.demo import model_folder
    from wheretune.model.finding import find_layers
    from wheretune.model.identity import describe, fingerprints
    from wheretune.model.opening import Opened, load_tokenizer, open_model
    from wheretune.records.model import ModelSpec

    if setting.model:
        return open_model(ModelSpec(setting.model, dtype="fp32", device="cpu"), language=True)
    config = BertConfig(
        num_hidden_layers=setting.layers, hidden_size=setting.hidden, num_attention_heads=max(1, setting.hidden // 64),
        intermediate_size=4 * setting.hidden,
    )  # fmt: skip
    stack = find_layers(BertModel(config, False))
    hashes = fingerprints(stack)
    return Opened(stack, load_tokenizer(model_folder()), describe(stack, hashes), hashes)


def texts(setting: Setting, tokenizer: Any, count: int, folder: Path) -> Any:
    """Texts of random words that are longer than `tokens`, and are cut there."""
    import wheretune as wt
    from wheretune.records.base import Spec
    from wheretune.tasks.loading import load_data

    plain = {word.lstrip("Ġ▁") for word in tokenizer.get_vocab()}
    words, drawn = sorted(word for word in plain if word.isascii() and word.isalpha()), random.Random(SEED)
    halves = [[" ".join(drawn.choices(words, k=setting.tokens)) for _ in range(2)] for _ in range(count)]
    if not setting.model:
        classes = [f"class {place % CLASSES}" for place in range(count)]
        return wt.from_texts([one for one, _ in halves], classes, max_length=setting.tokens, name="random words")
    kept = setting.tokens // 2
    lines = []
    for prompt, completion in halves:
        start = tokenizer.decode(tokenizer(prompt)["input_ids"][:kept])
        lines.append(json.dumps({"prompt": start, "completion": " " + completion}))
    (folder / "train.jsonl").write_text("\n".join(lines))
    source = wt.DataSpec(str(folder / "train.jsonl"), Spec("chat"), max_length=setting.tokens)
    return load_data(source)


def scan(opened: Any, data: Any, steps: int) -> dict[str, Any]:
    """A forward pass over the texts, all layers' states read."""
    import wheretune as wt
    from wheretune.records.scores import Reading
    from wheretune.scoring.one_pass import gather

    started = time.perf_counter()
    gather(opened, data, [wt.CosineCentrality()], Reading(batch_size=len(data) // steps))
    return {"seconds_a_step": (time.perf_counter() - started) / steps, "steps": steps}


def rival(model: Any, lmflow: str) -> Any:
    """LMFlow's callback, from its own file."""
    path = Path(lmflow) / "src/lmflow/pipeline/utils/lisa_trainer.py"
    spec = importlib.util.spec_from_file_location("lisa_trainer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DynamicLayerActivationCallback(2, EVERY, model, "model.model.layers")


def after_a_stop(model: Any, lmflow: str) -> int:
    """How many layers train where a new process goes on between two draws."""
    model.requires_grad_(True)
    rival(model, lmflow).on_step_begin(None, SimpleNamespace(global_step=EVERY + 1), None)
    return training(model.model.layers)


def training(layers: Any) -> int:
    """How many layers have a parameter that requires a gradient."""
    return sum(any(parameter.requires_grad for parameter in layer.parameters()) for layer in layers)


class Look(TrainerCallback):
    """The seconds of every step, what tensors take at most, and what the optimizer holds state of."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.bytes = {"weights_bytes": 0, "gradients_bytes": 0, "optimizer_bytes": 0}
        self.stack: Any = None
        self.followers: tuple[Any, ...] = ()
        self.state: dict[str, Any] | None = None
        self.drawn: bool | None = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.numpy, self.ended = numpy_state(), time.perf_counter()

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        own = list(model.parameters())
        self.most("weights_bytes", own)
        self.most("gradients_bytes", [p.grad for p in own if p.grad is not None])

    def on_step_end(self, *_: Any, optimizer: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self.ended)
        self.optimizer = getattr(optimizer, "optimizer", optimizer)
        self.held = {id(parameter) for parameter in self.optimizer.state}
        self.most("optimizer_bytes", [v for one in self.optimizer.state.values() for v in one.values()])
        self.state = self.followers[0].state() if self.followers else None
        self.ended = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.drawn = numpy_state() != self.numpy

    def most(self, name: str, tensors: list[Any]) -> None:
        """Keeps the most bytes so far."""
        self.bytes[name] = max(self.bytes[name], sum(tensor.nbytes for tensor in tensors))

    def layers_with_state(self, stack: Any) -> int:
        """Of how many layers the optimizer held state after the last step."""
        return sum(any(id(p) in self.held for p in layer.module.parameters()) for layer in stack.layers)

    def resumed(self) -> int | None:
        """How many layers train where a schedule goes on from the state that a checkpoint of the last step has."""
        if self.state is None:
            return None
        self.followers[0].restore(self.state)
        return training([layer.module for layer in self.stack.layers])


def numpy_state() -> str:
    """Of numpy's global generator."""
    import numpy as np

    return str(np.random.get_state())  # noqa: NPY002 - the generator that LMFlow draws from


# --- showing -------------------------------------------------------------------------------------


def table(made: dict[str, Any]) -> list[str]:
    """Seconds and memory as ratios to full fine-tuning."""
    setting, cases = made["setting"], made["cases"]
    full = [cases[name] for name in (FULL, AGAIN) if name in cases]
    if not full:
        return ["full fine-tuning has not been measured"]
    step = mean([one["seconds_a_step"] for one in full if one["seconds_a_step"] is not None])
    peak, grown = mean(map(peak_of, full)), mean(map(growth, full))
    name = setting["model"] or f"BERT, {setting['layers']} layers of width {setting['hidden']}"
    libraries = mean(one["libraries_bytes"] for one in cases.values() if "libraries_bytes" in one)
    lines = [
        "",
        f"{name}, {full[0]['tokens']:.0f} tokens a text, batches of {setting['batch_size']}; imports take "
        f"{libraries / 1e6:.0f} MB of every peak",
        "",
        "| case | s per step | as fast as full | process, MB | of full's | beyond imports, MB | of full's | weights "
        "| gradients | optimizer | rest |",
        "|---|" + "---:|" * 10,
    ]
    for case, one in cases.items():
        took = one["seconds_a_step"]
        cells = [case, *(["", ""] if took is None else [f"{took:.2f}", f"{step / took:.2f}x"])]
        if "peak_memory_bytes" in one:
            parts = [one[name] for name in ("weights_bytes", "gradients_bytes", "optimizer_bytes")]
            cells += [mega(peak_of(one)), f"{peak_of(one) / peak:.2f}", mega(growth(one)), f"{growth(one) / grown:.2f}"]
            cells += [*map(mega, parts), mega(growth(one) - sum(parts))]
        lines.append("| " + " | ".join(cells + [""] * (11 - len(cells))) + " |")
    said = {name: cases[name] for name in (LISA, RIVAL) if name in cases}
    draws = "a stop between two draws"
    for case, one in said.items():
        lines += [
            "",
            f"{case}: after {one['steps']} steps the optimizer holds state of {one['layers_with_state']} layers; after "
            f"{draws} {one['layers_after_a_stop']} layers train; numpy's global generator was "
            f"{'drawn from' if one['numpy_was_drawn_from'] else 'left alone'}.",
        ]
    return lines


def peak_of(one: dict[str, Any]) -> float:
    return float(one["peak_memory_bytes"])


def growth(one: dict[str, Any]) -> float:
    return float(one["peak_memory_bytes"] - one["libraries_bytes"])


def mega(size: float) -> str:
    return f"{size / 1e6:.0f}"


if __name__ == "__main__":
    main()
