"""Scoring opens nothing that it does not need: memory, and seconds before the first text."""

import json
import subprocess
import sys

UNNEEDED = ("peft", "datasets", "pandas", "transformers.trainer")
SCRIPT = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
from wheretune.cli.app import main
main(sys.argv[1:])
"""


def test_scoring_opens_no_trainer(files, tiny_folder, tmp_path):
    given = ("score", "--model", tiny_folder("bert"), "--train", files["train"], "--output", str(tmp_path / "s.json"))
    done = subprocess.run([sys.executable, "-c", SCRIPT, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and (tmp_path / "s.json").is_file(), done.stderr
    opened = json.loads(done.stderr.splitlines()[-1])
    assert "transformers" in opened and "torch" in opened
    assert not set(UNNEEDED) & set(opened)
