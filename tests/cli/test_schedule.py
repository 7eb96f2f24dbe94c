"""SALF before it trains: what each stage reads, by scores or a run, and the histogram with the budget over it."""

import json

import pytest
from matplotlib.colors import to_hex

from helpers.commands import one_line
from wheretune.schedules.salf import Salf
from wheretune.scheduling import StageRows, eof_layers_of, filled
from wheretune.show.figures import ORANGE, budget_figure

EOF = [1] * 3 + [2] * 9 + [3] * 14  # of 26 texts and 4 layers


@pytest.fixture
def found(tmp_path):
    path = tmp_path / "eof-layers.json"
    path.write_text(json.dumps({"layers": 4, "eof_layers": EOF}))
    return path


def test_the_stages_of_a_runs_texts(run, found, tmp_path):
    given = ("schedule", "--schedule", "salf", "--scores", found, "--json")
    code, out, err = run(*given, "--batch-size", 4, "--figure", tmp_path / "figure.png")
    assert code == 0, err
    assert json.loads(out) == {
        "layers": 4,
        "steps": 8,  # 7, 7, 6 and 6 texts, two batches each
        "spans": [{"from": 2 * i, "to": 2 * i + 1, "layers": list(range(i, 4))} for i in range(4)],
        "stages": [
            {"layer": 0, "texts": 7, "matching": 0},
            *({"layer": i, "texts": n, "matching": m} for i, n, m in stages_by_hand()),
        ],
    }
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    steps = json.loads(run(*given, "--steps", 40)[1])
    assert [span["to"] for span in steps["spans"]] == [9, 19, 29, 39] and steps["stages"] == json.loads(out)["stages"]
    assert "1 and above" in run(*given[:-1])[1]


def stages_by_hand():
    """How many match in stages 1 to 3, when the seven of stage 0 are gone."""
    left = [row for row in range(26) if row not in Salf().stages(EOF, range(4), 0)[0]]
    for layer, amount in ((1, 7), (2, 6), (3, 6)):
        matching = [row for row in left if EOF[row] <= layer][:amount]
        yield layer, amount, len(matching)
        taken = set(Salf().stages(EOF, range(4), 0)[layer])
        assert set(matching) <= taken
        left = [row for row in left if row not in taken]


def test_scores_say_as_much(run, decoder, files, tmp_path):
    scores = tmp_path / "scores.json"
    given = ("score", "--model", decoder, "--train", files["train"], "--scorer", "semantic-deviation")
    assert run(*given, "--output", scores)[0] == 0
    layers, texts = eof_layers_of(scores)
    counts = json.loads(scores.read_text())["deviations"]["eof_layers"]
    assert layers == 4 == len(counts) and [texts.count(layer) for layer in range(4)] == counts
    shown = json.loads(run("schedule", "--schedule", "salf", "--scores", scores, "--json")[1])
    assert sum(stage["texts"] for stage in shown["stages"]) == len(texts) and shown["layers"] == 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("lift", "--steps", 8), "--scores has no effect with --schedule lift"),
        (("salf", "--layers", 5), "is of 4 layers, and --layers is 5"),
        (("salf", "--steps", 8, "--batch-size", 4), "--batch-size has no effect with --steps"),
        (("salf", "--batch-size", 0), "--batch-size is 0"),
    ],
)
def test_what_does_not_go_together_is_refused(run, found, given, words):
    one_line(*run("schedule", "--scores", found, "--schedule", *given)[::2], words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"layers": 4, "eof_layers": [4]}, "names a layer that is not there"),
        ({"layers": 4, "eof_layers": []}, "names a layer that is not there, or no text"),
        ({"layers": "x", "eof_layers": [1]}, "does not say"),
        ({"stages": 4}, "is not a valid scores file"),
    ],
)
def test_a_file_of_something_else_is_refused(run, tmp_path, content, words):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    one_line(*run("schedule", "--schedule", "salf", "--scores", path)[::2], words)


@pytest.mark.parametrize(
    "ending, begins", [("png", b"\x89PNG"), ("PNG", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_a_figure_is_what_its_ending_says(run, tmp_path, ending, begins):
    given = ("schedule", "--schedule", "lift", "--layers", 4, "--steps", 8, "--figure", tmp_path / f"map.{ending}")
    assert run(*given)[0] == 0 == run(*given)[0]  # the same again is the same file
    assert (tmp_path / f"map.{ending}").read_bytes().startswith(begins)


@pytest.mark.parametrize("name", ["map.foo", "map"])
def test_a_figure_of_an_unknown_ending_is_refused(run, tmp_path, name):
    given = ("schedule", "--schedule", "lift", "--layers", 4, "--steps", 8, "--figure", tmp_path / name)
    one_line(*run(*given)[::2], "--figure: no figure is written as", name, "pdf, pgf, png")
    assert not any(tmp_path.iterdir())


def test_scores_by_another_are_refused(run, scored):
    one_line(*run("schedule", "--schedule", "salf", "--scores", scored)[::2], "holds no eof layers of texts")


def test_the_figure_has_the_counts_and_the_budget_over_them():
    stages = filled(Salf("geometric"), EOF, range(4), 0)
    assert sum(stage.texts for stage in stages) == 26 and stages[1] == StageRows(1, 4, stages[1].matching)
    axes = budget_figure([0, 3, 9, 14], [(one.texts, one.matching) for one in stages], title="x").axes[0]
    assert [bar.get_height() for bar in axes.containers[0]] == [0, 3, 9, 14]
    steps = [patch for patch in axes.patches if to_hex(patch.get_edgecolor()) == ORANGE.lower()]
    assert steps[0].get_data().values.tolist() == [one.texts for one in stages]
    assert axes.lines[0].get_ydata().tolist() == [one.matching for one in stages]


@pytest.mark.parametrize("schedule", ["lisa", "recap", "slimfit"])
def test_so_many_steps_that_it_would_not_end_are_refused(run, schedule):
    given = ("schedule", "--schedule", schedule, "--layers", 12, "--steps")
    one_line(*run(*given, 1_000_000_000)[::2], "--steps is 1000000000", "give 100,000 or fewer")
    one_line(*run(*given, 100_001)[::2], "--steps is 100001")
    one_line(*run(*given[:-2], 1_000_000_000, "--steps", 9)[::2], "--layers is 1000000000", "give 1,000 or fewer")
    assert schedule != "recap" or run(*given, 100_000)[0] == 0
