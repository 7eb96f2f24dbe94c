"""The README's Python snippets run as they stand, one after the other, on a tiny model."""

import re
from pathlib import Path

from conftest import sentences

README = (Path(__file__).parents[1] / "README.md").read_text()


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

    from wheretune.cli import app

    commands = typer.main.get_command(app).commands
    lines = re.findall(r"^wheretune (\w+) (.*)$", README.replace("\\\n", " "), flags=re.M)
    assert {name for name, _ in lines} == set(commands) - {"demo", "scorers", "selectors"}
    for name, rest in lines:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= known
