"""`judge`: how good texts are that any tool has written."""

from __future__ import annotations

from typing import Annotated

import typer

from wheretune.cli.groups import needed, option
from wheretune.cli.options import AsJson, Config, DataFile
from wheretune.cli.printing import show
from wheretune.errors import ConfigError

Outputs = Annotated[
    str,
    typer.Argument(
        metavar="PREDICTIONS",
        help='JSON lines, {"row": 0, "text": "..."} for each row of the data; `-` is standard input.',
        show_default=False,
    ),
]


def judge(
    outputs: Outputs,
    data: DataFile = None,
    source_column: Annotated[
        str | None,
        option(
            "--source-column",
            "Column with what a text was made from; rows with equal sources share their references.",
            default="mr, source, question, prompt or input",
            rich_help_panel="Data",
        ),
    ] = None,
    references_column: Annotated[
        str | None,
        option(
            "--references-column",
            "Column with the references of a row: a list of texts, or one text.",
            default="references, ref, target, answer, completion or output",
            rich_help_panel="Data",
        ),
    ] = None,
    each_source_once: Annotated[
        bool,
        option(
            "--each-source-once",
            "Count rows with equal sources as one row, with the first one's text, as the E2E challenge does.",
            rich_help_panel="Data",
        ),
    ] = False,
    metric: Annotated[
        list[str] | None,
        option(
            "--metrics",
            "Metrics with commas between them; see `wheretune metrics`. Options follow colons: exact-match:of=text.",
            default="none",
            axis="metric",
            rich_help_panel="Output",
        ),
    ] = None,
    run_generated_code: Annotated[
        bool,
        option("--run-generated-code", "Let pass-at-1 run the texts as code, in a sandbox.", rich_help_panel="Output"),
    ] = False,
    without_isolation: Annotated[
        bool,
        option(
            "--without-isolation",
            "Run code also where the system cannot keep it from the network and from files. Only for code you trust.",
            rich_help_panel="Output",
        ),
    ] = False,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Judge texts that any tool has written, against references or by running them.

    Every row of the data needs a text. An empty text counts as wrong. A metric that cannot be had here, such as METEOR
    without Java, is left out with its reason.

    For example:

    wheretune judge outputs.jsonl --data e2e-test.jsonl --metrics bleu,nist,meteor,rouge-l,cider

    wheretune judge outputs.jsonl --data gsm8k-test.jsonl --metrics exact-match --json

    wheretune judge outputs.jsonl --data humaneval.jsonl --metrics pass-at-1 --run-generated-code
    """
    source = needed(data, "--data")
    from wheretune import catalog
    from wheretune.show.tables import table
    from wheretune.text_judging import judge_texts

    names = [name.strip() for given in needed(metric, "--metrics") for name in given.split(",") if name.strip()]
    if not names:
        raise ConfigError("--metrics names none", "give one or more, such as bleu,rouge-l")
    allowed = {"run_generated_code": run_generated_code or None, "without_isolation": without_isolation or None}
    specs = [catalog.filled("metric", catalog.written("metric", name), **allowed) for name in dict.fromkeys(names)]
    measures = [catalog.build("metric", spec) for spec in specs]
    found = judge_texts(
        outputs,
        source,
        measures,
        source_column=source_column,
        references_column=references_column,
        each_source_once=each_source_once,
    )
    rows = [
        (
            one.name,
            "–" if one.value is None else f"{one.value:.4f}",
            str(one.n),
            "higher" if one.higher_is_better else "lower",
        )
        for one in found
    ]
    show(
        table(f"{outputs} on {source}", ("metric", "value", "n", "better"), rows, left=("metric", "better")),
        json_,
        {"metrics": [one.content() for one in found]},
    )
