"""The flags that everybody uses, under our names and under those of Transformers' and TRL's scripts."""

import json
import re

import pytest
import torch
import typer.main
import yaml
from safetensors.torch import load_file

from helpers.commands import one_line
from wheretune.cli.aliases import KNOWN, translated
from wheretune.cli.app import application, joined
from wheretune.records.base import to_json
from wheretune.records.runs import TrainSettings, WatchSettings

TUNE = typer.main.get_command(application()).commands["tune"]


def script(files, model, output):
    """A command as the example scripts of Transformers print it."""
    return [
        "--model_name_or_path", model, "--train_file", files["train"], "--validation_file", files["validation"],
        "--do_train", "--do_eval", "True", "--max_seq_length", "32", "--per_device_train_batch_size", "8",
        "--per_device_eval_batch_size", "4", "--learning_rate", "2e-3", "--num_train_epochs", "2.0", "--seed", "3",
        "--gradient_accumulation_steps", "2", "--warmup_steps", "2", "--lr_scheduler_type", "cosine",
        "--eval_strategy", "epoch", "--save_strategy", "epoch", "--load_best_model_at_end", "--logging_steps", "2",
        "--report_to", "none", "--gradient_checkpointing", "--bf16", "False", "--adam_beta2", "0.98",
        "--output_dir", output, "--overwrite_output_dir",
    ]  # fmt: skip


def test_a_script_s_command_runs_as_it_stands(run, files, tiny_folder, tmp_path):
    code, _, err = run("tune", *script(files, tiny_folder("bert"), tmp_path / "run"))
    assert code == 0, err
    assert "step 2: loss" in err and "eval accuracy" in err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    settings = result["spec"]["settings"]
    assert result["steps"] == 2 * 3  # 40 rows in batches of 8 are 5, two of which make a step: 3 in an epoch
    asked = {"epochs": 2, "batch_size": 8, "gradient_accumulation_steps": 2, "warmup_steps": 2, "seed": 3,
             "lr_scheduler_type": "cosine", "eval_strategy": "epoch", "trainer_args": {"adam_beta2": 0.98}}  # fmt: skip
    assert {name: settings[name] for name in asked} == asked
    assert result["spec"]["train"]["max_length"] == 32 and result["spec"]["model"]["dtype"] == "auto"
    assert "the best on the validation data" in result["saved"]["weights"]
    assert not any((tmp_path / "run").glob("best*")) and not any((tmp_path / "run").glob("checkpoint*"))
    code, _, err = run(
        "run", tmp_path / "run" / "result.json", "--output_dir", tmp_path / "again", "--logging_steps", 3
    )
    assert code == 0 and "step 3: loss" in err
    deltas = [(tmp_path / name / "delta.safetensors").read_bytes() for name in ("run", "again")]
    assert (
        deltas[0] != b""
        and json.loads((tmp_path / "again" / "result.json").read_text())["spec"]["settings"] == settings
    )


def test_numbers_as_trainer_takes_them(run, files, tiny_folder, tmp_path):
    command = ["tune", "--model", tiny_folder("bert"), "--train", files["train"], "--layers", 1, "--epochs", 1]
    code, _, err = run(
        *command, "--output", tmp_path / "run", "--warmup_steps", 0.25, "--max_steps", -1, "--save_steps", 2
    )
    assert code == 0, err
    settings = json.loads((tmp_path / "run" / "result.json").read_text())["spec"]["settings"]
    wanted = {"warmup_ratio": 0.25, "warmup_steps": None, "max_steps": None}
    assert {name: settings[name] for name in wanted} == wanted


def test_what_changes_no_result_is_not_what_a_folder_is_for(run, files, tiny_folder, tmp_path):
    command = ["tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "run",
               "--epochs", 1, "--batch-size", 8]  # fmt: skip
    assert run(*command)[0] == 0
    claimed = json.loads((tmp_path / "run" / "run.json").read_text())
    assert claimed["metrics"] == [] and not {"report_to", "logging_steps"} & claimed["settings"].keys()
    code, _, err = run(*command, "--resume", "--logging-steps", 1, "--save-total-limit", 3)
    assert code == 0, err
    one_line(*run(*command, "--resume", "--max-grad-norm", 2)[::2], "settings.max_grad_norm: 1.0 there, 2.0 now")
    older = claimed | {"settings": {k: v for k, v in claimed["settings"].items() if k in ("epochs", "batch_size")}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(older))  # an earlier version knew fewer settings
    assert run(*command, "--resume")[0] == 0


