"""`--config`: a file that holds options."""

import json

from helpers.commands import one_line


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

    config = tmp_path / "c.yaml"
    for name, command in typer.main.get_command(application()).commands.items():
        options = [o for p in command.params for o in p.opts if o.startswith("--") and o not in ("--config", "--help")]
        if not any("--config" in parameter.opts for parameter in command.params):
            continue
        config.write_text("".join(f"{option[2:]}: 1\n" for option in options) + "no-such-key: 1\n")
        code, _, err = run(name, "--config", config)
        one_line(code, err, "'no-such-key'")
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
