"""How records look in a terminal and a notebook, and their figures."""

import base64
import html
import re
from dataclasses import replace
from io import StringIO

import matplotlib
import pytest
from rich.console import Console

from helpers import made_up
from helpers.training import fresh
from wheretune import planning
from wheretune.errors import ConfigError
from wheretune.records.base import Spec
from wheretune.records.cost import Measured
from wheretune.selectors.blocks import BlockHighest, blocks
from wheretune.selectors.ranked import Highest
from wheretune.show.figures import agreement_figure, save_figure, speed_figure
from wheretune.show.tables import table, unbroken
from wheretune.support.words import count, short, size

MARKUP = "[red]<b>&$x$[/red]"  # what a data set or a path may hold


def printed(record):
    console = Console(file=StringIO(), width=120)
    console.print(record)
    return console.file.getvalue()


def named(text):
    """Scores and a plan whose model and reason are called `text`."""
    model = made_up.model_info()
    model = replace(model, spec=replace(model.spec, name=text))
    scores = made_up.scores((0.1, 0.4, None, 0.3), model=model)
    return scores, replace(planning.plan(scores, Highest(2)), reason=text)


def faces(record):
    """The terminal's text, and a notebook's HTML and text."""
    shown = record._repr_mimebundle_()
    return printed(record), shown["text/html"], shown["text/plain"]


def test_scores_in_both_faces():
    scores, _ = named("org/bert")
    for text in faces(scores):
        assert all(word in text for word in ("cosine-centrality", "n = 30", "0.4000", "no candidate", "█"))
    assert "● 1" in printed(scores.profile((1,))) and "●" not in printed(scores)


def test_a_plan_and_its_cost_in_both_faces():
    _, plan = named("org/bert")
    for text in faces(plan):
        assert all(word in text for word in ("highest(k=2)", "1, 3", "last-token", "static", "training speed"))
    measured = Measured(2.0, 1.0, 0.5, "in memory", 10, 3, 5, "2 cores")
    for text in faces(replace(plan.cost, measured=measured)):
        assert all(line.name in text for line in plan.cost.lines) and "GFLOP" in text and "MB" in text
        assert "measured in 5 steps of each (2 cores)" in text and "1.97x" in text
    head = replace(plan.cost, lines=(replace(plan.cost.lines[0], speed_up=None),))
    assert "–" in printed(head)


def test_markup_in_names_is_shown_as_it_is():
    for record in named(MARKUP):
        terminal, page, plain = faces(record)
        assert MARKUP in terminal.replace("\n", "")
        assert "<b>" not in page and html.escape("<b>&") in page
        assert "[red]" in terminal and "[red]" in page and "[red]" in plain
        assert re.findall(r"</?(\w+)", page).count("b") == 0


def test_figures_say_what_they_show(tmp_path):
    scores, plan = named(MARKUP)
    axes = scores.plot(plan.layers, blocks(4, 2)).axes[0]
    assert axes.get_ylabel() == "cosine centrality" and "standard deviations" in axes.get_xlabel()
    drawn = {c.get_label(): c.lines[0].get_xydata().tolist() for c in axes.containers}
    assert drawn == {"frozen": [[0, 0.1]], "tuned": [[1, 0.4], [3, 0.3]]}  # layer 2 is no candidate
    bars = [c.lines[2][0].get_segments()[0][:, 1].tolist() for c in axes.containers]
    assert bars[0] == pytest.approx([0.1 - 0.02, 0.1 + 0.02])  # one standard deviation each way
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(labels) == ["frozen", "no candidate", "tuned"]
    assert {text.get_text() for text in axes.texts} == {"block 0", "block 1"}
    unsure = made_up.scores(layers=tuple(replace(one, std=None) for one in made_up.scores().layers))
    assert unsure.plot().axes[0].get_xlabel() == "layer (counted from 0)" and unsure.plot().axes[0].get_legend() is None
    save_figure(scores.plot(), tmp_path / "profile.png")  # drawn, the dollar signs of the name included
    assert (tmp_path / "profile.png").read_bytes()[:4] == b"\x89PNG"
    similarity = scores.plot_similarity().axes[0]
    assert [text.get_text() for text in similarity.texts][:2] == ["1.00", "0.80"]
    assert similarity.images[0].get_array().tolist() == [list(row) for row in scores.similarity]
    assert matplotlib.pyplot.get_fignums() == []


