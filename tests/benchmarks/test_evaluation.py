"""The evaluation benchmark as a user runs it, small."""

import json

from ovdet.benchmarks.evaluation import draw_boxes


def test_drawn_boxes(run_tool, tmp_path):
    output = tmp_path / "rows.json"
    code, out, err = run_tool(
        "benchmark.py", "evaluation", "--images", 8, "--classes", 5, "--rounds", 2, "--output", output
    )
    assert code == 0, out + err
    (row,) = json.loads(output.read_text())
    assert row["case"] == "480 detections, 8 images, 5 classes"
    assert row["speedup"] > 1 and row["limit_s"] > 0


def test_files(run_tool, tmp_path):
    for name, content in zip(("truth.json", "found.json"), draw_boxes(4, 3), strict=True):
        (tmp_path / name).write_text(json.dumps(content))
    files = "--annotations", tmp_path / "truth.json", "--detections", tmp_path / "found.json"
    code, out, err = run_tool("benchmark.py", "evaluation", *files, "--rounds", 1, "--output", tmp_path / "rows.json")
    assert code == 0, out + err
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["case"] == "240 detections, 4 images, 3 classes" and row["peer"] == "pycocotools"


def test_bad_input(run_tool, tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty.json").write_text("{}")
    for arguments, message in (
        (("--annotations", tmp_path / "broken.json"), "expected both --annotations and --detections"),
        (("--images", 0), "at least 1"),
        (("--annotations", tmp_path / "broken.json", "--detections", tmp_path / "broken.json"), "expected a json file"),
        (("--annotations", tmp_path / "empty.json", "--detections", tmp_path / "empty.json"), "`images`"),
        (("--annotations", tmp_path / "none.json", "--detections", tmp_path / "none.json"), "expected a json file"),
    ):
        code, _, err = run_tool("benchmark.py", "evaluation", *arguments)
        assert code == 2 and message in err and err.count("\n") == 1
