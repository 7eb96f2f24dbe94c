"""Runs every path of wheretune on a GPU once, in under eight minutes, and says what its savings are worth there.

    make gpu-check
    python benchmarks/gpu.py [--output gpu.json] [--groups scores,trainings] [--budget 460]

No network: models are made here, with random weights. A BERT of BERT-base's geometry and a Llama of 1 billion
parameters, both in bf16, are timed: full fine-tuning against the plans of docs/performance.md, as ratios in one run,
with the peak memory of the device beside each. Everything else is done on tiny models: scores in three precisions,
every scorer, tuner and schedule, the prefix cache, packing, quantised weights, checkpoints, a language model's loss
and what it writes, two processes.

Each group of paths runs in a process of its own, so that a broken device context, a crash or a process that hangs ends
its group alone. A path that fails says so in one line, and the rest goes on; the exit code is 1 then, else 0. A path
that this machine lacks something for is skipped, and so is what no time is left for.

Without a GPU (or with `--toy`) the same script runs on the CPU, all models tiny: the numbers say nothing then.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
Found = dict[str, Any]
Paths = dict[str, Callable[[], Found | None]]
BUDGET, GRACE = 460, 20  # seconds for everything; and what a group has to end once its time is over
LIMITS = {"BERT": 120, "Llama": 140}  # seconds for a group
LIMIT = 90  # for the others
SEED, WARM_UP, WORDS, CLASSES = 0, 3, 200, ("good", "bad")
FULL = "full fine-tuning"
BEGUN, ENDED, FAILED, SKIPPED = "begun", "ok", "failed", "skipped"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {{ eos_token }} {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


class NotHereError(Exception):
    """This machine lacks something that a path needs."""


@dataclass(frozen=True)
class Setting:
    """What a process is told: sizes, device and time."""

    device: str
    layers: int
    hidden: int
    tokens: int
    batch_size: int
    steps: int
    deadline: float = 0.0  # seconds since the epoch

    @property
    def toy(self) -> bool:
        return self.device == "cpu"


BIG = {"BERT": Setting("cuda", 12, 768, 128, 32, 40), "Llama": Setting("cuda", 16, 2048, 512, 8, 12)}
TOY = Setting("cpu", 4, 32, 12, 4, 3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="a JSON file for everything that was found")
    parser.add_argument("--groups", default=",".join(GROUPS), help="with commas (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for everything (default: %(default)s)")
    parser.add_argument("--toy", action="store_true", help="tiny models on the CPU, as where there is no GPU")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        name, setting, report = options.child
        run_group(name, Setting(**json.loads(setting)), Path(report))
        return 0
    if unknown := set(options.groups.split(",")) - set(GROUPS):
        parser.error(f"there are no groups {', '.join(sorted(unknown))}; known are {', '.join(GROUPS)}")
    toy, started = options.toy or not gpu(), time.time()
    found: list[Found] = []
    for name in options.groups.split(","):
        print(f"\n{name}", flush=True)
        found += in_a_process(name, TOY if toy else BIG.get(name, BIG["BERT"]), started + options.budget)
    for lines in tables(found):
        print("\n" + "\n".join(lines))
    count = {state: sum(one["state"] == state for one in found) for state in (ENDED, FAILED, SKIPPED)}
    seconds = time.time() - started
    print(
        f"\n{', '.join(f'{number} {state}' for state, number in count.items())}; {seconds:.0f} s on {device_name(toy)}"
    )
    if options.output is not None:
        from wheretune.support.files import write_json
        from wheretune.support.provenance import provenance, versions

        about = {"device": device_name(toy), "toy": toy, "seconds": seconds}
        write_json(options.output, {**about, "paths": found, "versions": versions(), "provenance": provenance()})
    return 1 if count[FAILED] else 0


def gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def device_name(toy: bool) -> str:
    import torch

    return "a CPU" if toy else torch.cuda.get_device_name()


# --- running -------------------------------------------------------------------------------------


def in_a_process(name: str, setting: Setting, deadline: float) -> list[Found]:
    """What became of a group's paths, each printed when it has ended."""
    end = deadline if setting.toy else min(deadline, time.time() + LIMITS.get(name, LIMIT))
    if end - time.time() < 1:
        return [said({"group": name, "path": "all of it", "state": SKIPPED, "why": "no time is left"})]
    with tempfile.TemporaryDirectory() as folder:
        report, log = Path(folder) / "report.jsonl", Path(folder) / "log"
        report.touch()
        told = json.dumps(asdict(setting) | {"deadline": end})
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, __file__, "--child", name, told, report], stdout=file, stderr=subprocess.STDOUT
            )
            found, read = [], 0
            while True:
                over = process.poll() is not None
                lines = report.read_text().split("\n")[:-1]
                found += [said(one) for one in map(json.loads, lines[read:]) if one["state"] != BEGUN]
                read = len(lines)
                if over or time.time() > end + GRACE:
                    break
                time.sleep(0.2)
            if process.poll() is None:
                process.kill()
                process.wait()
        last = json.loads(lines[-1]) if lines else {"group": name, "path": "its start", "state": BEGUN}
        if last["state"] == BEGUN:  # it was killed, or died
            ends = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            why = "it did not end in time" if not over else f"the process ended with {process.returncode}"
            found.append(said(last | {"state": FAILED, "why": f"{why}: {ends[-1] if ends else 'it said nothing'}"}))
    return found


