"""The report of all benchmarks: files, the page made of them, the command as a user runs it."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from ovdet.benchmarks import suite
from ovdet.benchmarks.detectors import batches_of, owl, rows_of
from ovdet.benchmarks.memory import Peak
from ovdet.benchmarks.timing import Row
from ovdet.errors import InputError

ROOT = Path(__file__).parents[2]


def report(load: float = 0.0, device: str = "a processor") -> suite.Report:
    rows = [Row("a photo", 0.05, "another", 0.1, 0.025, "cpu", 0.25), Row("a photo alone", 2.0)]
    facts = dict(version="1.0", commit="abc", date="2026-01-02", torch="2.0", python="3.12", command="ovdet benchmark")
    section = suite.Section("Detectors", "What they are.", rows)
    return suite.Report(format=suite.FORMAT, device=device, cores=2, load=load, sections=[section], **facts)


def test_the_page_has_a_chapter_for_each_file(ovdet, tmp_path):
    files = tmp_path / "a.json", tmp_path / "b.json"
    for file, each in zip(files, (report(), report(7.5, "a GPU")), strict=True):
        suite.write_report(each, file)
        assert suite.read_report(file) == each
    code, out, err = ovdet("benchmark", "--page", tmp_path / "page.md", *files)
    assert (code, out, err) == (0, "", "")
    first, _, second = (tmp_path / "page.md").read_text().partition("## a GPU")
    assert "| a photo | 50 ms | another | 100 ms | 25 ms | 2.00 | 0.50 | 25% |" in first
    assert "| a photo alone | 2 s |  |  |  |  |  | 0% |" in second
    assert "loaded" not in first and "load average 7.5" in second and "2026-01-02" in second and "(abc)" in second


def test_memory_is_a_table_of_its_own(tmp_path):
    found = report(load=7.5)
    found.sections = [suite.Section("Memory", "Peaks.", peaks=[Peak("a large photo", 1234.5, 2000.0)])]
    suite.write_report(found, tmp_path / "f.json")
    page = suite.page([suite.read_report(tmp_path / "f.json")])
    assert "| a large photo | 1,234 MiB | 2,000 MiB |" in page and "peer | |" not in page
    assert "loaded" not in page, "load changes times alone"


def test_some_parts_alone(monkeypatch):
    """As they are asked for; the detectors are left out."""
    asked = []

    def find(name):
        def run(arguments):
            asked.append((name.rpartition(".")[2], arguments))
            return [Peak("x", 1.0, 2.0)] if name.endswith("memory") else [Row("x", 1.0)]

        add = importlib.import_module(name).add_arguments
        return SimpleNamespace(add_arguments=add, run=run)

    monkeypatch.setattr(suite, "importlib", SimpleNamespace(import_module=find))
    given = dict(rounds=5, device="cpu", command="ovdet benchmark")
    found = suite.measure(parts=["stream", "memory", "start"], detectors=False, **given)
    assert [section.title for section in found.sections] == [
        "A folder of photos",
        "Memory",
        "From the shell to the first box",
    ]
    assert [name for name, _ in asked] == ["stream", "memory", "start"]
    assert asked[0][1].rounds == 3 and asked[0][1].device == "cpu" and asked[1][1].names == 1_000_000


def test_the_command_writes_what_it_measured(ovdet, monkeypatch, tmp_path):
    """Of the detectors and what was asked for; the command is written without the folders of this machine."""
    asked = {}

    def run(**given):
        asked.update(given)
        return [Row("a photo", 0.05, "another", 0.1)]

    monkeypatch.setattr(suite, "run_detectors", run)
    (tmp_path / "yolox.onnx").write_bytes(b"")
    words = ("--rounds", 2, "--device", "cpu", "--yolox", tmp_path / "yolox.onnx", "--output", tmp_path / "f.json")
    code, out, err = ovdet("benchmark", *words)
    assert code == 0, err
    assert "another" in out and asked["rounds"] == 2 and asked["large_peers"] is False
    found = suite.read_report(tmp_path / "f.json")
    assert found.command == "ovdet benchmark --rounds 2 --device cpu --yolox yolox.onnx --output f.json"
    assert [section.rows for section in found.sections] == [[Row("a photo", 0.05, "another", 0.1)]]


def test_a_copy_without_git(monkeypatch):
    def fail(*given, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(suite.subprocess, "run", fail)
    assert suite._commit() == ""


def test_the_documentations_page_is_made_of_its_files():
    files = sorted((ROOT / "docs/benchmarks").glob("*.json"))
    expected = suite.page([suite.read_report(file) for file in files])
    assert files and (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8") == expected


def test_bad_input(ovdet, tmp_path):
    (tmp_path / "other.json").write_text('{"format": "something"}')
    (tmp_path / "broken.json").write_text("{")
    for words, message in (
        (("--rounds", 0), "at least 1, got 0"),
        (("--all", "--parts", "start"), "--all or --parts"),
        (("--page", tmp_path / "page.md"), "--page F.md and files"),
        ((tmp_path / "other.json",), "--page F.md and files"),
        (("--page", tmp_path / "page.md", tmp_path / "other.json"), "other.json"),
        (("--page", tmp_path / "page.md", tmp_path / "broken.json"), "broken.json is not json"),
        (("--page", tmp_path / "page.md", tmp_path / "none.json"), "none.json, which cannot be read"),
        (("--yolox", "/nowhere.onnx"), "/nowhere.onnx does not exist"),
        (("--output", tmp_path / "no/such/f.json"), "expected a folder to write to"),
        (("--device", "abacus"), "abacus"),
    ):
        code, _, err = ovdet("benchmark", *words)
        assert code == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "page.md").exists()
    written = suite.write_report(report(), tmp_path / "f.json") or json.loads((tmp_path / "f.json").read_text())
    written["format"] = "ovdet benchmarks 0"
    (tmp_path / "f.json").write_text(json.dumps(written))
    with pytest.raises(InputError, match="ovdet benchmarks 0"):
        suite.read_report(tmp_path / "f.json")


def test_rows_are_ratios_within_one_run():
    seconds = {"ours 80": [0.1, 0.2, 0.12], "ours 1203": [0.2], "limit": [0.06], "whole call": [0.15]}
    seconds |= {"detectron2 80": [0.24], "detectron2 1203": [0.6], "torchvision": [0.03], "half": [0.06]}
    rows = rows_of(seconds, "cpu")
    assert [round(row.speedup, 2) for row in rows] == [2.0, 3.0, 0.25, 0.8, 2.0]
    assert rows[0].of_limit == pytest.approx(0.5) and rows[0].spread == pytest.approx(0.1 / 0.12)
    peers = [row.peer.partition(" ")[0] for row in rows_of({**seconds, "YOLOX": [0.01], "OWLv2": [9.0]}, "cpu")]
    assert peers == ["Faster", "the", "fasterrcnn_mobilenet_v3_large_320_fpn", "OWLv2-base", "YOLOX-nano's"] + [
        "the",
        "ovdet-lite,",
        "YOLOX-nano's",
    ]
    int8 = [
        row for row in rows_of({**seconds, "openvino int8": [0.04], "YOLOX": [0.01]}, "cpu") if "8 bits" in row.case
    ]
    assert [round(row.speedup, 2) for row in int8] == [3.0, 0.25]
    graphs = [row for row in rows_of({**seconds, "graphs half 16": [0.004]}, "cpu") if "graphs" in row.case]
    assert [(row.case.partition(", ")[2], row.speedup) for row in graphs] == [
        ("80 names, CUDA graphs, half precision, a photo in batches of 16", pytest.approx(30))
    ]


def test_graphs_are_recorded_before_they_are_timed():
    calls = []
    models = {half: lambda batch, classes, half=half: calls.append((half, len(batch))) for half in (False, True)}
    contenders = batches_of(models, {}, None, sizes=(1, 4))
    assert [*contenders] == ["graphs 1", "graphs 4", "graphs half 1", "graphs half 4"]
    assert calls == [(half, size) for half in (False, True) for size in (1, 4) for _ in range(2)]
    contenders["graphs half 4"]()
    assert calls[-1] == (True, 4) and len(calls) == 9


@pytest.mark.slow
def test_measuring(tmp_path, capsys):
    """All peers, once; the largest of them small."""
    assert owl("cpu", small=True)().logits.shape[-1] == 100
    given = dict(rounds=1, device="cpu", yolox_file="", command="ovdet benchmark")
    found = suite.measure(**given)
    assert len(found.sections) == 1 and all(row.ours_s > 0 and row.peer_s > 0 for row in found.sections[0].rows)
    assert "| Faster R-CNN of detectron2" in capsys.readouterr().out
    suite.write_report(found, tmp_path / "f.json")
    assert suite.read_report(tmp_path / "f.json") == found
