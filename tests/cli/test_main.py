"""The console command: help at once, with an example in each, and what is told where it fails."""

import argparse
import importlib
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from detectron2.engine import default_argument_parser
from PIL import Image
from streaming import Streaming

from ovdet.cli import extract as extract_command
from ovdet.cli.arguments import MODELS
from ovdet.cli.main import COMMANDS
from ovdet.export.write import FORMATS
from ovdet.hub.find import SHIPPED
from ovdet.inference.detections import Detections
from ovdet.inference.evaluate import SETTINGS
from ovdet.regions.extract import ENGINES
from ovdet.regions.job import PROPOSALS

ROOT = Path(__file__).parents[2]
HEAVY = {
    "torch",
    "numpy",
    "detectron2",
    "cv2",
    "PIL",
    "msgspec",
    "omegaconf",
    "supervision",
    "av",
    "rich",
    "safetensors",
}


def parser_of(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS[name]).add_arguments(parser)
    return parser


def choices(name: str, option: str) -> set[str]:
    return set(next(action for action in parser_of(name)._actions if option in action.option_strings).choices)


def test_help_of_all_commands_loads_nothing_that_takes_time():
    script = (
        "import contextlib, io, sys; from ovdet.cli.main import COMMANDS, build_parser, run_command; build_parser()\n"
        "for name in COMMANDS:\n"
        "    text = io.StringIO()\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(text): run_command(name, ['--help'])\n"
        "    assert f'\\novdet {name} ' in text.getvalue() or f'\\novdet {name}\\n' in text.getvalue(), name\n"
        "print(*sys.modules, sep='\\n')"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not HEAVY & set(run.stdout.split("\n"))


def test_without_a_command_there_is_help_and_a_wrong_one_is_told(ovdet):
    code, out, _ = ovdet()
    assert code == 0 and all(name in out for name in COMMANDS)
    code, _, err = ovdet("detct")
    assert code == 2 and "detct" in err and "detect" in err
    code, out, _ = ovdet("--version")
    assert code == 0 and out == f"ovdet {importlib.import_module('ovdet').__version__}\n"


def test_choices_are_those_of_the_library():
    assert choices("export", "--format") == set(FORMATS)
    assert choices("extract", "--engine") == set(ENGINES) and choices("extract", "--proposals") == set(PROPOSALS)
    assert choices("evaluate", "--setting") == set(SETTINGS)
    assert all(name in MODELS for name in SHIPPED)


def test_training_takes_the_flags_of_detectron2():
    own = {option: action for action in parser_of("train")._actions for option in action.option_strings}
    for action in default_argument_parser()._actions:
        for option in action.option_strings:
            assert own[option].dest == action.dest and own[option].default == action.default
            assert own[option].type == action.type and own[option].nargs == action.nargs


def test_a_command_of_extraction_can_be_repeated(monkeypatch):
    for argv, expected in (
        (["tools/extract_regions.py"], ["python", "tools/extract_regions.py"]),
        (["/usr/bin/ovdet"], ["ovdet"]),
        (["/x/ovdet/__main__.py"], ["ovdet"]),
    ):
        monkeypatch.setattr(sys, "argv", argv)
        assert extract_command._program() == expected


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


def test_photos_without_an_option_and_lines_for_programs(ovdet, photo, tmp_path, monkeypatch):
    class Spy(Streaming):
        names, training_classes = ("cup",), ()

        def set_vocabulary(self, vocabulary, negatives):
            assert vocabulary.names == ("cup",)

        def __call__(self, image, **shown):
            boxes = np.float32([[10, 10, 50, 50]])
            return Detections(boxes, np.float32([0.9]), np.int64([0]), ("cup",), image.shape[:2])

    chosen = {}
    monkeypatch.setattr("ovdet.inference.load.load_predictor", lambda **given: chosen.update(given) or Spy())
    words = ("detect", photo, "--names", "cup", "--json", "--output", tmp_path / "out", "train.device=cpu")
    code, out, err = ovdet(*words)
    assert code == 0, err
    detections = [{"box": [10, 10, 50, 50], "score": 0.9, "label": "cup"}]
    expected = {"image": str(photo), "output": f"{tmp_path}/out/photo.png", "width": 120, "height": 90}
    assert json.loads(out) == {**expected, "detections": detections}
    assert chosen["overrides"] == ["train.device=cpu"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("phtos/", "expected an image or a folder of images, phtos/ does not exist"),
        ("a/b/phtos", "expected an image or a folder of images, a/b/phtos does not exist"),
        ("phtos", "expected files or folders that exist, or names in quotes"),
    ],
)
def test_a_folder_that_does_not_exist_is_no_name(ovdet, word, message):
    code, _, err = ovdet("detect", word, "--names", "cat")
    assert code == 2 and message in err and err.count("\n") == 1