def said(one: Found) -> Found:
    """Prints what became of a path in one line, and hands it on."""
    seconds = f"{one['seconds']:.1f} s" if "seconds" in one else ""
    why = " ".join(str(one.get("why", "")).split())[:300]
    numbers = ", ".join(f"{k} {v:.2g}" for k, v in one.get("found", {}).items() if isinstance(v, float))
    print(f"  {one['state']:8}{one['path']:46}{seconds:>8}  {why or numbers}".rstrip(), flush=True)
    return one


def run_group(name: str, setting: Setting, report: Path) -> None:
    """Runs the paths of a group in this process, and writes a line to `report` when each begins and ends."""

    def write(**what: Any) -> None:
        with report.open("a") as file:
            file.write(json.dumps({"group": name, **what}) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        for path, run in GROUPS[name](setting, Path(folder)).items():
            if time.time() > setting.deadline:
                write(path=path, state=SKIPPED, why="no time is left")
                continue
            write(path=path, state=BEGUN)
            started = time.time()
            try:
                found = run() or {}
                write(path=path, state=ENDED, seconds=time.time() - started, found=found)
            except NotHereError as error:
                write(path=path, state=SKIPPED, why=str(error))
            except Exception as error:
                why = f"{type(error).__name__}: {error}".splitlines()[0]
                write(path=path, state=FAILED, seconds=time.time() - started, why=why)


def tables(found: Sequence[Found]) -> Iterator[list[str]]:
    """What was timed, as ratios to full fine-tuning in the same process."""
    for group in dict.fromkeys(one["group"] for one in found):
        timed = {o["path"]: o["found"] for o in found if o["group"] == group and "step" in o.get("found", {})}
        full = [one for path, one in timed.items() if path.startswith(FULL) and "alone" in one]
        if not full:
            continue
        step, peak = mean(one["step"] for one in full), max(one["peak"] for one in full)
        about = full[0]
        yield [
            f"{group}: {about['parameters'] / 1e6:.0f} M parameters, batches of {about['rows']} texts of "
            f"{about['tokens']:.0f} tokens; full fine-tuning takes {1000 * step:.1f} ms a step, {peak / 1e6:.0f} MB",
            f"  {'':46}{'ms a step':>10}{'as fast':>9}{'filling, ms a step':>20}{'peak, MB':>10}{'of full':>9}",
            *(
                f"  {path:46}{1000 * one['step']:10.1f}{step / one['step']:8.2f}x{1000 * one['filling']:20.1f}"
                f"{one['peak'] / 1e6:10.0f}{one['peak'] / peak:9.2f}"
                for path, one in timed.items()
            ),
        ]


# --- models and texts, made on the spot ----------------------------------------------------------


def tokenizer(words: int = WORDS, encoder: bool = False) -> Any:
    """Of words w0, w1 ... and the classes, one token each."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = ["<pad>", "<unk>", "<cls>", "<end>", *CLASSES, "user", "assistant", ":"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary(words, known))}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<cls>", "eos_token": "<end>"}
    inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if encoder else [])
    found = PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=inputs, model_max_length=512, **names)
    found.chat_template = TEMPLATE
    return found


def vocabulary(words: int, known: Sequence[str] = ()) -> list[str]:
    return [*known, *(f"w{number}" for number in range(words - len(known)))]


def texts(count: int, tokens: int, words: int = WORDS) -> list[str]:
    """Of random words."""
    drawn, known = random.Random(SEED), vocabulary(words - 20)
    return [" ".join(drawn.choices(known, k=tokens)) for _ in range(count)]


def config(kind: str, layers: int, hidden: int, words: int = WORDS) -> Any:
    """Of a BERT without dropout in tiny ones, so that two ways can be compared, or a Llama."""
    from transformers import BertConfig, LlamaConfig

    common = dict(
        vocab_size=words, num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=max(1, hidden // 64)
    )
    if kind == "BERT":
        dry = {} if words > WORDS else dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        return BertConfig(intermediate_size=4 * hidden, max_position_embeddings=512, **common, **dry)
    return LlamaConfig(
        intermediate_size=4 * hidden, num_key_value_heads=max(1, hidden // 256), max_position_embeddings=2048,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=2, eos_token_id=3, **common,
    )  # fmt: skip


class Tiny:
    """Folders of tiny models and files of texts for the command line."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.device, self.folder, self.toy = setting.device, folder, setting.toy
        self._made: dict[str, Path] = {}

    def model(self, kind: str) -> Path:
        if kind not in self._made:
            import torch
            from transformers import BertModel, LlamaForCausalLM

            torch.manual_seed(SEED)
            made = BertModel(config(kind, 4, 64)) if kind == "BERT" else LlamaForCausalLM(config(kind, 4, 64))
            self._made[kind] = self.folder / kind
            made.save_pretrained(self._made[kind])
            tokenizer(encoder=kind == "BERT").save_pretrained(self._made[kind])
        return self._made[kind]

    def data(self, kind: str = "labels") -> Path:
        path = self.folder / f"{kind}.jsonl"
        if not path.is_file():
            drawn, rows = random.Random(SEED), []
            for number, text in enumerate(texts(24, 20)):
                text, label = " ".join(text.split()[: drawn.randint(4, 20)]), CLASSES[number % 2]
                said = [{"role": "user", "content": text}, {"role": "assistant", "content": f"{label} w{number}"}]
                rows.append({"text": f"{text} {label}", "label": label} if kind == "labels" else {"messages": said})
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def run(self, command: str, kind: str, *more: Any, data: str = "labels", device: str | None = None) -> Path:
        """A command of wheretune on a model and data of ours; returns its output."""
        output = self.folder / f"{command}-{len(list(self.folder.iterdir()))}"
        self.command(
            command, "--model", self.model(kind), "--train", self.data(data), "--output", output,
            "--device", device or self.device, *(("--task", "chat") if data == "chats" else ()), *more,
        )  # fmt: skip
        if {"memory", "disk"} & set(more):
            said = json.loads((output / "result.json").read_text())["saved"]["prefix cache"]
            if said.startswith("none"):
                raise RuntimeError(f"there was no prefix cache: {said}")
        return output

    def tune(self, kind: str, *more: Any, data: str = "labels", device: str | None = None) -> Path:
        given = (
            "--learning-rate", 1e-3, "--batch-size", 5, "--epochs", 2, "--select", "explicit", "--layers", "2,3",
            *(("--head", "last-token:dropout=0") if data == "labels" else ()), *more,
        )  # fmt: skip
        return self.run("tune", kind, *given, data=data, device=device)

    @staticmethod
    def command(*words: Any) -> str:
        """Runs a command in this process; returns what it prints, and raises what it says of an error."""
        from wheretune.cli.app import main

        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main(list(map(str, words)))
        except SystemExit as end:
            if end.code:
                lines = err.getvalue().strip().splitlines()
                raise RuntimeError(lines[-1] if lines else f"it ended with {end.code}") from end
        return out.getvalue()


# --- what is timed -------------------------------------------------------------------------------


def bert(setting: Setting, folder: Path) -> Paths:
    """The plans of docs/performance.md on a BERT that learns classes."""
    from speed import PLANS

    def make() -> tuple[Any, Any, Any]:
        import wheretune as wt

        words = WORDS if setting.toy else 30_000
        count = setting.batch_size * setting.steps
        labels = [f"class {i % 6}" for i in range(count)]
        data = wt.from_texts(
            texts(count, setting.tokens, words), labels, max_length=setting.tokens, name="random words"
        )
        return made_on(setting, "BERT", words), tokenizer(words, encoder=True), data

    timed = Timed(setting, folder, make)
    upper, lora = "upper half", "LoRA on the upper half"
    paths: Paths = {FULL: partial(timed.run, None, "off")}
    for plan in PLANS:
        paths[f"{plan}, cache in memory"] = partial(timed.run, plan, "memory")
    for plan in ("top-3", upper, lora):
        paths[f"{plan}, no cache"] = partial(timed.run, plan, "off")
    for plan in ("block-wise k=3", "top-3"):
        paths[f"{plan}, cache on disk"] = partial(timed.run, plan, "disk")
    paths["top-3, cache in memory as bf16"] = partial(timed.run, "top-3", "memory", cache_dtype="bf16")
    paths[f"{FULL}, layers recomputed"] = partial(timed.run, None, "off", recomputed=True)
    paths[f"{FULL}, again"] = partial(timed.run, None, "off")
    return paths | {f"{upper}, cache in memory, compiled": partial(timed.run, upper, "memory", compiled=True)}


def llama(setting: Setting, folder: Path) -> Paths:
    """The same on a Llama that learns every token of random texts."""

    def make() -> tuple[Any, Any, Any]:
        from wheretune.records.base import Spec
        from wheretune.records.data import DataSpec
        from wheretune.tasks.loading import load_data

        words = WORDS if setting.toy else 32_000
        path = folder / "texts.jsonl"
        lines = texts(setting.batch_size * setting.steps, setting.tokens - 1, words)  # an end follows each
        path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
        data = load_data(DataSpec(str(path), Spec("text"), max_length=setting.tokens))
        return made_on(setting, "Llama", words), tokenizer(words), data

    timed = Timed(setting, folder, make)
    paths: Paths = {FULL: partial(timed.run, None, "off")}
    for plan in ("top-3", "upper half", "LoRA on the upper half"):
        for where in ("off", "memory", "disk")[: 3 if plan == "upper half" else 2]:
            paths[f"{plan}, {CACHES[where]}"] = partial(timed.run, plan, where)
    paths["LoRA on all layers"] = partial(timed.run, "LoRA on all layers", "off")
    paths["upper half, no cache, layers recomputed"] = partial(timed.run, "upper half", "off", recomputed=True)
    paths[f"{FULL}, again"] = partial(timed.run, None, "off")
    return paths | {"upper half, cache in memory, compiled": partial(timed.run, "upper half", "memory", compiled=True)}


CACHES = {"off": "no cache", "memory": "cache in memory", "disk": "cache on disk"}


def made_on(setting: Setting, kind: str, words: int) -> Any:
    """A model in bf16, its weights drawn on the device itself."""
    import torch
    from transformers import BertModel, LlamaForCausalLM

    torch.manual_seed(SEED)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(setting.device):
            its = config(kind, setting.layers, setting.hidden, words)
            return BertModel(its, False) if kind == "BERT" else LlamaForCausalLM(its)
    finally:
        torch.set_default_dtype(before)


class Timed:
    """Trains one model by several plans, each from where the last has left it: seconds do not hang on weights."""

    def __init__(self, setting: Setting, folder: Path, make: Callable[[], tuple[Any, Any, Any]]) -> None:
        self._setting, self._folder, self._make = setting, folder, make
        self._opened: tuple[Any, ...] | None = None

    def _open(self) -> tuple[Any, ...]:
        if self._opened is None:
            from wheretune.model.finding import find_layers
            from wheretune.model.identity import describe, fingerprints
            from wheretune.tasks.base import task_of

            model, tokens, data = self._make()
            stack = find_layers(model)
            hashes, task = fingerprints(stack), task_of(data.info)
            rows = task.encode(data, tokens, self._setting.tokens)
            self._opened = stack, describe(stack, hashes), hashes, data, rows, task.collator(tokens)
        return self._opened

    def run(
        self,
        plan: str | None,
        where: Any,
        recomputed: bool = False,
        compiled: bool = False,
        cache_dtype: Any = "fp32",
        **more: Any,
    ) -> Found:
        """Seconds of a step and the peak of a plan; None is full fine-tuning."""
        import numpy as np
        import torch
        from speed import PLANS

        import wheretune as wt
        from wheretune import planning
        from wheretune.heads.headed import headed
        from wheretune.records.runs import CacheSettings, TrainSettings
        from wheretune.savings.together import saving
        from wheretune.support.provenance import peak_memory
        from wheretune.training.loop import train

        stack, info, hashes, data, rows, collate = self._open()
        setting, count = self._setting, len(info)
        whole = wt.Explicit(tuple(range(count))), wt.WholeLayers(embeddings=True)
        selector, tuner = whole if plan is None else PLANS[plan](count)
        if isinstance(selector, wt.BlockHighest):  # by depth, as in speed.py
            selector = wt.Explicit(selector.select(np.arange(count, dtype=float)))
        made = planning.plan(info, selector, tuner=tuner, data=data.info)
        settings = TrainSettings(
            learning_rate=1e-6, epochs=2, batch_size=setting.batch_size, seed=SEED, cache_dtype=cache_dtype, **more
        )
        if not setting.toy:  # what the last one left must not count
            gc.collect()
            torch.cuda.empty_cache()
        seconds = seconds_of_steps(setting)
        with tempfile.TemporaryDirectory(dir=self._folder) as name, peak_memory() as memory:
            model = headed(stack, None, data, SEED)
            model.to(setting.device)
            tuned = wt.apply(
                model, made, SEED, before={f"{model.base_path}.{n}": h for n, h in hashes.items()}, masters=True
            )
            try:
                if recomputed:
                    tuned.recompute()
                with saving(tuned.stack, info.hash, rows, collate, settings, Path(name), CacheSettings(where)) as saved:
                    if where != "off" and made.layers[0] and saved.cache.where != where:
                        raise RuntimeError(f"there is no cache: {saved.cache.reason}")
                    if compiled:  # on a CPU inductor takes minutes
                        tuned.compile("eager" if setting.toy else "inductor", whole=not saved.one_token)
                    train(model, rows, saved.collate, settings, None, callbacks=[seconds])
                trained = tuned.trainable_parameters
            finally:
                tuned.undo()
                for parameter in model.parameters():
                    parameter.grad = None
        steps = -(-len(rows) // setting.batch_size)
        return {
            "step": seconds.mean,
            "peak": memory["peak"],
            "filling": saved.cache.seconds / steps,
            "parameters": info.parameters,
            "trained": trained,
            "layers": list(made.layers),
            "rows": setting.batch_size,
            **tuned.compiled(),
            "tokens": mean(len(row["input_ids"]) for row in rows),
            **({"alone": True} if plan is None and not recomputed and not more else {}),
        }


def seconds_of_steps(setting: Setting) -> Any:
    """A callback that times all steps but the first few, with what the device has still to do."""
    import torch
    from transformers import TrainerCallback

    class Seconds(TrainerCallback):
        def now(self) -> float:
            if not setting.toy:
                torch.cuda.synchronize()
            return time.perf_counter()

        def on_step_begin(self, arguments: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step == WARM_UP:
                self.started = self.now()

        def on_step_end(self, arguments: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step == state.max_steps:
                self.mean = (self.now() - self.started) / (state.max_steps - WARM_UP)

    return Seconds()


# --- what is tried -------------------------------------------------------------------------------


def scores(setting: Setting, folder: Path) -> Paths:
    """Scores in three precisions, by every scorer."""
    from wheretune import catalog

    tiny = Tiny(setting, folder)

    def read(path: Path) -> list[float]:
        return [layer["score"] for layer in json.loads(path.read_text())["layers"]]

    def precision(kind: str, dtype: str, most: float) -> Found:
        if setting.toy and dtype == "fp16":
            raise NotHereError("fp16 is for GPUs")
        own = read(tiny.run("score", kind, "--dtype", dtype))
        plain = read(tiny.run("score", kind, "--dtype", "fp32", device="cpu"))
        return {"apart from the CPU in fp32": apart(own, plain, most)}

    def scorer(name: str) -> None:
        options = {"layer-probe": ":samples=12:epochs=1:batch_size=8:learning_rate=1e-3"}
        words = ("--verbalizer", "good=good,bad=bad") if name == "semantic-deviation" else ()
        found = read(tiny.run("score", "Llama", "--scorer", name + options.get(name, ""), *words))
        if len(found) != 4:
            raise RuntimeError(f"{len(found)} layers have a score, not 4")

    paths: Paths = {}
    for kind in ("BERT", "Llama"):
        for dtype, most in (("fp32", 1e-4), ("bf16", 2e-2), ("fp16", 5e-3)):
            paths[f"{kind} in {dtype}"] = partial(precision, kind, dtype, most)
    paths |= {name: partial(scorer, name) for name in catalog.names("scorer")}
    settled = partial(tiny.run, "score", "BERT", "--until-settled", "--select", "highest", "--k", 1)
    return paths | {"until settled": lambda: settled() and None}


def apart(one: Sequence[float], other: Sequence[float], most: float) -> float:
    """The largest difference between numbers.

    Raises:
        RuntimeError: It is larger than it may be.
    """
    found = max(abs(a - b) for a, b in zip(one, other, strict=True))
    if not found <= most:
        raise RuntimeError(f"{found:.2g} apart, and {most:.2g} is allowed")
    return found


def same(one: Path, other: Path, most: float = 2e-4) -> Found:
    """How far what two runs tuned lies apart at most.

    Raises:
        RuntimeError: Too far, or they tuned different things.
    """
    from safetensors.torch import load_file

    mine, theirs = (load_file(path / "delta.safetensors") for path in (one, other))
    if not mine or mine.keys() != theirs.keys():
        raise RuntimeError("the two runs tuned different tensors")
    return {"apart": max(apart([float((mine[n] - theirs[n]).abs().max())], [0.0], most) for n in mine)}


def trainings(setting: Setting, folder: Path) -> Paths:
    """Every tuner, every saving, precisions, quantised weights, a stop."""
    from wheretune import catalog

    tiny = Tiny(setting, folder)
    made: dict[str, Path] = {}

    def plain() -> Path:
        """Padded, in fp32, without a cache: what the others must give again."""
        if "plain" not in made:
            made["plain"] = tiny.tune("Llama", "--cache-prefix", "off")
        return made["plain"]

    def tuner(name: str) -> None:
        layers = ("--select", "top", "--k", 2, "--layers", None) if name == "head-only" else ()
        tiny.run(
            "tune", "BERT", "--learning-rate", 1e-3, "--batch-size", 8, "--max-steps", 3, "--tuner", name,
            *(() if layers else ("--select", "explicit", "--layers", "2,3")),
        )  # fmt: skip

    def again(*more: Any, most: float = 2e-4) -> Found:
        return same(plain(), tiny.tune("Llama", *more), most)

    def half(dtype: str) -> Found:
        if setting.toy and dtype == "fp16":
            raise NotHereError("fp16 is for GPUs")
        return again("--dtype", dtype, "--cache-prefix", "memory", most=5e-2)

    def quantized(bits: str) -> None:
        if setting.toy or importlib.util.find_spec("bitsandbytes") is None:
            raise NotHereError("this needs a GPU and bitsandbytes")
        tiny.tune("Llama", "--quantize", bits, "--tuner", "lora")

    def compiled() -> Found:
        if setting.toy:
            raise NotHereError("this wants a GPU: inductor takes minutes on a CPU")
        return again("--cache-prefix", "memory", "--compile", most=2e-3)

    def beside_the_cpu() -> Found:
        return same(plain(), tiny.tune("Llama", "--cache-prefix", "off", device="cpu"), most=2e-3)

    first = "cpu" if setting.toy else "cuda:0"
    return {
        **{f"tuner {name}": partial(tuner, name) for name in catalog.names("tuner")},
        "the same on the CPU": beside_the_cpu,
        "cache in memory": partial(again, "--cache-prefix", "memory"),
        "cache on disk": partial(again, "--cache-prefix", "disk"),
        "packed": partial(again, "--cache-prefix", "off", "--pack"),
        "packed, cache in memory": partial(again, "--cache-prefix", "memory", "--pack"),
        "layers recomputed": partial(again, "--cache-prefix", "off", "--gradient-checkpointing"),
        "layers compiled": compiled,
        f"--device {first}": lambda: same(plain(), tiny.tune("Llama", "--cache-prefix", "off", device=first)),
        "bf16 with fp32 masters": partial(half, "bf16"),
        "fp16 with fp32 masters": partial(half, "fp16"),
        "head concat": lambda: tiny.tune("BERT", "--head", "concat") and None,
        "quantised to 4 bits": partial(quantized, "4bit"),
        "quantised to 8 bits": partial(quantized, "8bit"),
        "stopped and resumed": partial(resumed, tiny),
    }


def resumed(tiny: Tiny) -> Found:
    """A training that is stopped after its third step, and goes on, ends as one that is not."""
    import torch
    from transformers import TrainerCallback

    import wheretune as wt
    from wheretune import planning
    from wheretune.heads.headed import headed
    from wheretune.model.opening import open_model
    from wheretune.records.model import ModelSpec
    from wheretune.records.runs import TrainSettings, WatchSettings
    from wheretune.tasks.base import task_of
    from wheretune.training.loop import train

    class Stop(TrainerCallback):
        def on_step_end(self, arguments: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    settings = TrainSettings(learning_rate=1e-3, epochs=2, batch_size=8, seed=SEED)
    watch = WatchSettings(save_strategy="steps", save_steps=2)

    def ended(folder: Path, stop: bool) -> dict[str, Any]:
        opened = open_model(ModelSpec(str(tiny.model("Llama")), device=tiny.device))
        data = wt.load_data(wt.DataSpec(str(tiny.data())))
        plan = planning.plan(opened.info, wt.Top(2), data=data.info)
        task = task_of(data.info)
        rows, collate = task.encode(data, opened.tokenizer, 64), task.collator(opened.tokenizer)
        model = headed(opened.stack, None, data, SEED)
        model.to(tiny.device)
        tuned = wt.apply(model, plan, SEED)
        with contextlib.suppress(KeyboardInterrupt):
            train(model, rows, collate, settings, folder, callbacks=[Stop()] if stop else [], watch=watch)
        return {name: value.detach().cpu().clone() for name, value in tuned.trainable.items()}

    ended(tiny.folder / "stopped", True)
    if not (tiny.folder / "stopped" / "checkpoint-2").is_dir():
        raise RuntimeError("the stopped training left no checkpoint")
    one, other = ended(tiny.folder / "stopped", False), ended(tiny.folder / "whole", False)
    return {"apart": apart([float(torch.dist(one[n], other[n])) for n in one], [0.0] * len(one), 1e-4)}


def schedules(setting: Setting, folder: Path) -> Paths:
    """Every schedule."""
    from wheretune import catalog

    tiny = Tiny(setting, folder)
    options = {"lisa": ":layers=1:every=2", "slimfit": ":freeze=0.5", "recap": ":rounds=2"}
    more: Mapping[str, Sequence[Any]] = {
        "salf": ("--epochs", 1, "--verbalizer", "good=good,bad=bad", "--task", "next-token", "--head", "lm"),
        "recap": ("--epochs", 4),
    }

    def one(name: str) -> None:
        head = () if name == "salf" else ("--head", "last-token:dropout=0")
        given = {"--epochs": 2, **dict(zip(*[iter(more.get(name, ()))] * 2, strict=True))}
        tiny.run(
            "tune", "Llama", "--learning-rate", 1e-3, "--batch-size", 4, "--select", "explicit",
            "--layers", "1,2,3" if name in ("salf", "lift", "lift-star") else "0,1,2,3",
            "--schedule", name + options.get(name, ""), *head, *(word for pair in given.items() for word in pair),
        )  # fmt: skip

    return {name: partial(one, name) for name in catalog.names("schedule")}


def language(setting: Setting, folder: Path) -> Paths:
    """A language model: its loss in chunks beside Transformers' own, chats learned, answers written."""
    tiny = Tiny(setting, folder)
    made: dict[str, Path] = {}

    def tuned() -> Path:
        if "chat" not in made:
            made["chat"] = tiny.tune("Llama", "--tuner", "lora", data="chats")
        return made["chat"]

    def written() -> None:
        output = folder / "answers.jsonl"
        tiny.command(
            "predict", tuned(), "--data", tiny.data("chats"), "--output", output, "--device", tiny.device,
            "--max-new-tokens", 5,
        )  # fmt: skip
        if len(output.read_text().splitlines()) != 24:
            raise RuntimeError("not every conversation has an answer")

    def again(*more: Any) -> Found:
        if "plain" not in made:
            made["plain"] = tiny.tune("Llama", "--cache-prefix", "off", "--all-tokens", data="chats")
        return same(made["plain"], tiny.tune("Llama", *more, data="chats"))

    return {
        "loss in chunks beside Transformers'": partial(chunked, tiny),
        "chat with LoRA": lambda: tuned() and None,
        "chat, learned tokens alone": partial(again, "--cache-prefix", "off"),
        "chat, cache in memory": partial(again, "--cache-prefix", "memory"),
        "answers": written,
    }


def chunked(tiny: Tiny) -> Found:
    """The loss of our head and one gradient, beside those of the model that has all logits."""
    import torch
    from transformers import AutoModelForCausalLM

    import wheretune as wt
    from wheretune.model.finding import find_layers
    from wheretune.tasks.base import task_of

    data = wt.load_data(wt.DataSpec(str(tiny.data("chats")), wt.Spec("chat")))
    task, tokens = task_of(data.info), tokenizer()
    batch = {n: v.to(tiny.device) for n, v in task.collator(tokens)(task.encode(data, tokens, 64)[:6]).items()}
    model = AutoModelForCausalLM.from_pretrained(tiny.model("Llama")).to(tiny.device)
    found = []
    for one in (model, wt.LM().on(find_layers(model), 1, task, SEED)):
        model.zero_grad()
        loss = one.train()(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss
        loss.backward()
        found.append((float(loss.detach()), model.model.layers[0].mlp.up_proj.weight.grad.clone()))
    (mine, own), (theirs, other) = found
    return {"loss apart": apart([mine], [theirs], 1e-4), "gradient apart": float(torch.dist(own, other))}


def several(setting: Setting, folder: Path) -> Paths:
    """Two processes beside one."""
    tiny = Tiny(setting, folder)

    def two() -> Found:
        import torch

        if torch.cuda.device_count() < 2:
            raise NotHereError("this needs two GPUs")
        given = (
            "--model", tiny.model("Llama"), "--train", tiny.data(), "--learning-rate", 1e-3, "--batch-size", 6,
            "--select", "explicit", "--layers", "2,3", "--head", "last-token:dropout=0", "--cache-prefix", "off",
        )  # fmt: skip
        tiny.command("tune", *given, "--output", folder / "one")
        words = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            2,
            "-m",
            "wheretune",
        ]
        done = subprocess.run(
            [*map(str, [*words, "tune", *given, "--output", folder / "two"])],
            capture_output=True,
            text=True,
            timeout=80,
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")] or [done.stderr[-200:]]
            raise RuntimeError(lines[0])
        return same(folder / "one", folder / "two", 1e-4)

    return {"two processes with nccl": two}


GROUPS: dict[str, Callable[[Setting, Path], Paths]] = {
    "scores": scores,
    "trainings": trainings,
    "schedules": schedules,
    "language": language,
    "several processes": several,
    "BERT": bert,
    "Llama": llama,
}

if __name__ == "__main__":
    sys.exit(main())
