"""The map in docs/design.md is the house: bands, what may open what, what opens torch, and how large things may be."""

from pathlib import Path

import pytest

from helpers.house import COMPLEXITY, FLOORS, LINES, House

# Functions that are yet to be divided. Whoever mends one takes it out here.
TO_BE_DIVIDED: list[str] = []
RULES = {
    "not_on_the_map": [],
    "upwards": [],
    "public_names": [],
    "circles": [],
    "heavy": [],
    "empty_rows": [],
    "long": [],
    "tangled": TO_BE_DIVIDED,
    "wide": [],
}


@pytest.fixture(scope="module")
def house():
    return House(Path(__file__).parents[1])


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_its_rules(house, rule):
    assert getattr(house, rule)() == sorted(RULES[rule])


def test_the_picture_shows_what_the_table_says(house):
    drawn = {band: [room for group in groups for room in group] for band, groups in house.picture.items()}
    assert drawn == house.bands
    assert list(drawn) == ["ground", "what comes in", "axes", "stages", "faces"]


def test_it_is_not_too_high(house):
    assert house.floors() <= FLOORS


MADE_UP = {
    "docs/design.md": """## The rooms

    axes            tasks | scorers | tuners
    ground          errors  records  catalog

| band | room | holds |
|---|---|---|
| ground | `errors.py` | |
| | `records/` base | |
| | `catalog.py` | |
| axes | `tasks/` `scorers/` `tuners/` | |

| other | table | `nothing/` |
""",
    "__init__.py": "from wheretune.errors import Error",
    "errors.py": "class Error(Exception): ...",
    "records/__init__.py": "from wheretune.errors import Error",
    "records/base.py": "def plot():\n    from wheretune.show import figures",
    "records/plan.py": "import rich\nfrom wheretune import Error\nfrom .base import plot",
    "catalog.py": 'ROWS = {"a": "wheretune.scorers.a:A", "b": "wheretune.scorers.a:B", "c": "wheretune.scorers.c:C"}',
    "tasks/base.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from wheretune.tuners.base import T",
    "scorers/a.py": "import wheretune.tasks.base\nimport wheretune.scorers.b\nclass A: ...",
    "scorers/b.py": "from torch import nn\ndef f():\n    from wheretune.scorers import a\n"
    "    from wheretune.tuners import base",
    "tuners/base.py": f"""
def many({", ".join(f"a{i}" for i in range(11))}): return [a0 for _ in a1 if a2 and a3 or (a4 if a5 else a6)]
class Kind:
    def ten(self, {", ".join(f"a{i}" for i in range(10))}):
        {"if a0: ..." + chr(10)}{"        if a1: ..." + chr(10)}{("        if a2: ..." + chr(10)) * 13}
""",
    "show/figures.py": "\n" * (LINES + 1),
}  # fmt: skip


def test_every_rule_can_be_broken(tmp_path):
    for name, text in MADE_UP.items():
        path = tmp_path / name if name.startswith("docs") else tmp_path / "src" / "wheretune" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    house = House(tmp_path)
    assert house.bands == {"ground": ["errors", "records", "catalog"], "axes": ["tasks", "scorers", "tuners"]}
    assert {rule: getattr(house, rule)() for rule in RULES} == {
        "not_on_the_map": ["show"],
        "upwards": ["wheretune.scorers.b -> wheretune.tuners.base", "wheretune.tasks.base -> wheretune.tuners.base"],
        "public_names": [
            "wheretune.records -> wheretune.errors",
            "wheretune.records.plan -> .base",
            "wheretune.records.plan -> wheretune",
        ],
        "circles": ["wheretune.scorers.a", "wheretune.scorers.b"],
        "heavy": ["wheretune.records.plan opens rich", "wheretune.scorers.a opens torch"],
        "empty_rows": ["wheretune.scorers.a:B", "wheretune.scorers.c:C"],
        "long": ["wheretune.show.figures"],
        "tangled": ["wheretune.tuners.base.ten"],
        "wide": ["wheretune.tuners.base.many"],
    }
    assert COMPLEXITY == 15 and house.floors() == 2
