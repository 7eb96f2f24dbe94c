"""METEOR: what is asked of the Java program, what is said where it is missing, and the official figures."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers.e2e import GOLDEN, HYPOTHESES, REFERENCES, SETS, score
from wheretune.errors import UnavailableError

JAVA = """#!{python}
import sys
if "-cp" in sys.argv:
    assert sys.argv[-3:-1] == ["-preserveLines", "-lowerCase"]
    print(open(sys.argv[-1], encoding="utf-8").read().lower().replace(".", " ."), end="")
    sys.exit()
assert sys.argv[-6:] == ["-", "-", "-stdio", "-l", "en", "-norm"], sys.argv
for line in sys.stdin:
    kind, *parts = line.rstrip("\\n").split(" ||| ")
    if kind == "SCORE":  # counts the words of the output that a reference has
        print(sum(word in " ".join(parts[:-1]).split() for word in parts[-1].split()), len(parts) - 1, flush=True)
    else:
        for part in parts:
            print(part.split()[1])
        print(sum(int(part.split()[0]) for part in parts) / 100, flush=True)
"""


@pytest.fixture
def java(tmp_path, monkeypatch):
    """A program that answers as METEOR's does, and a package with files of the jars' names."""

    def made(program):
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "java").write_text(
            program.format(python=sys.executable) if "{python}" in program else program
        )
        (tmp_path / "bin" / "java").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        for name in ("meteor/meteor-1.5.jar", "tokenizer/stanford-corenlp-3.4.1.jar"):
            (tmp_path / "pycocoevalcap" / name).parent.mkdir(parents=True)
            (tmp_path / "pycocoevalcap" / name).touch()
        others = [place for place in sys.path if not (Path(place) / "pycocoevalcap").exists()]
        monkeypatch.setattr(sys, "path", [str(tmp_path), *others])

    return made


def test_what_the_program_is_asked(java):
    java(JAVA)
    assert score("meteor", ["A pub.", "", "x ||| near\nit"], [["a pub", "the pub ."], ["b"], ["near it"]]) == 4 / 100


@pytest.mark.parametrize(
    "program", ["#!/bin/sh\necho broken >&2; exit 1\n", JAVA.replace("print(sum(int", "sys.exit() # ")]
)
def test_a_program_that_fails(java, program):
    java(program)
    with pytest.raises(UnavailableError, match=r"METEOR's Java program failed \((broken|it said nothing)\)"):
        score("meteor", HYPOTHESES, REFERENCES)


def test_without_java_or_the_package(java, monkeypatch, tmp_path):
    java(JAVA)
    shutil.rmtree(tmp_path / "pycocoevalcap" / "meteor")
    with pytest.raises(UnavailableError, match=r"package pycocoevalcap.*pip install 'wheretune\[generation\]'"):
        score("meteor", HYPOTHESES, REFERENCES)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="needs Java, and there is no `java` here"):
        score("meteor", HYPOTHESES, REFERENCES)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pycocoevalcap") is None or shutil.which("java") is None, reason="needs Java and its jar")
@pytest.mark.parametrize("which", GOLDEN)
def test_the_official_figures(which):
    assert score("meteor", *SETS[which]) == pytest.approx(GOLDEN[which]["meteor"], abs=1e-12)
