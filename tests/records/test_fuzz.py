"""Scores and plans edited at random are read or refused by name; what is read is planned, shown, priced, exported."""

import copy
import json
import random
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from helpers import made_up
from helpers.often import often
from wheretune import planning
from wheretune.agreement import agreement
from wheretune.delta.card import model_card
from wheretune.errors import ConfigError, WheretuneError
from wheretune.exports.base import export
from wheretune.records.base import Spec, to_json
from wheretune.records.plan import load_plan
from wheretune.records.scores import Confidence, Settlement, load_scores
from wheretune.selectors.auto import Auto
from wheretune.selectors.blocks import BlockHighest
from wheretune.selectors.budget import Budget
from wheretune.selectors.fixed import Top
from wheretune.selectors.near import Near
from wheretune.selectors.ranked import Highest
from wheretune.show.records import notebook
from wheretune.tuners.bias import Bias
from wheretune.tuners.ia3 import IA3
from wheretune.tuners.low_rank import LoRA
from wheretune.tuners.prefix import Prefix

OLD = Path(__file__).parents[1] / "fixtures" / "first_house"
JUNK = (
    None, True, 0, -1, 3, 10**6, 10**30, 10**400, 0.5, -0.5, 1e300, 5e-324, "", "0.5", "$x$", "[red]\\",
    [], [[]], {}, [1, "a"],
    {"name": "x", "params": {}}, {"name": [], "params": 3}, [0.1, None], "NaN", "Infinity", "1e999", float("nan"),
)  # fmt: skip
TOOLS = ("peft", "trl", "axolotl", "llama-factory")


def every_place(content, path=()):
    """The paths of all values in a JSON document."""
    yield path
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inside:
        yield from every_place(value, (*path, key))


def edited(content, generator):
    """A copy with one or two edits: a value lost, doubled, exchanged, made junk, a list cut, a key misspelt."""
    content = copy.deepcopy(content)
    for _ in range(generator.randint(1, 2)):
        *path, key = generator.choice([place for place in every_place(content) if place])
        owner = content
        for step in path:
            owner = owner[step]
        match generator.randrange(6):
            case 0:
                del owner[key]
            case 1 if isinstance(owner, list):
                owner.insert(key, copy.deepcopy(owner[key]))
            case 1:
                owner[f"{key}_"] = owner[key]
            case 2 if isinstance(owner[key], int | float):
                owner[key] = generator.choice((-1, 2, 0.1, 1e9, 1e200)) * owner[key]
            case 3:
                owner[key] = {"inner": owner[key]} if generator.random() < 0.5 else [owner[key]]
            case 4:
                other = generator.choice(list(owner) if isinstance(owner, dict) else range(len(owner)))
                owner[key], owner[other] = owner[other], owner[key]
            case _:
                owner[key] = copy.deepcopy(generator.choice(JUNK))
        if not content:
            break
    return content


def written(content, path):
    """The document as text, in which some strings become what JSON cannot say."""
    text = json.dumps(content)
    for word in ("NaN", "Infinity", "1e999"):
        text = text.replace(f'"{word}"', word)
    path.write_text(text)
    return path


def scores_to_edit():
    plain = made_up.scores((0.1, 0.4, 0.2, 0.3, None, 0.6))
    settled = Settlement(Spec("highest", {"k": 1}), (5,), True, 30, 0.95, 0.01, "betting", ((5, 1),))
    chosen = planning.choose(plain, Highest(2))
    return [
        to_json(replace(plain, settlement=settled, choice=chosen)),
        to_json(made_up.scores(scorer="semantic-deviation", deviations=made_up.deviations(4))),
        *(
            json.loads((OLD / f"{name}.json").read_text())
            for name in ("cosine-centrality", "cka", "semantic-deviation")
        ),
    ]


def plans_to_edit():
    scores = made_up.scores()
    return [
        to_json(planning.plan(scores, BlockHighest(2))),
        to_json(planning.plan(scores, Near(Highest(2), 0.2), tuner=LoRA(r=2))),
        to_json(planning.plan(scores, Budget(0.5), tuner=Bias())),
        to_json(planning.plan(made_up.model_info(), Top(2), tuner=IA3())),
        to_json(planning.plan(made_up.model_info(), Top(2), tuner=Prefix(2))),
        json.loads((OLD / "plan.json").read_text()),
    ]


def used(plan):
    """Everything that is done with a plan without its model."""
    tried = [lambda: planning.cost(plan), lambda: planning.cost(plan, tokens=50.0, texts=9, epochs=1, batch_size=2)]
    tried += [lambda: shown(plan), lambda: shown(plan.cost), lambda: repr(plan), lambda: model_card(plan, None)]
    tried += [lambda tool=tool: export(plan, tool) for tool in TOOLS]
    for what in tried:
        without_bare(what)


def shown(record):
    Console(file=StringIO(), width=100).print(record)
    notebook(record)


def without_bare(what):
    try:
        return what()
    except WheretuneError:
        return None


SELECTORS = (Highest(1), BlockHighest(2), Auto(1), Budget(0.6), Top(1), Near(Highest(1), 0.1))
SEEDS = often(range(20), [0])
FILES = 25  # per seed


@pytest.mark.parametrize("seed", SEEDS)
def test_edited_scores(seed, tmp_path):
    generator, outcomes = random.Random(seed), Counter()
    originals = scores_to_edit()
    for number in range(FILES):
        path = written(edited(generator.choice(originals), generator), tmp_path / "scores.json")
        try:
            read = load_scores(path)
        except ConfigError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        for scores in read:
            shown(scores)
            for selector in generator.sample(SELECTORS, 2):
                plan = without_bare(lambda given=(scores, selector): planning.plan(*given))
                if plan is not None and number % 5 == 0:
                    used(plan)
            without_bare(lambda one=scores: agreement([one, one], [Highest(1), Highest(1)]))
            if number % 20 == 0:
                scores.plot()
                without_bare(scores.plot_similarity)
                without_bare(scores.plot_deviations)
    assert min(outcomes["read"], outcomes["refused"]) >= 1  # the edits are neither all fatal nor all harmless


@pytest.mark.parametrize("seed", SEEDS)
def test_edited_plans(seed, tmp_path):
    generator, outcomes = random.Random(100 + seed), Counter()
    originals = plans_to_edit()
    for _ in range(2 * FILES):
        path = written(edited(generator.choice(originals), generator), tmp_path / "plan.json")
        try:
            plan = load_plan(path)
        except ConfigError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        used(plan)
    assert min(outcomes["read"], outcomes["refused"]) >= 1


def test_confidence_and_numbers_without_end_are_refused_by_name(tmp_path):
    content = to_json(made_up.scores())
    for place, value, named in (
        (("tokens",), 1e300, "tokens"),
        (("tokens",), 1e90, "tokens"),
        (("model", "hidden_size"), 10**400, "hidden_size"),
        (("similarity",), [[1.0]], "similarity"),
        (("layers", 1, "score"), "1e999", "score"),
    ):
        edit = copy.deepcopy(content)
        owner = edit
        for step in place[:-1]:
            owner = owner[step]
        owner[place[-1]] = value
        with pytest.raises(ConfigError, match=named):
            load_scores(written(edit, tmp_path / "scores.json"))
    with pytest.raises(ValueError, match="share"):
        Confidence(2.0, (0.5,), False)
