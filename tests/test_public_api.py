"""The public names resolve, the facade is light, unknown names say what there is."""

import importlib.metadata
import subprocess
import sys

import pytest

import ovdet


@pytest.mark.parametrize("name", ovdet.__all__)
def test_public_names_resolve(name):
    assert getattr(ovdet, name) is not None
    assert name in dir(ovdet)


def test_unknown_names():
    with pytest.raises(AttributeError, match="OpenVocabPredictor"):
        ovdet.Predictor  # noqa: B018


@pytest.mark.parametrize(
    ("module", "absent"),
    [("ovdet", ("torch", "detectron2")), ("ovdet.objectives", ("detectron2", "timm")),
     ("ovdet.text", ("detectron2", "open_clip", "sentence_transformers"))],
)  # fmt: skip
def test_imports_are_light(module, absent):
    code = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_version_is_the_packages():
    assert importlib.metadata.version("ovdet") == ovdet.__version__
