"""What README and docs show runs as it stands, on a tiny model."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import wheretune as wt
from helpers.models import tiny_model
from helpers.texts import sentences
from reference.scorers import hidden_states, representative

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SCORERS = (ROOT / "docs" / "scorers.md").read_text()


def test_the_snippets_run(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)
    assert len(snippets) == 3
    texts = sentences(16)
    scope = {"name": tiny_folder("bert"), "texts": texts, "labels": [i % 2 for i in range(len(texts))]}
    for snippet in snippets:
        exec(snippet, scope)
    assert len(scope["plan"].layers) == 2
    trained = {n.split("layer.")[1].split(".")[0] for n, p in scope["peft_model"].named_parameters()
               if p.requires_grad and "lora" in n}  # fmt: skip
    assert trained == {str(layer) for layer in scope["plan"].layers}


def test_what_it_links_to_is_there_and_nothing_is_left_open():
    links = [*re.findall(r"\]\(([^)#]+)\)", README), *re.findall(r'src="([^"]+)"', README)]
    assert len(links) >= 4
    assert [link for link in links if not (Path(__file__).parents[1] / link).is_file()] == []
    log = (Path(__file__).parents[1] / "docs" / "log.md").read_text()
    assert "<!--" not in README + log


def test_every_option_of_the_shell_snippets_exists():
    import typer.main

    from wheretune.cli.app import application

    commands = typer.main.get_command(application()).commands
    shown = (README + SCORERS).replace("\\\n", " ")
    lines = re.findall(r"^(?: {4})?wheretune ([\w-]+) (.*)$", shown, flags=re.M)
    assert {name for name, _ in lines} == set(commands) - {"demo", "scorers", "selectors"}
    for name, rest in lines:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= known


def test_the_scorer_of_another_package_works_and_is_found_by_its_entry_point(tmp_path):
    source = re.search(r"^```python\n(.*?)^```", SCORERS, flags=re.M | re.S).group(1)
    entry = re.search(r"^```toml\n.*?\n([\w-]+) = \"(.*?)\"\n```", SCORERS, flags=re.M | re.S).groups()
    scope = {}
    exec(source, scope)
    model, tokenizer = tiny_model("gpt2")
    texts = sentences(9)
    found = wt.score(model, tokenizer, wt.from_texts(texts), scope["StateNorm"](), batch_size=4)
    every = [representative(hidden_states(model, tokenizer, (text,), 64), True)[1:] for text in texts]
    np.testing.assert_allclose(found.values, np.linalg.norm(every, axis=2).mean(0), rtol=1e-5)
    (tmp_path / "their_package.py").write_text(source)
    (tmp_path / "their_package-1.0.dist-info").mkdir()
    (tmp_path / "their_package-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\n")
    declared = f"[wheretune.scorers]\n{entry[0]} = {entry[1]}\n"
    (tmp_path / "their_package-1.0.dist-info" / "entry_points.txt").write_text(declared)
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    shown = subprocess.run(
        [sys.executable, "-m", "wheretune", "scorers", "--json"],
        env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert '"state-norm": {"formula": "mean of ||h_{l+1}||"' in shown.stdout
