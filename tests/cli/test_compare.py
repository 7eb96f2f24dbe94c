"""`wheretune compare`: what is missing runs, what failed is no number."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.commands import SOURCE
from helpers.texts import jsonl, rows_of


def compare(run, files, tiny_folder, folder, *more):
    return run(
        "compare", "--model", tiny_folder("bert"), "--train", files["train"], "--validation", files["validation"],
        "--test", files["test"], "--methods", "full,prism,top,head-only", "--k", 2, "--seeds", "0,1", "--epochs", 1,
        "--batch-size", 8, "--learning-rates", "1e-3,1e-4", "--output", folder, *more,
    )  # fmt: skip


@pytest.mark.slow
def test_compare_runs_what_is_missing_and_no_more(run, files, tiny_folder, tmp_path):
    folder = tmp_path / "compared"
    code, out, err = compare(run, files, tiny_folder, folder, "--json")
    assert code == 0, err
    lines = {line["method"]: line for line in json.loads(out)["methods"]}
    assert list(lines) == ["full", "prism", "top", "head-only"]
    results = sorted(folder.glob("runs/*/*/*/result.json"))
    assert len(results) == 4 * 3  # two rates with the first seed, the better one with the second
    for name, line in lines.items():
        rate = line["learning_rate"]
        tried = {}
        for other in (1e-3, 1e-4):
            saved = json.loads((folder / f"runs/{name}/lr-{other:g}/seed-0/result.json").read_text())
            tried[other] = saved["metrics"]["validation"][0]["value"]
        assert tried[rate] == max(tried.values())
        runs = [json.loads((folder / f"runs/{name}/lr-{rate:g}/seed-{s}/result.json").read_text()) for s in (0, 1)]
        values = [saved["metrics"]["test"][0]["value"] for saved in runs]
        assert line["mean"] == pytest.approx(np.mean(values)) and line["std"] == pytest.approx(np.std(values, ddof=1))
        assert (line["score_seconds"] > 0) == (name == "prism")
        times = [saved["seconds"]["train"] for saved in runs]
        paid = np.mean(times) + line["score_seconds"]
        full = np.mean(
            [
                json.loads(
                    (folder / f"runs/full/lr-{lines['full']['learning_rate']:g}/seed-{s}/result.json").read_text()
                )["seconds"]["train"]
                for s in (0, 1)
            ]
        )
        assert line["speed_up"] == pytest.approx(full / paid)
    assert lines["full"]["trainable_parameters"] > lines["prism"]["trainable_parameters"]
    assert lines["prism"]["trainable_parameters"] == lines["top"]["trainable_parameters"]
    assert (folder / "table.md").read_text().count("\n| ") == 6
    with (folder / "results.csv").open() as opened:
        records = list(csv.DictReader(opened))
    assert {(r["method"], r["seed"]) for r in records} == {(m, s) for m in lines for s in "01"}

    stamps = {path: path.stat().st_mtime_ns for path in results}
    gone = results[0]
    gone.unlink()
    code, again, _ = compare(run, files, tiny_folder, folder, "--json")
    assert code == 0
    fresh = [p for p in folder.glob("runs/*/*/*/result.json") if stamps[p] != p.stat().st_mtime_ns]
    assert fresh == [gone]
    means = {line["method"]: line["mean"] for line in json.loads(again)["methods"]}
    assert means == {name: line["mean"] for name, line in lines.items()}  # the missing run came out the same

    code, _, err = compare(run, files, tiny_folder, folder, "--k", 1)
    assert code == 2 and "other settings (k: " in err

    code, out, _ = compare(run, files, tiny_folder, folder, "--seeds", "0,1,2", "--methods", "prism,lowest", "--json")
    assert code == 0 and [line["seeds"] for line in json.loads(out)["methods"]] == [3, 3]  # grown, not begun again
    assert all(stamps[path] == path.stat().st_mtime_ns for path in results if path != gone)

    jsonl(Path(files["test"]), rows_of(13, 9))
    code, _, err = compare(run, files, tiny_folder, folder)
    assert code == 2 and "other settings (data" in err


@pytest.mark.slow
def test_a_run_that_fails_keeps_its_traceback_and_is_no_zero(run, files, tiny_folder, tmp_path, monkeypatch):
    from wheretune.training import loop as room

    original = room.train

    def fail(model, rows, collate, settings, folder, clock, *more):
        if "top" in clock.description:
            raise RuntimeError("the disk is on fire")
        return original(model, rows, collate, settings, folder, clock, *more)

    monkeypatch.setattr(room, "train", fail)
    folder = tmp_path / "compared"
    code, out, err = compare(run, files, tiny_folder, folder, "--json")
    assert code == 1 and "the disk is on fire" in err
    line = json.loads(out)["methods"][2]
    assert line["method"] == "top" and line["seeds"] == 0 and "mean" not in line
    assert "RuntimeError" in next(folder.glob("runs/top/*/*/failed.txt")).read_text()
    monkeypatch.undo()
    code, out, _ = compare(run, files, tiny_folder, folder)
    assert code == 0 and "failed" not in out
    assert not list(folder.glob("runs/top/*/*/failed.txt"))


@pytest.mark.slow
def test_a_comparison_that_was_killed_runs_what_is_missing(run, tiny_folder, tmp_path):
    train = jsonl(tmp_path / "train.jsonl", rows_of(200))
    command = [
        "compare", "--model", tiny_folder("bert"), "--train", train, "--test", train, "--methods", "full,prism,top",
        "--k", "2", "--seeds", "0,1", "--epochs", "4", "--output", str(tmp_path / "compared"),
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "wheretune", *command],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": SOURCE},
    )  # fmt: skip
    while len(list(tmp_path.glob("compared/runs/*/*/*/result.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("compared/runs/*/*/*/result.json")}
    assert 2 <= len(done) < 6 and not (tmp_path / "compared" / "table.md").exists()
    code, out, err = run(*command, "--json")
    assert code == 0, err
    assert [line["seeds"] for line in json.loads(out)["methods"]] == [2, 2, 2]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items())
    assert not list(tmp_path.rglob(".*partial*")) and not list(tmp_path.rglob("checkpoint-*"))