def test_deviations_before_and_after():
    before = made_up.scores(scorer="semantic-deviation", deviations=made_up.deviations())
    after = replace(before, deviations=made_up.deviations(last=0.2))
    axes = after.plot_deviations(before).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["before tuning", "after tuning"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["emb.", "0", "1", "2", "3"]
    assert len(axes.collections) == 2 * 5 and before.plot_deviations().axes[0].get_legend() is None
    with pytest.raises(ConfigError, match="cosine-centrality has no deviations"):
        made_up.scores().plot_deviations()
    with pytest.raises(ConfigError, match="model with other layers"):
        after.plot_deviations(made_up.scores((0.1, 0.2), "semantic-deviation", deviations=made_up.deviations(2)))
    with pytest.raises(ConfigError, match="score alike"):
        after.plot_deviations(replace(before, scorer=Spec("semantic-deviation", {"variant": "cosine"})))
    with pytest.raises(ConfigError, match="has no similarity matrix"):
        made_up.scores(similarity=None).plot_similarity()


@pytest.mark.parametrize("layers", [6, 40])
def test_many_layers_and_several_scorers(layers, tmp_path):
    values = tuple(0.5 + 0.01 * (layer % 7) for layer in range(layers))
    scores = made_up.scores(values)
    plan = planning.plan(scores, BlockHighest(3))
    save_figure(scores.plot(plan.layers, blocks(layers, 3)), tmp_path / "profile.png")
    assert (len(scores.plot_similarity().axes[0].texts) > 0) is (layers <= 16)
    figure = agreement_figure(["cka", MARKUP], [[1.0, None], [None, 1.0]], [plan.layers, (0,)], layers, "2 scorers")
    save_figure(figure, tmp_path / "agreement.png")
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00", "–", "–", "1.00"]


def test_speed_ups():
    figure = speed_figure(["top", "head only"], [1.2, None], [2.5, 9.0], [2.9, None], title="on 2 cores")
    assert sorted(bar.get_width() for bar in figure.axes[0].patches if bar.get_width() > 0) == [1.2, 2.5, 9.0]
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.20x", "2.50x", "9.00x"]


def test_numbers_in_words():
    assert [size(bytes_) for bytes_ in (0, 999, 999_700, 12_345_678, 5e12)] == [
        "0 bytes", "999 bytes", "1000 kB", "12.3 MB", "5000 GB"
    ]  # fmt: skip
    assert (count(592_130), count(21.3e6), short(0.00123), short(12345.6)) == ("592.1 K", "21.3 M", "0.00123", "12346")


def test_a_notebook_s_page_has_the_profile_and_nothing_of_the_data_s_own():
    scores, plan = named(MARKUP)
    page = scores._repr_html_()
    (alt, kind, drawn), rest = re.findall(r'<img alt="([^"]*)" src="data:image/(png);base64,([^"]*)">', page)[0], page
    assert kind == "png" and base64.b64decode(drawn).startswith(b"\x89PNG")
    assert html.unescape(alt).endswith(f"of {MARKUP}, n = 30")
    assert "<b>" not in rest and "&lt;b&gt;" in page and "<script" not in page
    assert scores._repr_mimebundle_()["text/html"] == page
    assert "<b>" not in plan._repr_html_() and "<img" not in plan._repr_html_() and "block" not in plan.__repr__()


def test_a_tuned_model_is_shown_as_its_plan_and_what_trains():
    _, tuned, *_ = fresh(layers=(1, 3))
    page = html.unescape(re.sub(r"<[^>]*>", "", tuned._repr_html_()))
    assert (
        "1, 3" in page
        and f"applied: {tuned.trainable_parameters:,} parameters in {len(tuned.trainable)} tensors" in page
    )
    assert repr(tuned).startswith("Tuned(Plan(layers=[1, 3]")


def test_no_word_of_a_table_is_broken_where_all_fit():
    columns = ("method", "layers", "test", "trainable", "train time", "speed-up")
    row = ("lisa:layers=2:every=20", " ".join(map(str, range(24))), "accuracy 0.9123 ± 0.0034", "109.5 M", "3 s", "–")

    def words(width):
        console = Console(width=width, file=StringIO())
        console.print(unbroken(table("", columns, [row]), width))
        return console.file.getvalue().replace("│", " ").replace("┃", " ").split()

    assert "109.5 M" in " ".join(words(90)) and len(words(200)) == len(words(1000))
    assert {"lisa:layers=2:every=20", "accuracy", "trainable", "speed-up", "0.0034"} <= set(words(90))
    assert max(map(len, words(50))) <= 50 and "trainable" not in words(50)  # narrower than its words: broken
