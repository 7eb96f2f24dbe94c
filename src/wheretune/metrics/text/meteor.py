"""METEOR 1.5 of Denkowski and Lavie 2014, by the authors' own Java program, which the package pycocoevalcap carries."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from wheretune.errors import UnavailableError
from wheretune.metrics.text.penn import DROPPED

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Shaped

    from wheretune.metrics.base import Predictions

PACKAGE = "pycocoevalcap"
SCORER, DIVIDER = Path("meteor", "meteor-1.5.jar"), Path("tokenizer", "stanford-corenlp-3.4.1.jar")
DIVIDING = "edu.stanford.nlp.process.PTBTokenizer"
SEPARATOR = " ||| "


@dataclass(frozen=True)
class METEOR:
    """The mean of precision and recall of words matched by form, stem, synonym or paraphrase; 0 to 1. Needs Java.

    It is what `meteor-1.5.jar -l en -norm` gives on the words of CoreNLP 3.4.1, as the E2E challenge has it: recall
    weighs more, matches in many pieces weigh less, the best reference of each row counts, and the counts of all rows
    are added up before they are weighed. NLTK's METEOR is another, older one, and never takes its place.
    """

    name: ClassVar[str] = "meteor"
    reads: ClassVar[str] = "text"
    higher_is_better: ClassVar[bool] = True

    def compute(self, predictions: Predictions, truth: Shaped[np.ndarray, " row"]) -> float | None:
        java, folder = _java(), _package()
        outputs, every = predictions.kinds["text"].tolist(), truth.tolist()
        flat = [text for references in every for text in references]
        words = iter(_divided(java, folder / DIVIDER, [*outputs, *flat]))
        outputs = [next(words) for _ in outputs]
        rows = [(output, [next(words) for _ in references]) for output, references in zip(outputs, every, strict=True)]
        return _scored(java, folder / SCORER, rows)


def _java() -> str:
    java = shutil.which("java")
    if java is None:
        raise UnavailableError(
            "METEOR needs Java, and there is no `java` here", "install a Java runtime, such as default-jre"
        )
    return java


def _package() -> Path:
    """The folder of the package that carries the program."""
    found = find_spec(PACKAGE)
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / SCORER).is_file() and (Path(place) / DIVIDER).is_file():
            return Path(place)
    raise UnavailableError(
        f"METEOR needs the package {PACKAGE}, which is not installed", "pip install 'wheretune[generation]'"
    )


def _divided(java: str, jar: Path, texts: Sequence[str]) -> list[str]:
    """The words of each text with spaces between them, in lower case and without punctuation."""
    lines = "".join(f"{' '.join(text.split())}\n" for text in texts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts"
        path.write_text(lines, encoding="utf-8", newline="\n")
        options = ["-preserveLines", "-lowerCase"]
        done = subprocess.run(
            [java, "-Dfile.encoding=UTF-8", "-cp", str(jar), DIVIDING, *options, str(path)],
            capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
    found = done.stdout.split("\n")[: len(texts)]
    if done.returncode or len(found) < len(texts):
        raise _failed(done.stderr)
    return [" ".join(word for word in line.split(" ") if word not in DROPPED) for line in found]


def _scored(java: str, jar: Path, rows: Sequence[tuple[str, Sequence[str]]]) -> float:
    """The score of all rows; the program says of each row in turn what it counted, and then weighs it all."""
    command = [java, "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, encoding="utf-8", bufsize=1
        ) as program,
    ):
        assert program.stdin is not None and program.stdout is not None
        try:
            counted = []
            for output, references in rows:
                program.stdin.write(SEPARATOR.join(["SCORE", *references, output.replace("|||", "")]) + "\n")
                counted.append(program.stdout.readline().strip())
            program.stdin.write(SEPARATOR.join(["EVAL", *counted]) + "\n")
            program.stdin.close()
            *every, whole = program.stdout.read().split()
            if len(every) != len(rows):
                raise ValueError(f"it scored {len(every)} of {len(rows)} rows")
            return float(whole)
        except (OSError, ValueError) as error:
            program.kill()
            complaints.seek(0)
            raise _failed(complaints.read().decode(errors="replace")) from error


def _failed(complaint: str) -> UnavailableError:
    said = complaint.strip().splitlines()[-1] if complaint.strip() else "it said nothing"
    return UnavailableError(f"METEOR's Java program failed ({said})", "try it by hand: java -version")