def test_names_that_the_shell_took_apart(ovdet, photo, tmp_path):
    code, _, err = ovdet("detect", photo, "--names", "dog", "bicycle", "--output", tmp_path / "out")
    assert code == 2 and '--names "dog, bicycle"' in err and not (tmp_path / "out").exists()


@pytest.fixture
def without_detectron2(monkeypatch):
    """A command that needs detectron2 until it is installed; the list of installations."""
    installed = []

    def run(arguments):
        if not installed:
            raise ModuleNotFoundError("No module named 'detectron2'", name="detectron2")

    module = types.ModuleType("needy", doc="Need detectron2.")
    module.add_arguments, module.run = lambda parser: None, run
    monkeypatch.setitem(sys.modules, "needy", module)
    monkeypatch.setitem(COMMANDS, "needy", "needy")
    monkeypatch.setattr("ovdet.install.install_detectron2", lambda: installed.append(1) or "installed it")
    return installed


def test_detectron2_is_asked_for_only_where_somebody_can_answer(ovdet, without_detectron2, monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: False))
    code, _, err = ovdet("needy")
    assert code == 2 and "ovdet doctor --fix" in err and err.count("\n") == 1 and not without_detectron2


@pytest.mark.parametrize(("answer", "code", "times"), [("y", 0, 1), ("", 2, 0), ("no", 2, 0)])
def test_detectron2_is_installed_where_the_user_says_so(ovdet, without_detectron2, monkeypatch, answer, code, times):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda: answer)
    assert ovdet("needy")[0] == code and len(without_detectron2) == times


def test_another_missing_package_is_no_matter_of_detectron2(ovdet, without_detectron2, monkeypatch):
    def run(arguments):
        raise ModuleNotFoundError("No module named 'zzz'", name="zzz")

    monkeypatch.setattr(sys.modules["needy"], "run", run)
    with pytest.raises(ModuleNotFoundError):
        ovdet("needy")


def test_bash_completes_commands_and_options(ovdet, tmp_path):
    code, script, err = ovdet("completion", "bash")
    assert code == 0, err
    (tmp_path / "ovdet.bash").write_text(script)
    ask = (
        "source ovdet.bash; f=$(complete -p ovdet | sed 's/.*-F \\([^ ]*\\).*/\\1/'); "
        "COMP_WORDS=(ovdet det); COMP_CWORD=1; $f; echo ${COMPREPLY[@]}; "
        "COMP_WORDS=(ovdet detect --cla); COMP_CWORD=2; $f; echo ${COMPREPLY[@]}"
    )
    run = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True)
    first, second = run.stdout.splitlines()
    assert first == "detect" and set(second.split()) == {"--classes", "--class-agnostic-iou"}, run.stderr


def test_zsh_gets_a_function(ovdet):
    code, script, _ = ovdet("completion", "zsh")
    assert code == 0 and script.startswith("#compdef ovdet") and "--class-agnostic-iou" in script
