"""From the shell to help, to an import and to the first box, against a bare `import torch, torchvision`.

The fastest of the rounds counts: a start can only be slowed down.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from ovdet.benchmarks.stream import draw_photos
from ovdet.benchmarks.timing import Row, describe_device, time_in_turns

_BARE = ("-c", "import torch, torchvision")
_FIRST_BOX = """
import sys
from ovdet import OpenVocabPredictor
print(OpenVocabPredictor.from_pretrained("ovdet-lite", device="cpu")(sys.argv[1], ["person", "dog"], threshold=0)[0])
"""
MOST = {"help": 0.2, "import ovdet": 0.05, "first box": 1.3}  # times the bare import


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(arguments: argparse.Namespace) -> list[Row]:
    """A row for each start; the peer is the bare import, of which a start may take MOST times as long."""
    with tempfile.TemporaryDirectory() as folder:
        photo = str(draw_photos(Path(folder), 1) / "0000.jpg")
        words = {
            "bare": _BARE,
            "help": ("-m", "ovdet", "--help"),
            "import ovdet": ("-c", "import ovdet"),
            "first box": ("-c", _FIRST_BOX, photo),
        }
        starts = {name: lambda given=given: _run(given) for name, given in words.items()}
        seconds = {name: min(each) for name, each in time_in_turns(starts, rounds=arguments.rounds).items()}
    bare = seconds.pop("bare")
    return [
        Row(f"{name}, at most {MOST[name]:g} times", value, "import torch, torchvision", bare, device=describe_device())
        for name, value in seconds.items()
    ]


def _run(words: tuple[str, ...]) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