def test_the_same_in_a_config_file(run, files, tiny_folder, tmp_path):
    given = {
        "model_name_or_path": tiny_folder("bert"), "train_file": files["train"], "num_train_epochs": 1,
        "do_train": True,
        "per_device_train_batch_size": 8, "max_steps": 2, "max_grad_norm": 0.5, "optim": "adafactor", "use_peft": True,
        "lora_r": 4, "lora_target_modules": ["query", "value"], "trainer_arg": ["adam_epsilon=1e-6"],
        "save_strategy": "steps", "save_steps": 1, "fp16": False, "adam_beta1": 0.8,
        "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "output_dir": str(tmp_path / "run"),
    }  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(given))
    code, _, err = run("tune", "--config", tmp_path / "c.yaml")
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 2 and result["spec"]["settings"]["optim"] == "adafactor"
    assert result["spec"]["settings"]["trainer_args"] == {
        "adam_epsilon": 1e-6, "adam_beta1": 0.8, "lr_scheduler_kwargs": '{"min_lr_rate": 0.1}',
    }  # fmt: skip
    assert result["plan"]["tuner"]["name"] == "lora" and result["plan"]["tuner"]["params"]["r"] == 4
    assert result["plan"]["tuner"]["params"]["targets"] == "query,value"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["--model_name_or_path", "m", "--do_train"], ["--model", "m"]),
        (["--overwrite_output_dir", "True"], ["--overwrite"]),
        (["--overwrite_output_dir", "false"], []),
        (["--overwrite", "False"], []),
        (["--torch_dtype=bfloat16"], ["--dtype", "bf16"]),
        (["--dtype", "float32"], ["--dtype", "fp32"]),
        (["--fp16"], ["--dtype", "fp16"]),
        (["--text_column_names", "a,b"], ["--text-column", "a", "--pair-column", "b"]),
        (["--lora_r", "8", "--lora_alpha", "16", "--lora_target_modules", "q", "v", "--json"],
         ["--json", "--tuner", "lora", "--tuner-option", "r=8", "--tuner-option", "alpha=16", "--tuner-option",
          "targets=q,v"]),
        (["--dataset_name", "imdb"], ["--train", "imdb"]),
        (["--dataset_name", "glue", "--dataset_config_name", "cola", "--dataset_train_split", "train"],
         ["--train", "glue:cola:train"]),
        (["--tuner-option", "r=1", "--", "--model_name_or_path"],
         ["--tuner-option", "r=1", "--", "--model_name_or_path"]),
        (["--task_name", "MNLI", "--max_train_samples", "9"],
         ["--max-samples", "9", "--train", "nyu-mll/glue:mnli",
          "--validation", "nyu-mll/glue:mnli:validation_matched", "--text-column", "premise", "--pair-column",
          "hypothesis"]),
        (["--task_name", "sst2", "--text_column_name", "s"],
         ["--text-column", "s", "--train", "nyu-mll/glue:sst2", "--validation", "nyu-mll/glue:sst2:validation"]),
        (["--dataset_name", "imdb", "--train_split_name", "train", "--test_split_name", "test"],
         ["--train", "imdb::train", "--test", "imdb::test"]),
        (["--do_regression", "--trust_remote_code", "False"], ["--task", "regression"]),
        (["--report_to", "wandb", "tensorboard", "--json"], ["--report-to", "wandb,tensorboard", "--json"]),
        (["--label_smoothing_factor", "0.1"], ["--trainer-arg", "label_smoothing_factor=0.1"]),
        (["--logging_first_step", "--seed", "3"], ["--seed", "3", "--trainer-arg", "logging_first_step=true"]),
        (["--tf32", "False", "--seed", "3"], ["--seed", "3", "--trainer-arg", "tf32=False"]),
        (["--use_cpu", "--local_rank", "-1", "--json"], ["--json", "--device", "cpu"]),
        (["--text_column_name", "t", "--text_column_delimiter", ","], ["--text-column", "t"]),
        (["--metric_name", "matthews_correlation", "--metric-for-best-model", "eval_f1"],
         ["--metric-for-best-model", "f1", "--metric", "matthews"]),
        (["--nonsense", "x"], ["--nonsense", "x"]),
        (["--cache-limit", "--seed"], ["--cache-limit", "--seed"]),
    ],
    ids=lambda value: " ".join(value),
)  # fmt: skip
def test_names_of_theirs_in_our_words(theirs, ours):
    assert translated(TUNE, theirs) == ours


