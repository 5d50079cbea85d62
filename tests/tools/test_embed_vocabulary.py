"""tools/embed_vocabulary.py as a user runs it."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ovdet.text.embeddings import load_embeddings

TOOL = Path(__file__).resolve().parents[2] / "tools" / "embed_vocabulary.py"
CLIP = "open_clip:ViT-B-32/openai"


def run(monkeypatch, *arguments: object) -> int:
    """Run the tool in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
    try:
        runpy.run_path(str(TOOL), run_name="__main__")
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["here", "apart"])
def test_names_become_a_file_of_their_embeddings(tmp_path, conse_teacher, run_tool, apart):
    """Also by another process, whose fingerprint it then has."""
    output = tmp_path / "animals.safetensors"
    words = ["--vocabulary", "cat, Kühlschrank, red kite", "--output", str(output)]
    if apart:
        done = subprocess.run([sys.executable, TOOL, *words], capture_output=True, text=True, cwd=TOOL.parents[1])
        code, out, err = done.returncode, done.stdout, done.stderr
    else:
        code, out, err = run_tool("embed_vocabulary.py", *words)
    assert code == 0, err
    assert out == f"{output}: 3 classes, width 384, teacher conse, 1 template\n"
    assert err == ""
    loaded = load_embeddings(output, teacher=conse_teacher)
    expected = conse_teacher.encode_text(["a cat", "a kühlschrank", "a red kite"])
    assert loaded.names == ("cat", "Kühlschrank", "red kite")
    torch.testing.assert_close(loaded.matrix, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vocabulary", ""], "expected one class name or more, got none"),
        (["--vocabulary", "cat,Cat"], "got 'cat' and 'Cat', which read alike"),
        (["--vocabulary", "missing.txt"], "missing.txt: No such file"),
        (["--vocabulary", "cat", "--teacher", "clip"], "expected a teacher"),
        (["--vocabulary", "cat", "--templates", "foto"], "expected templates a, photo, vild, clip or text"),
        (["--vocabulary", "cat", "--prompt", "a {}"], "expected --templates, got --prompt"),
        (["--vocabulary", "cat", "--device", "cuda:99"], "CUDA devices here"),
        (["--vocabulary", "cat", "--convert", "x.npy"], "expected --teacher and --prompt with --convert"),
        (
            ["--vocabulary", "cat", "--convert", "x.npy", "--teacher", CLIP, "--prompt", "a {}"],
            "got x.npy, which cannot",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments, "--output", "out.safetensors") == 2
    told = capsys.readouterr()
    assert told.out == "" and message in told.err
    assert told.err.startswith("error: ") and told.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_output_must_be_safetensors(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "--vocabulary", "cat", "--output", tmp_path / "cat.npy") == 2
    assert "expected --output to end in .safetensors" in capsys.readouterr().err


def test_pickles_are_not_read(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    arguments = ["--convert", tmp_path / "x.npy", "--teacher", CLIP, "--prompt", "a {}", "--vocabulary", "cat"]
    assert run(monkeypatch, *arguments, "--output", tmp_path / "out.safetensors") == 2
    assert "which cannot be read as one" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(("file", "count"), [("coco_clip_a+cname.npy", 80), ("lvis_v1_clip_a+cname.npy", 1203)])
def test_detics_matrices_become_vocabularies(shared_data, tmp_path, monkeypatch, capsys, file, count):
    if count == 80:
        categories = json.loads((shared_data / "coco_pool" / "instances_val.json").read_text())["categories"]
    else:
        categories = pytest.importorskip("detectron2.data.datasets.lvis_v1_categories").LVIS_CATEGORIES
    names = [category["name"] for category in sorted(categories, key=lambda category: category["id"])]
    vocabulary, output = tmp_path / "names.json", tmp_path / "out.safetensors"
    vocabulary.write_text(json.dumps(names))
    source = shared_data / "clip_text_embeddings" / file
    arguments = ["--convert", source, "--vocabulary", vocabulary, "--teacher", CLIP, "--prompt", "a {}"]
    assert run(monkeypatch, *arguments, "--output", output) == 0
    assert capsys.readouterr().out == f"{output}: {count} classes, width 512, teacher {CLIP}, 1 template\n"
    loaded = load_embeddings(output, width=512)
    assert loaded.matrix.shape == (count, 512) and loaded.names == tuple(names)
    torch.testing.assert_close(loaded.matrix.norm(dim=1), torch.ones(count), rtol=0, atol=1e-5)
