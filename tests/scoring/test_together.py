"""Several processes share a scoring pass, and the first one writes what one process would."""

import json

import pytest

from helpers.language import chats, kept
from helpers.texts import jsonl, rows_of

pytestmark = pytest.mark.distributed
CASES = {
    "states": ("--scorer", "cosine-centrality,cka,feature-variance,weight-snr,random"),
    "gradients": ("--scorer", "gradient-norm,fisher,io-cosine"),
    "settled": ("--scorer", "cosine-centrality", "--until-settled", "--k", 2),
    "standardised": ("--scorer", "cosine-centrality", "--standardise"),
    "more processes than batches": ("--scorer", "cosine-centrality", "--batch-size", 32),
    "chat": ("--scorer", "cosine-centrality", "--task", "chat"),
}
EVERY_TIME = ("gradients",)


def values(path):
    content = json.loads(path.read_text())
    return [
        [one["scorer"]["name"], one["n_samples"], layer["index"], one["tokens"], layer["score"], layer["std"]]
        for one in content.get("scores", [content])
        for layer in one["layers"]
    ]


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in EVERY_TIME else pytest.mark.slow) for n in CASES])
def test_the_scores_are_those_of_one_process(nursery, tmp_path, tiny_folder, name, size):
    if name == "chat":
        chats(tmp_path / "train.jsonl", 13)
        model = kept(tmp_path / "model")
    else:
        jsonl(tmp_path / "train.jsonl", rows_of(31))
        model = tiny_folder("bert")
    given = {"--model": model, "--train": tmp_path / "train.jsonl", "--batch-size": 4}
    command = ["score", *(str(one) for pair in given.items() for one in pair), *CASES[name]]
    for number in (1, size):
        output = tmp_path / f"{number}.json"
        done = nursery.wheretune(tmp_path / f"said-{number}", number, *command, "--output", output)
        assert set(done.codes) == {0} and done.out[0] and not any((*done.out[1:], *done.err[1:])), done.err
    for one, other in zip(values(tmp_path / "1.json"), values(tmp_path / f"{size}.json"), strict=True):
        assert one[:3] == other[:3] and [value is None for value in one] == [value is None for value in other]
        numbers = [[value for value in row[3:] if value is not None] for row in (one, other)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=1e-7)
