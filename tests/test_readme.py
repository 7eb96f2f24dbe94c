"""What README and docs show runs as it stands, on a tiny model."""

import re
from pathlib import Path

from helpers.texts import sentences
from wheretune import catalog

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}


def test_the_readme_is_for_five_minutes():
    assert len(README.splitlines()) <= 150


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


def test_the_pages_link_to_what_is_there():
    for name, text in PAGES.items():
        links = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", text)
        assert [link for link in links if not (ROOT / "docs" / link).exists()] == [], name


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
    guides = [text for name, text in PAGES.items() if name not in ("log.md", "design.md", "extending.md")]
    shown = "\n".join([README, *guides]).replace("\\\n", " ")
    lines = re.findall(r"^(?: {4})?wheretune ([\w-]+) (.*)$", shown, flags=re.M)
    lists = {f"{axis}s" for axis in catalog.ROWS}
    assert {name for name, _ in lines} >= set(commands) - lists - {"demo"}
    for name, rest in lines:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= known
