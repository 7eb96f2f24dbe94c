"""A room imports only from the rooms above it in docs/design.md (or from its own folder's base.py)."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "wheretune"


def rooms() -> list[str]:
    """The rooms in the order of the list in docs/design.md."""
    text = (ROOT / "docs" / "design.md").read_text()
    listed = text.split("src/wheretune/\n", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^ {6}([a-z_]+)(?:\.py|/)", listed, flags=re.M)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wheretune"):
            deeper = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "wheretune" else []
            found |= set(deeper or [node.module])
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("wheretune")}
    return found - {"wheretune.__version__"}


def test_every_room_is_on_the_map():
    there = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
    there -= {"__init__", "__main__", "__pycache__", "py"}
    assert there <= set(rooms())


def test_imports_go_one_way():
    order = rooms()
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in ("__init__", "__main__"):
            continue
        for name in imports(path):
            room, *inside = name.split(".")[1:]
            own_folder = (room == parts[0] and inside[:1] == ["base"]) or (room, parts[0]) == ("show", "show")
            if not own_folder and order.index(room) >= order.index(parts[0]):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_the_check_can_fail(tmp_path):
    sample = tmp_path / "x.py"
    sample.write_text("from wheretune.cli import main\nimport wheretune.run\nfrom wheretune import catalog\n")
    assert imports(sample) == {"wheretune.cli", "wheretune.run", "wheretune.catalog"}