def test_a_home_that_no_shell_has_spelled_out(run, files, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").symlink_to(tiny_folder("bert"))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"train_file": files["train"], "output": "~/s.json"}))
    code, _, err = run("score", "--config", "~/c.yaml", "--model=~/model")
    assert code == 0 and (tmp_path / "s.json").is_file(), err
    assert translated(TUNE, ["~/plan.json", "--text-column", "~"]) == [f"{tmp_path}/plan.json", "--text-column", "~"]


def test_no_name_of_theirs_is_one_of_ours():
    assert not {f"--{name}" for name in KNOWN} & {flag for parameter in TUNE.params for flag in parameter.opts}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--fp16"], ["--dtype", "CPU", "bf16"]),
        (["--optim", "adamw_torhc"], ["--optim", "did you mean adamw_torch"]),
        (["--optim", "galore_adamw_layerwise"], ["--optim", "one per layer"]),
        (["--lr-scheduler-type", "cosin"], ["--lr-scheduler-type", "did you mean cosine?"]),
        (["--lr-scheduler-type", "reduce_lr_on_plateau"], ["follows a validation loss"]),
        (["--trainer-arg", "adam_epsilom=1"], ["--trainer-arg", "did you mean adam_epsilon?"]),
        (["--trainer-arg", "adam_epsilon=much"], ["adam_epsilon is 'much'", "float"]),
        (["--trainer-arg", "optim=sgd"], ["--trainer-arg", "(--optim)"]),
        (["--trainer-arg", "neftune_noise_alpha=5"], ["neftune_noise_alpha", "noise"]),
        (["--trainer-arg", "tf32"], ["write name=value"]),
        (["--report-to", "no-such-tracker"], ["--report-to", "is not installed"]),
        (["--gradient-accumulation-steps", "0"], ["--gradient-accumulation-steps is 0"]),
        (["--eval-strategy", "epoch"], ["--eval-strategy", "validation"]),
        (["--early-stopping-patience", "2"], ["--early-stopping-patience", "(--eval-strategy)"]),
        (["--validation", "{validation}", "--eval-strategy", "steps"], ["--eval-steps"]),
        (["--validation", "{validation}", "--eval-strategy", "epoch", "--metric-for-best-model", "lost"],
         ["--metric-for-best-model", "accuracy"]),
        (["--max_eval_samples", "0", "--validation", "{validation}"], ["--max-eval-samples is 0", "1 or more"]),
        (["--max_eval_samples", "9", "--validation", "10%"], ["--validation is 10%", "--max-eval-samples"]),
        (["--max_eval_samples", "9"], ["--max-eval-samples", "validation or test data"]),
        (["--max_predict_samples", "9"], ["--max-eval-samples"]),
        (["--text_column_names", "a,b", "--text_column_delimiter", "-"], ["--text_column_delimiter", "as a pair"]),
        (["--trust_remote_code"], ["--trust_remote_code", "no code from the hub is run"]),
        (["--task_name", "mrcp"], ["--task_name is 'mrcp'", "mrpc", "is named with --task"]),
        (["--save-steps", "5", "--save-strategy", "epoch"], ["--save-steps", "(--save-strategy)"]),
        (["--warmup-steps", "2.5"], ["--warmup-steps", "whole number"]),
        (["--lr_scheduler_kwargs", '{{"num_cycles": 1}}'], ["--trainer-arg", "num_cycles"]),
        (["--adam_beta1", "2"], ["--trainer-arg", "optimizer", "beta"]),
        (["--resume_from_checkpoint", "x"], ["resume_from_checkpoint", "goes on by itself"]),
        (["--use_liger_kernel"], ["use_liger_kernel", "leave it out"]),
        (["--group_by_length", "--seed", "1"], ["--group_by_length", "leave it out"]),
        (["--eos_token", "<|im_end|>"], ["--eos_token", "the tokenizer's own"]),
        (["--hub-model-id", "me/mine"], ["--push-to-hub"]),
        (["--metric", "mse"], ["--metric", "validation or test"]),
        (["--text_column_names", "a,b,c"], ["--text_column_names", "two"]),
    ],
    ids=lambda value: " ".join(value)[:60],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_words(run, files, tiny_folder, tmp_path, flags, words):
    common = ["tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "run"]
    one_line(*run(*common, *[flag.format(**files) for flag in flags])[::2], *words)
    assert not (tmp_path / "run" / "result.json").exists() and not list(tmp_path.glob("run/checkpoint-*"))


def test_no_setting_is_both_what_a_run_is_and_how_it_is_watched():
    assert not to_json(TrainSettings()).keys() & to_json(WatchSettings()).keys()


@pytest.mark.parametrize("how", [["tune", "--tuner", "adalora"],
                                 ["compare", "--methods", "full,top+adalora", "--test", "{test}"]])  # fmt: skip
def test_earlier_weights_of_a_tuner_that_changes_its_modules_are_refused(run, files, tiny_folder, tmp_path, how):
    code, _, err = run(
        *[word.format(**files) for word in how], "--model", tiny_folder("bert"), "--train", files["train"],
        "--validation", files["validation"], "--output", tmp_path / "run", "--eval-strategy", "epoch",
    )  # fmt: skip
    one_line(code, err, "--eval-strategy", "adalora")
    assert not (tmp_path / "run").exists()  # nothing was scored for it


@pytest.mark.slow
def test_so_many_rows_are_judged_the_same_for_every_seed(run, files, tiny_folder, tmp_path):
    results = []
    for seed in (0, 1):
        code, out, err = run(
            "tune", "--model", tiny_folder("bert"), "--train", files["train"], "--validation", files["validation"],
            "--test", files["test"], "--output", tmp_path / f"run-{seed}", "--max_eval_samples", 9, "--epochs", 1,
            "--k", 1, "--seed", seed, "--json",
        )  # fmt: skip
        assert code == 0, err
        results.append(json.loads(out))
    result, other = results
    for split in ("validation", "test"):
        assert result["data"][split]["hash"] == other["data"][split]["hash"]
    assert {name: one["rows"] for name, one in result["data"].items()} == {"train": 40, "validation": 9, "test": 9}
    assert {name: found[0]["n"] for name, found in result["metrics"].items()} == {"validation": 9, "test": 9}


def test_the_lowest_loss_of_a_language_model(run, decoder, files, tmp_path):
    code, out, err = run(
        "tune", "--model", decoder, "--train", files["train"], "--validation", files["validation"], "--task",
        "next-token", "--output", tmp_path / "run", "--eval_strategy", "epoch", "--metric_for_best_model", "loss",
        "--epochs", 2, "--k", 1, "--json",
    )  # fmt: skip
    assert code == 0, err
    result = json.loads(out)
    assert "(loss " in result["saved"]["weights"]


@pytest.mark.slow
def test_the_best_weights_may_be_those_of_the_lowest_loss(run, files, tiny_folder, tmp_path):
    command = ["tune", "--model", tiny_folder("bert"), "--train", files["train"], "--validation", files["validation"],
               "--output", tmp_path / "run", "--eval_strategy", "epoch",
               "--metric_for_best_model", "eval_loss"]  # fmt: skip
    code, _, err = run(*command)
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    kept = float(re.search(r"log-loss ([\d.]+)", result["saved"]["weights"])[1])
    seen = [float(value) for value in re.findall(r"eval log-loss ([\d.]+)", err)]
    assert len(seen) == 3 and kept == pytest.approx(min(seen), abs=1e-3), err
    assert {one["name"]: one["value"] for one in result["metrics"]["validation"]}["log-loss"] == pytest.approx(
        kept, abs=1e-3
    )
    code, _, err = run(*command)
    assert code == 0 and "nothing to do" in err


def test_files_that_a_shell_made_of_a_pattern_are_one_under_every_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("text,label\n")
    for flag in ("--train", "--train_file", "--validation-file"):
        assert joined(["tune", flag, "a.csv", "b.csv", "--json"]) == ["tune", flag, "a.csv,b.csv", "--json"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "more"),
    [("bert", []),
     pytest.param("bert", ["--head", "concat", "--select", "explicit", "--layers", "1,3"], marks=pytest.mark.slow),
     pytest.param("llama", ["--tuner", "lora"], marks=pytest.mark.slow)],
    ids=["bert", "concat", "llama"],
)  # fmt: skip
def test_gradient_checkpointing_changes_nothing_but_rounding(run, files, tiny_folder, tmp_path, family, more):
    found = []
    for flags in ([], ["--gradient-checkpointing"]):
        folder = tmp_path / f"run{len(flags)}"
        code, _, err = run(
            "tune", "--model", tiny_folder(family), "--train", files["train"], "--output", folder, "--epochs", 2,
            "--learning-rate", "1e-3", "--max-steps", 6, *more, *flags,
        )  # fmt: skip
        assert code == 0, err
        tensors = {}
        for path in sorted(folder.rglob("*.safetensors")):
            tensors |= load_file(path)
        found.append(tensors)
    assert found[0].keys() == found[1].keys() and found[0]
    for name, value in found[0].items():
        if not name.endswith("key.bias"):  # whose gradient is zero but for rounding
            torch.testing.assert_close(found[1][name], value, atol=1e-5, rtol=0, msg=name)


def test_a_tuned_model_is_uploaded_when_asked(run, files, tiny_folder, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    command = ["tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "mine",
               "--max_steps", 1, "--push_to_hub"]  # fmt: skip
    one_line(*run(*command)[::2], "--push-to-hub", "hf auth login")
    assert not (tmp_path / "mine").exists()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "secret")
    monkeypatch.setattr(
        "wheretune.delta.sharing.push_to_hub", lambda *given: pushed.append(given) or "https://hub/me/mine"
    )
    code, _, err = run(*command)
    assert code == 0 and pushed == [(tmp_path / "mine", "mine")] and "uploaded to https://hub/me/mine" in err, err
