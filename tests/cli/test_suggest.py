"""`ovdet evaluate --suggest-thresholds` on photos without annotations."""

from __future__ import annotations

import pytest

from ovdet.learning.classes_file import load_classes


def test_thresholds_without_annotations(tiny_files, ovdet, striped, tmp_path):
    (tmp_path / "names.txt").write_text("red circle\nwheel\n")
    asked = ["--images", striped, "--output", tmp_path / "out", "--vocabulary", tmp_path / "names.txt"]
    detector = [*tiny_files.arguments, *tiny_files.overrides]
    code, out, err = ovdet("evaluate", *asked, "--suggest-thresholds", *detector)
    assert code == 0 and "a guess from scores alone" in out, err[-2000:]
    lines = (tmp_path / "out/thresholds.csv").read_text().splitlines()
    assert lines[0] == "class,threshold,photos" and [line.split(",")[0] for line in lines[1:]] == [
        "red circle",
        "wheel",
    ]
    own = load_classes(tmp_path / "out/classes.safetensors").own_thresholds.tolist()
    for line, threshold in zip(lines[1:], own, strict=True):
        _, written, share = line.split(",")
        assert float(written) == pytest.approx(threshold, abs=1e-4) and 0 < float(share) <= 1
    for more, message in (
        ([], "--annotations"),
        (["--suggest-thresholds", "--precision", "0.9"], "--annotations with --precision"),
    ):
        code, _, err = ovdet("evaluate", *asked, *more, *detector)
        assert code == 2 and message in err.strip().splitlines()[-1]
