"""The benchmarks: ratios, table, figure and page of speed.py from made-up seconds, and commands on tiny models."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "speed.py"


@pytest.fixture(scope="module")
def speed():
    spec = importlib.util.spec_from_file_location("speed", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["speed"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["speed"]


def made_up(speed):
    """Seconds and bytes that are easy to divide."""
    common = dict(
        trained_parameters=20, total_parameters=100, limit=6.0, expected=4.0, layers=[1, 3, 5], libraries_bytes=5
    )
    common |= {"model": dict(layers=6, hidden_size=8, parameters=99)}
    common |= {"data": dict(source="random words", hash="", texts=32, tokens=12.0)}

    def one(what, switches, seconds, peak, cache=0.0):
        took = dict(seconds_a_step=seconds, peak_memory_bytes=peak, cache_seconds_a_step=cache)
        return {"what": what, "switches": switches, **common, **took}

    return [
        one(speed.FULL, "off", 5.0, 90),
        one(speed.BLOCKS, "off", 3.0, 50),
        one(speed.BLOCKS, "memory", 1.0, 40, cache=0.6),
        {"what": speed.BLOCKS, "switches": "disk", "failed": "OSError: the | disk is full"},
        {"what": "top-3", "switches": "off", "failed": "killed"},
        one("top-3", "memory", 2.0, 20),
        one(speed.SCORING, "on", 3.0, 0),
        one(speed.STOCK, "off", 18.0, 180),
        one(speed.FULL, "off", 7.0, 110),
    ]


SETTING = dict(
    geometry="minilm", train=None, tokens=12, batch_size=16, steps=2, epochs=3, settled=0.1, layers=12, hidden=768
)


def test_ratios_follow_from_the_seconds(speed):
    found = speed.ratios(made_up(speed), epochs=3, settled=0.1)
    assert found["reference"] == dict(
        seconds_a_step=6.0, peak_memory_bytes=100.0, libraries_bytes=5.0, last_over_first=1.4
    )
    assert found["others"] == dict(scoring=0.5, stock=3.0, stock_memory=1.8)
    blocks, disk, top = found["plans"]
    assert blocks == dict(
        plan=speed.BLOCKS, layers=[1, 3, 5], trained=0.2, off=2.0, on=6.0, limit=6.0, expected=4.0,
        scored=pytest.approx(3 * 6 / (3 * 1 + 0.6 + 3)), settled=pytest.approx(3 * 6 / (3 * 1 + 0.6 + 0.3)),
        stock=18.0, stock_scored=pytest.approx(3 * 18 / (3 * 1 + 0.6 + 3)), memory_off=0.5, memory_on=0.4,
    )  # fmt: skip
    assert disk["plan"] == "block-wise k=3, cache on disk" and disk["off"] == 2.0
    assert disk["on"] is disk["scored"] is disk["settled"] is disk["memory_on"] is None
    assert top["off"] is None and top["on"] == 3.0
    without_full = speed.ratios([one for one in made_up(speed) if one["what"] != speed.FULL], 3, 0.1)
    assert without_full["reference"]["seconds_a_step"] is None and without_full["plans"][0]["on"] is None


def test_the_papers_layers(speed):
    for layers, blocks, middle in ((12, (3, 7, 11), 5), (6, (1, 3, 5), 2)):
        depths = np.arange(layers, dtype=float)
        assert speed.PLANS[speed.BLOCKS](layers)[0].select(depths) == blocks
        assert speed.PLANS["one middle layer"](layers)[0].select(depths) == (middle,)
        assert speed.PLANS["upper half"](layers)[0].select(depths) == tuple(range(layers // 2, layers))


def test_it_is_shown_and_the_page_holds_what_was_measured(speed, tmp_path, capsys):
    path = tmp_path / "results" / "speed-minilm.json"
    result = speed.conclude(speed.Setting(**SETTING), made_up(speed))
    speed.write_json(path, result)
    speed.show(result, path)
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "6.00x" in printed and "the | disk is full" in printed
    assert max(map(len, printed.splitlines())) <= 120
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{speed.BEGIN}\nold\n{speed.END}\nafter\n")
    for _ in range(2):  # again, and it is the same
        speed.write_page(page, [path])
        text = page.read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
        assert text.count("| block-wise k=3 (1, 3, 5) | 20 % | 2.00x | 6.00x | 6.00x |") == 1
        assert "](results/speed-minilm.png)" in text and "](results/speed-minilm.json)" in text
    speed.show(speed.conclude(speed.Setting(**SETTING), [dict(one, failed="x") for one in made_up(speed)]), path)


def test_another_size_than_bert_base_is_not_called_so(speed):
    setting = replace(speed.Setting(**SETTING), geometry="bert-base")
    assert setting.name == "bert-base" and replace(setting, layers=4).name == "bert-4x768"


def test_the_page_has_the_markers(speed):
    text = (ROOT / "docs" / "performance.md").read_text()
    assert text.count(speed.BEGIN) == text.count(speed.END) == 1


@pytest.mark.slow
def test_the_command_on_a_tiny_model(speed, tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--geometry", "bert-base", "--layers", "4", "--hidden", "64", "--steps", "3",
         "--batch-size", "4", "--tokens", "12", "--plans", speed.BLOCKS, "--output", tmp_path],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    result = json.loads((tmp_path / "speed-bert-4x64.json").read_text())
    assert (tmp_path / "speed-bert-4x64.png").is_file() and "7/7: full fine-tuning" in done.stderr
    assert result["model"]["layers"] == 4 and result["data"]["tokens"] == 12 and result["data"]["texts"] == 12
    each = result["measurements"]
    assert [(one["what"], one["switches"]) for one in each] == speed.cases([speed.BLOCKS])
    assert not any("failed" in one for one in each)
    assert all(one["steps"] == 3 and one["seconds_a_step"] > 0 for one in each)
    full, off, memory, disk, scoring, stock, again = each
    assert full["trained_parameters"] == full["total_parameters"] and full["cache_seconds_a_step"] == 0
    assert off["layers"] == memory["layers"] == [1, 2, 3] and off["saved"]["last layer"] == "all tokens"
    assert off["saved"]["prefix cache"].startswith("none") and memory["saved"]["prefix cache"].find("in memory") > 0
    assert memory["cache_bytes"] == disk["cache_bytes"] == 4 * 64 * 12 * 12
    assert memory["saved"]["last layer"] == "the token that is read alone" and stock["padded_to"] == 128
    seconds = [one["seconds_a_step"] for one in each]
    row = result["plans"][0]
    reference = (seconds[0] + seconds[-1]) / 2
    assert row["off"] == pytest.approx(reference / seconds[1]) and row["on"] == pytest.approx(reference / seconds[2])
    whole = 3 * seconds[2] + memory["cache_seconds_a_step"] + scoring["seconds_a_step"]
    assert row["scored"] == pytest.approx(3 * reference / whole)
    assert row["stock"] == pytest.approx(seconds[5] / seconds[2]) and again["peak_memory_bytes"] > 0
    again = subprocess.run(
        [sys.executable, SCRIPT, "--draw", tmp_path / "speed-bert-4x64.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout == done.stdout


@pytest.mark.slow
def test_runs_on_ray_give_the_predictions_of_runs_one_after_another(tmp_path):
    pytest.importorskip("ray")
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "parallel.py", "--seeds", "1", "--rows", "16", "--epochs", "1",
         "--output", tmp_path / "parallel.json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "parallel.json").read_text())
    assert result["runs"] == 4 and result["same_predictions"] and "4 runs: " in done.stdout
    assert result["ratio"] == pytest.approx(result["serial_seconds"] / result["ray_seconds"])


@pytest.mark.slow
def test_memory_by_dtype_on_a_tiny_model(tiny_folder, tmp_path):
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps({"text": f"text {number}", "label": number % 2}) + "\n" for number in range(8)))
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "memory_by_dtype.py", tiny_folder(), "--train", train],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "bf16 / fp32" in done.stdout and "largest difference of a score" in done.stdout


def test_schedules_are_shown_as_ratios_to_full_fine_tuning():
    spec = importlib.util.spec_from_file_location("schedules", ROOT / "benchmarks" / "schedules.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["schedules"] = module
    spec.loader.exec_module(module)
    del sys.modules["schedules"]

    def one(seconds, peak):
        parts = dict(weights_bytes=10e6, gradients_bytes=10e6, optimizer_bytes=20e6, libraries_bytes=100e6, tokens=8.0)
        said = dict(steps=4, layers_with_state=2, layers_after_a_stop=2, numpy_was_drawn_from=False)
        return dict(seconds_a_step=seconds, peak_memory_bytes=peak * 1e6, **parts, **said)

    cases = {
        module.FULL: one(3.0, 310),
        module.LISA: one(2.0, 180),
        module.AGAIN: one(5.0, 290),
        "lift": one(None, 200),
    }
    setting = dict(model="made-up", tokens=8, batch_size=2, steps=3, few_steps=2, layers=12, hidden=768)
    lines = module.table({"setting": setting, "cases": cases})
    assert f"| {module.LISA} | 2.00 | 2.00x | 180 | 0.60 | 80 | 0.40 | 10 | 10 | 20 | 40 |" in lines
    assert "| lift |  |  | 200 | 0.67 | 100 | 0.50 | 10 | 10 | 20 | 60 |" in lines
    assert lines[-1].startswith(f"{module.LISA}: after 4 steps the optimizer holds state of 2 layers")


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "benchmarks" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu"]


def test_a_path_that_fails_says_so_and_the_rest_goes_on(gpu, tmp_path, monkeypatch, capsys):
    def broken():
        raise ValueError("the device\nis on fire")

    def lacking():
        raise gpu.NotHereError("this needs two GPUs")

    paths = {"one": lambda: {"apart": 0.5}, "two": broken, "three": lacking, "four": lambda: None}
    monkeypatch.setitem(gpu.GROUPS, "made up", lambda setting, folder: paths)
    report = tmp_path / "report.jsonl"
    gpu.run_group("made up", replace(gpu.TOY, deadline=float("inf")), report)
    found = [json.loads(line) for line in report.read_text().splitlines()]
    ends = [one for one in found if one["state"] != "begun"]
    assert [(one["path"], one["state"]) for one in ends] == [
        ("one", "ok"), ("two", "failed"), ("three", "skipped"), ("four", "ok"),
    ]  # fmt: skip
    assert ends[0]["found"] == {"apart": 0.5} and ends[1]["why"] == "ValueError: the device"
    for one in ends:
        gpu.said(one)
    assert len(capsys.readouterr().out.splitlines()) == 4
    late = tmp_path / "late.jsonl"
    gpu.run_group("made up", replace(gpu.TOY, deadline=0.0), late)
    assert {json.loads(line)["state"] for line in late.read_text().splitlines()} == {"skipped"}


@pytest.mark.slow
def test_a_group_that_dies_or_hangs_ends_alone(gpu, monkeypatch, tmp_path):
    (died,) = gpu.in_a_process("nobody", gpu.TOY, float(2**40))
    assert died["state"] == "failed" and "ended with 1" in died["why"] and "KeyError" in died["why"]
    (late,) = gpu.in_a_process("scores", gpu.TOY, 0.0)
    assert late["state"] == "skipped"
    hanging = tmp_path / "hanging.py"
    hanging.write_text("import time\ntime.sleep(100)\n")
    monkeypatch.setattr(gpu, "__file__", str(hanging))
    monkeypatch.setattr(gpu, "GRACE", 0)
    (hung,) = gpu.in_a_process("scores", gpu.TOY, gpu.time.time() + 1.5)
    assert hung["state"] == "failed" and "did not end in time" in hung["why"]


def test_what_was_timed_is_shown_as_ratios(gpu):
    common = dict(filling=0.0, parameters=110e6, rows=32, tokens=128.0)
    found = [
        {"group": "BERT", "path": path, "state": "ok", "found": {"step": step, "peak": peak, **common, **more}}
        for path, step, peak, more in (
            (gpu.FULL, 0.03, 4e9, {"alone": True}),
            ("top-3", 0.01, 1e9, {"filling": 0.002}),
            (f"{gpu.FULL}, layers recomputed", 0.08, 2e9, {}),
            (f"{gpu.FULL}, again", 0.05, 4e9, {"alone": True}),
        )
    ]
    (lines,) = gpu.tables([*found, {"group": "scores", "path": "cka", "state": "ok", "found": {}}])
    assert lines[0].endswith("full fine-tuning takes 40.0 ms a step, 4000 MB")
    assert lines[3].split() == ["top-3", "10.0", "4.00x", "2.0", "1000", "0.25"]
    assert not list(gpu.tables(found[1:3])), "without full fine-tuning there is nothing to compare with"


def test_a_gpus_paths_compare_what_they_say(gpu, tmp_path):
    """One path that is quick on a CPU; that what lies apart is an error."""
    found = gpu.chunked(gpu.Tiny(gpu.TOY, tmp_path))
    assert found["loss apart"] < 1e-5 and found["gradient apart"] < 1e-4
    with pytest.raises(RuntimeError, match="apart"):
        gpu.apart([1.0], [1.1], 0.01)
    with pytest.raises(RuntimeError):
        gpu.apart([float("nan")], [1.0], 0.01)
    with pytest.raises(RuntimeError, match="there is no scorer"):
        gpu.Tiny(gpu.TOY, tmp_path).run("score", "BERT", "--scorer", "cosine")


@pytest.mark.slow
def test_the_gpus_script_at_toy_size(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py", "--toy", "--budget", "3000",
         "--output", tmp_path / "gpu.json"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    found = {(one["group"], one["path"]): one for one in result["paths"]}
    assert not [one for one in result["paths"] if one["state"] == "failed"] and result["toy"]
    assert all("GPU" in one["why"] for one in result["paths"] if one["state"] == "skipped")
    for group in ("BERT", "Llama"):
        assert f"{group}: " in done.stdout and found[group, "full fine-tuning"]["found"]["peak"] > 0
    assert found["BERT", "top-3, cache in memory"]["found"]["filling"] > 0
    assert found["BERT", "top-3, no cache"]["found"]["filling"] == 0
