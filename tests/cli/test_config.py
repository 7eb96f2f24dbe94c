"""`--config`: a file that holds options."""

import json

from helpers.commands import one_line
from helpers.texts import jsonl, rows_of
from wheretune.cli.config import LISTS, OPTIONS, PAIRS


def test_config_file_and_the_command_line_has_the_last_word(run, files, tiny_folder, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        f"model: {tiny_folder('bert')}\ntrain: {files['train']}\nmax-samples: 7\n"
        f"batch_size: 3\noutput: {tmp_path / 's.json'}\n"
    )
    assert run("score", "--config", config)[0] == 0
    assert json.loads((tmp_path / "s.json").read_text())["n_samples"] == 7
    assert run("score", "--config", config, "--max-samples", 5, "--overwrite")[0] == 0
    assert json.loads((tmp_path / "s.json").read_text())["n_samples"] == 5
    config.write_text("modle: x\n")
    code, _, err = run("score", "--config", config)
    assert code == 2 and "'modle'" in err and "did you mean model?" in err
    config.write_text("seeds: [0, 1]\nmethods: [full, top]\nepochs: many\n")
    code, _, err = run("compare", "--config", config)
    assert code == 2 and "--epochs is 'many'; give a whole number" in err


def test_every_option_can_stand_in_the_config_file(run, files, scored, tmp_path):
    import typer.main

    from wheretune.cli.app import application

    config, flags = tmp_path / "c.yaml", set[str]()
    for name, command in typer.main.get_command(application()).commands.items():
        options = [o for p in command.params for o in p.opts if o.startswith("--") and o not in ("--config", "--help")]
        flags |= {option[2:] for option in options}
        if not any("--config" in parameter.opts for parameter in command.params):
            continue
        config.write_text("".join(f"{option[2:]}: 1\n" for option in options) + "no-such-key: 1\n")
        code, _, err = run(name, "--config", config)
        one_line(code, err, "'no-such-key'")
    assert flags > LISTS | PAIRS | OPTIONS
    run("plan", scored, "--output", tmp_path / "plan.json")
    config.write_text(f"plan: {tmp_path / 'plan.json'}\ntrain: {files['train']}\njson: true\nepochs: 1\n")
    code, out, err = run("tune", "--config", config, "--output", tmp_path / "run", "--learning-rate", "1e-3")
    assert code == 0 and json.loads(out)["steps"] == 3, err


def test_a_config_may_be_json_and_numbers_may_be_written_with_an_exponent(run, first_scores, tmp_path):
    config = tmp_path / "c.json"
    config.write_text(
        '{"tuner": "lora", "tuner-option": ["r=4", "alpha=1e1"], "k": 1, "output": "%s"}' % (tmp_path / "p")
    )
    code, out, err = run("plan", first_scores, "--config", config)
    assert code == 0 and "alpha=10.0" in out, err
    config.write_text("{")
    one_line(*run("plan", first_scores, "--config", config)[::2], "is not YAML")
    config.write_text("- a\n")
    one_line(*run("plan", first_scores, "--config", config)[::2], "holds no options")


def test_what_is_no_single_value_is_refused_by_its_name(run, files, tiny_folder, tmp_path):
    config = tmp_path / "c.yaml"
    for line, name, way in (
        ("train: {a: b}", "a mapping (`name: value`) under train", "give one value or a list of them"),
        ("train: [{a: b}]", "a mapping (`name: value`) under train", "give one value or a list of them"),
        ("output: {a: b}", "a mapping (`name: value`) under output", "give one value"),
        ("output: [a, b]", "a list under output", "give one value"),
        ("epochs: [1, 2]", "a list under epochs", "give one value"),
        ("metric: {a: b}", "a mapping (`name: value`) under metric", "give one value or a list"),
        ("train_file: {a: b}", "a mapping (`name: value`) under train-file", "give one value"),
    ):
        config.write_text(f"{line}\nmodel: {tiny_folder('bert')}\n")
        one_line(*run("tune", "--config", config)[::2], name, way)


def test_lists_and_mappings_stand_where_several_values_belong(run, files, tiny_folder, tmp_path):
    config = tmp_path / "c.json"
    rows = rows_of(20)
    more = jsonl(tmp_path / "more.jsonl", rows)
    given = {
        "model": tiny_folder("bert"), "train": [files["train"], more], "epochs": 1, "verbalizer": None, "k": 2,
        "tuner": "lora", "tuner-option": {"r": 4, "targets": ["query", "value"]},
        "trainer_arg": {"adam_epsilon": 1e-6, "lr_scheduler_kwargs": {}}, "lora_dropout": 0.5,
        "output": str(tmp_path / "run"),
    }  # fmt: skip
    config.write_text(json.dumps(given))
    code, _, err = run("tune", "--config", config)
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["data"]["train"]["rows"] == 60
    tuner = result["plan"]["tuner"]["params"]
    assert (tuner["r"], tuner["targets"], tuner["dropout"]) == (4, "query,value", 0.5)
    assert result["spec"]["settings"]["trainer_args"] == {"adam_epsilon": 1e-6, "lr_scheduler_kwargs": "{}"}


def test_k_of_the_command_line_puts_aside_the_ratio_of_a_config_and_the_other_way_round(run, first_scores, tmp_path):
    config, plan = tmp_path / "c.yaml", ("plan", first_scores, "--output", tmp_path / "p.json")
    config.write_text("ratio: 0.5\n")
    code, out, err = run(*plan, "--config", config, "--k", 2)
    assert code == 0 and "k=2" in out, err
    config.write_text("k: 1\n")
    code, out, err = run(*plan, "--config", config, "--ratio", 1)
    assert code == 0 and "k=2" in out, err
    config.write_text("k: 1\nratio: 0.5\n")
    one_line(*run(*plan, "--config", config)[::2], "--k and --ratio")
