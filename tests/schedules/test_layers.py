"""LIFT, LIFT* and LISA are what their papers say: the worked numbers, and the command that shows a schedule."""

import json
from hashlib import blake2b

import pytest

import wheretune as wt
from helpers import made_up
from helpers.commands import one_line
from wheretune import catalog, planning
from wheretune.errors import ConfigError
from wheretune.records.base import Spec
from wheretune.schedules.lift import Lift, LiftStar
from wheretune.schedules.lisa import Lisa
from wheretune.schedules.timetable import Span, shares, timetable

S_TABLE_5 = {16000: 0.4844, 4076: 0.4835, 8544: 0.4844, 5452: 0.4837, 10060: 0.4840}  # by n, LIFT on 32 layers


def layers_of(spans):
    return [span.units for span in spans for _ in range(span.steps)]


def test_lift_goes_from_front_to_back_in_equal_shares():
    spans = timetable(Lift(), 4, range(4), 10)
    assert "".join(str(*layers) for layers in layers_of(spans)) == "0001112233"
    assert sum(span.units[0] * span.steps for span in spans) / (4 * 10) == 0.325
    spans = timetable(Lift(), 12, (2, 5, 9), 3)
    assert layers_of(spans) == [(2,), (5,), (9,)], "the plan's layers alone"


@pytest.mark.parametrize(("texts", "saving"), S_TABLE_5.items())
def test_what_lift_saves_of_the_backward_pass_is_what_the_paper_prints(texts, saving):
    spans = timetable(Lift(), 32, range(32), texts)
    assert sum(span.units[0] * span.steps for span in spans) / (32 * texts) == pytest.approx(saving, abs=5e-5)


def test_lift_star_trains_all_above_too():
    assert layers_of(timetable(LiftStar(), 4, range(4), 6)) == [
        (0, 1, 2, 3), (0, 1, 2, 3), (1, 2, 3), (1, 2, 3), (2, 3), (3,),
    ]  # fmt: skip
    state = LiftStar().init(4, (1, 3), {}, 2, 0)
    assert (LiftStar().lowest(state, 0), LiftStar().lowest(state, 1)) == (1, 3)
    assert catalog.read("schedule", "lift*") == LiftStar()


def test_lisa_s_first_draws():
    spans = timetable(Lisa(2, 20), 12, range(12), 120, seed=42)
    assert spans == [
        Span(0, 19, (0, 3)), Span(20, 39, (1, 11)), Span(40, 59, (7, 11)), Span(60, 79, (5, 7)),
        Span(80, 99, (6, 8)), Span(100, 119, (6, 10)),
    ]  # fmt: skip


def test_lisa_draws_every_layer_as_often():
    drawn = [layer for layers in layers_of(timetable(Lisa(2, 1), 12, range(12), 6000, seed=7)) for layer in layers]
    counts = [drawn.count(layer) for layer in range(12)]
    assert (min(counts), max(counts)) == (940, 1041) and sum(counts) == 12_000


def test_lisa_draws_among_the_layers_of_the_plan():
    def keyed(layer):
        return blake2b(f"lisa:5:3:{layer}".encode(), digest_size=8).digest()

    made = Lisa(2, 7)
    state = made.init(12, (1, 4, 6, 9), {}, 40, 5)
    assert made.active(state, 27) == set(sorted((1, 4, 6, 9), key=keyed)[:2])
    assert made.lowest(state, 27) == min(made.active(state, 27))


def test_the_shares_of_stretches_of_time():
    spans = [Span(0, 2, (0,)), Span(3, 5, (0, 1))]
    assert shares(spans, 3, 2) == [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
    assert shares(spans, 2, 4)[1] == [0.0, 0.0, 1.0, 1.0] and len(shares(spans, 2, 99)[0]) == 6
    assert shares([Span(0, 1, (0,)), Span(2, 3, ())], 1, 1) == [[0.5]]


def test_what_a_schedule_cannot_serve_is_refused():
    with pytest.raises(ConfigError, match="gives each of 5 layers a step, and there are 4"):
        Lift().init(12, range(5), {}, 4, 0)
    with pytest.raises(ConfigError, match=r"trains 4 layers at a time, and the plan has 3; .* 3 or fewer .*layers=3\)"):
        Lisa(4).check(3, Spec("full"))
    with pytest.raises(ConfigError, match="moves through layers, and head-only tunes none"):
        LiftStar().check(0, Spec("head-only"))
    with pytest.raises(ConfigError, match="every is 0"):
        Lisa(every=0)
    with pytest.raises(ConfigError, match="adalora needs its layers at every step, and the schedule lift freezes"):
        planning.plan(made_up.scores(), wt.Explicit(every=True), tuner=wt.AdaLoRA(), schedule=Lift())


def test_a_schedule_is_shown_without_a_model(run, tmp_path):
    given = ("schedule", "--schedule", "lisa:layers=2:every=20", "--layers", 12, "--steps", 60, "--seed", 42)
    code, out, _ = run(*given, "--json")
    assert code == 0
    assert json.loads(out) == {
        "layers": 12,
        "steps": 60,
        "spans": [
            {"from": 0, "to": 19, "layers": [0, 3]},
            {"from": 20, "to": 39, "layers": [1, 11]},
            {"from": 40, "to": 59, "layers": [7, 11]},
        ],
    }
    code, out, _ = run(*given, "--figure", tmp_path / "map.png")
    rows = [line for line in out.splitlines() if "·" in line or "█" in line]
    assert code == 0 and len(rows) == 12 and "█" * 20 + "·" * 40 in rows[3]
    assert (tmp_path / "map.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--schedule", "lift", "--layers", 12, "--steps", 11), "each of 12 layers a step, and there are 11"),
        (("--schedule", "lisa:layers=13", "--layers", 12, "--steps", 11), "13 layers at a time, and the plan has 12"),
        (("--schedule", "lisa:every=0", "--layers", 12, "--steps", 11), "every is 0"),
        (("--schedule", "lisa", "--layers", 0, "--steps", 11), "--layers is 0"),
        (("--schedule", "lisa", "--layers", 2), "--steps is missing"),
        (("--schedule", "lisas", "--layers", 2, "--steps", 1), "did you mean lisa"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(run, given, words):
    one_line(*run("schedule", *given)[::2], words)
