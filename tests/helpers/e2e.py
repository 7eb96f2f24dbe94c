"""Five lines with their references, and what the official scorer of the E2E challenge gives for them (-p, Java 17)."""

import numpy as np

from wheretune import catalog
from wheretune.metrics.base import Predictions

HYPOTHESES = [
    "Blue Spice is a coffee shop in the city centre near Crowne Plaza Hotel.",
    "The Golden Palace is a family-friendly Italian restaurant; it's cheap and has a 5 out of 5 rating.",
    "Loch Fyne serves French food in the £20-25 price range, isn't kid friendly and is by the river.",
    "The Mill is a pub.",
    "Wildwood is a moderately priced Indian Pub located in riverside with a customer rating of 3 out of 5.",
]
REFERENCES = [
    (
        "Near Crowne Plaza Hotel in the city centre there is a coffee shop called Blue Spice.",
        "Blue Spice is a coffee shop located near Crowne Plaza Hotel, in the city centre.",
        "A coffee shop named Blue Spice can be found in the city center near Crowne Plaza Hotel.",
    ),
    (
        "The Golden Palace is a cheap, family friendly Italian restaurant with a customer rating of 5 out of 5.",
        "With a rating of 5 out of 5, The Golden Palace offers cheap Italian food and welcomes families.",
    ),
    (
        "Loch Fyne is a French restaurant by the riverside with prices from £20-25. It is not kid-friendly.",
        "Located in riverside, Loch Fyne serves French food for £20-25 and isn't child friendly.",
        "Loch Fyne, in the riverside area, provides French food in the £20-25 price range.",
        "There's a French place called Loch Fyne by the river; it is not child friendly.",
    ),
    ("The Mill is a pub near Cafe Rouge that serves English food and has a high customer rating of 4.5 out of 5.",),
    (
        "Wildwood is an Indian pub in the riverside area. It is moderately priced and rated 3 out of 5.",
        "Moderately priced pub Wildwood serves Indian food; customers rate it 3 out of 5.",
    ),
]
GOLDEN = {
    "all": {
        "bleu": 0.3941600584989088,
        "nist": 5.08433664306033,
        "meteor": 0.36354474744194637,
        "rouge-l": 0.5499736859050532,
        "cider": 2.6706971496358958,
    },
    "first": {
        "bleu": 0.2509150786097116,
        "nist": 3.4201018517411783,
        "meteor": 0.33645726502916895,
        "rouge-l": 0.42267736983168536,
        "cider": 2.685759617192817,
    },
    "themselves": {"bleu": 1.0, "nist": 7.579421405213977, "meteor": 1.0, "rouge-l": 1.0, "cider": 6.695576914554758},
}
"""With all references; with the first alone; of the first references as hypotheses."""

PENN_HYPOTHESES = [
    "blue spice is a coffee shop in the city centre near crowne plaza hotel",
    "the golden palace is a family-friendly italian restaurant it 's cheap and has a 5 out of 5 rating",
    "loch fyne serves french food in the # 20-25 price range is n't kid friendly and is by the river",
    "the mill is a pub",
    "wildwood is a moderately priced indian pub located in riverside with a customer rating of 3 out of 5",
]
PENN_REFERENCES = [
    (
        "near crowne plaza hotel in the city centre there is a coffee shop called blue spice",
        "blue spice is a coffee shop located near crowne plaza hotel in the city centre",
        "a coffee shop named blue spice can be found in the city center near crowne plaza hotel",
    ),
    (
        "the golden palace is a cheap family friendly italian restaurant with a customer rating of 5 out of 5",
        "with a rating of 5 out of 5 the golden palace offers cheap italian food and welcomes families",
    ),
    (
        "loch fyne is a french restaurant by the riverside with prices from # 20-25 it is not kid-friendly",
        "located in riverside loch fyne serves french food for # 20-25 and is n't child friendly",
        "loch fyne in the riverside area provides french food in the # 20-25 price range",
        "there 's a french place called loch fyne by the river it is not child friendly",
    ),
    ("the mill is a pub near cafe rouge that serves english food and has a high customer rating of 4.5 out of 5",),
    (
        "wildwood is an indian pub in the riverside area it is moderately priced and rated 3 out of 5",
        "moderately priced pub wildwood serves indian food customers rate it 3 out of 5",
    ),
]
ROUGE_SEGMENTS = [0.6853932584269663, 0.631578947368421, 0.5865384615384615, 0.32004197271773344, 0.5263157894736842]
EDGES = [  # output, reference, BLEU, NIST; None where the official scorer divides by zero
    ("Nice pub", "Nice pub near Cafe Rouge .", 0.00013533528323661273, None),
    ("x y z w v", "a b c d e", 3.0213753973567777e-16, 0.0),
    ("THE &quot;Mill&quot; IS A PUB .", 'the "Mill" is a pub.', 1.0, 3.0357142857142856),
    ("Prices: £20-25, 1,000 or 4.5 out-of 5.", "Prices : £20 - 25 , 1,000 or 4.5 out-of 5 .", 1.0, 3.584962500721156),
]
SETS = {
    "all": (HYPOTHESES, REFERENCES),
    "first": (HYPOTHESES, [references[:1] for references in REFERENCES]),
    "themselves": ([references[0] for references in REFERENCES], REFERENCES),
}


def objects(values):
    """An array of one object per row."""
    made = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        made[i] = value
    return made


def score(name, outputs, references, **options):
    predictions = Predictions(outputs, {"text": objects(outputs)})
    return catalog.find("metric", name)(**options).compute(predictions, objects([tuple(one) for one in references]))
