"""A command that is refused leaves nothing behind: neither a file nor a folder, not even an empty one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ovdet.class_embeddings import ClassEmbeddings, LearnedRows
from ovdet.learning.classes_file import save_classes

DATA = ["--annotations", "{photos}/my.json", "--images", "{photos}"]
DETECTOR = ["{detector}"]
TRAIN = ["--config-file", "configs/quick/vild.py", "dataset.root={data}", "train.output_dir={out}", "train.max_iter=1"]
QUIET = [
    "dataset.name=refused",
    "dataset.prepare.num_train=4",
    "dataset.prepare.num_val=2",
    "dataloader.train.total_batch_size=2",
]
# by command, what it is given; "{detector}", "{out}" and folders are filled in
FAULTS = {
    "evaluate": [
        ["--annotations", "gone.json", "--images", "{photos}", *DETECTOR],
        ["--annotations", "{bad}/text.json", "--images", "{photos}", *DETECTOR],
        ["--annotations", "{bad}/list.json", "--images", "{photos}", *DETECTOR],
        ["--annotations", "{bad}/nan.json", "--images", "{photos}", *DETECTOR],
        ["--annotations", "{photos}/my.json", "--images", "gone", *DETECTOR],
        ["--annotations", "{photos}/my.json", "--images", "{bad}", *DETECTOR],
        ["--images", "{photos}", *DETECTOR],
        [*DATA, "--split", "gone.json", *DETECTOR],
        [*DATA, "--vocabulary", "gone.txt", *DETECTOR],
        [*DATA, "--vocabulary", "{bad}/unicorn.txt", *DETECTOR],
        [*DATA, "--classes", "gone.safetensors", *DETECTOR],
        [*DATA, "--classes", "{bad}/another.safetensors", *DETECTOR],
        [*DATA, "--classes", "{bad}/text.json", *DETECTOR],
        [*DATA, "--teacher", "conse:lite0", *DETECTOR],
        [*DATA, "--device", "cuda:7", *DETECTOR],
        [*DATA, "--masks", *DETECTOR],
        [*DATA, "--precision", "0.5", *DETECTOR],
        [*DATA, "--half", "--runtime", "onnx", *DETECTOR],
        [*DATA, "--exported", "gone.onnx", *DETECTOR],
        [*DATA, "--exported", "gone.onnx", "--runtime", "onnx", *DETECTOR],
        [*DATA, "--model", "gone"],
        [*DATA, "--config-file", "configs/quick/vild.py", "--weights", "gone.pth"],
        [*DATA, "--config-file", "configs/quick/vild.py", "--weights", "{bad}/text.json"],
        ["--images", "gone", "--suggest-thresholds", "--vocabulary", "{bad}/unicorn.txt", *DETECTOR],
        ["--images", "{bad}", "--suggest-thresholds", "--vocabulary", "{bad}/unicorn.txt", *DETECTOR],
        ["--images", "{photos}", "--suggest-thresholds", "--classes", "{bad}/another.safetensors", *DETECTOR],
    ],
    "train": [
        [*TRAIN, *QUIET, "dataset.train={bad}/text.json"],
        [*TRAIN, *QUIET, "dataset.train={bad}/list.json"],
        [*TRAIN, *QUIET, "dataset.split={bad}/list.json"],
        [*TRAIN, *QUIET, "train.init_checkpoint=gone.pth"],
        [*TRAIN, *QUIET, "train.init_checkpoint={bad}/text.json"],
        [*TRAIN, *QUIET, "train.freeze=nothing"],
        [*TRAIN, *QUIET, "train.init_parts=nothing", "train.init_checkpoint={weights}"],
        [*TRAIN, *QUIET, "train.no_option=1"],
        [*TRAIN, *QUIET, "teacher.name=nobody"],
        [*TRAIN, *QUIET, "dataloader.train.total_batch_size=0"],
        [*TRAIN, *QUIET, "train.device=cuda:7"],
    ],
    "extract": [
        [*TRAIN[:3], *QUIET, "--output", "{out}"],
        [*TRAIN[:3], *QUIET, "--output", "{out}", "--proposals", "ground-truth", "--teacher", "nobody"],
        [*TRAIN[:3], *QUIET, "--output", "{out}", "--weights", "{bad}/text.json"],
        [*TRAIN[:3], *QUIET, "--output", "{out}", "--weights", "{bad}/closed.pth"],
        [*TRAIN[:2], "--output", "{out}", "--annotations", "{bad}/text.json", "--images", "{photos}"],
        [*TRAIN[:2], "--output", "{out}", "--annotations", "{photos}/my.json", "--images", "gone"],
        [*TRAIN[:3], *QUIET, "--output", "{out}", "--proposals", "file", "--proposal-file", "{bad}/list.json"],
        [*TRAIN[:3], *QUIET, "--output", "{out}", "--proposals", "ground-truth", "--proposal-file", "{photos}/my.json"],
        [*TRAIN[:3], *QUIET, "--output", "{out}", "--proposals", "ground-truth", "--proposal-classes", "dog"],
    ],
    "detect": [
        ["{photos}/gone.png", "--names", "dog", *DETECTOR],
        ["{bad}/empty.png", "--names", "dog", *DETECTOR],
        ["{bad}/empty.mp4", "--names", "dog", *DETECTOR],
        ["{photos}/0.png", "--names", "gone.txt", *DETECTOR],
        ["{photos}/0.png", "--classes", "{bad}/another.safetensors", *DETECTOR],
        ["{photos}/0.png", "--exemplar", "dog={photos}/1.png[9,9,9,9]", *DETECTOR],
        ["{photos}/0.png", "--exemplar", "dog={photos}/1.png[nan,0,9,9]", *DETECTOR],
        ["{photos}/0.png", "--names", "dog", "--threshold", "nan", *DETECTOR],
        ["{photos}/0.png", "--names", "dog", "--weights", "{bad}/text.json", "--config-file", "configs/quick/vild.py"],
    ],
    "label": [
        ["gone", "--names", "dog", *DETECTOR],
        ["{bad}/data", "--names", "dog", *DETECTOR],
        ["{photos}", "--names", "gone.txt", *DETECTOR],
        ["{photos}", "--classes", "{bad}/another.safetensors", *DETECTOR],
        ["{photos}", "--names", "dog", "--thresholds", "cow=0.5", *DETECTOR],
        ["{photos}", "--names", "dog", "--missing", "{bad}/nan.json", *DETECTOR],
        ["{photos}", "--names", "dog", "--missing", "gone.json", *DETECTOR],
    ],
    "track": [
        ["gone.mp4", "--names", "dog", *DETECTOR],
        ["{bad}/empty.mp4", "--names", "dog", *DETECTOR],
        ["{bad}/empty.mp4", "--names", "dog", "--line", "nan,0,1,1", *DETECTOR],
    ],
    "describe": [["{photos}/0.png", *DETECTOR], ["gone.png", *DETECTOR]],
    "learn": [
        ["--annotations", "gone.json", "--images", "{photos}", *DETECTOR],
        ["--annotations", "{bad}/nan.json", "--images", "{photos}", *DETECTOR],
        ["--annotations", "{bad}/infinite.json", "--images", "{photos}", *DETECTOR],
        ["--annotations", "{bad}/no_box.json", "--images", "{photos}", *DETECTOR],
        ["--annotations", "{photos}/my.json", "--images", "{bad}", *DETECTOR],
        [*DATA, "--name", "cow", *DETECTOR],
        [*DATA, "--negatives-from", "gone.json", *DETECTOR],
        [*DATA, "--set", "{photos}/my.json={photos}", *DETECTOR],
        [*DATA, "--negatives-images", "{photos}", *DETECTOR],
        ["--set", "{photos}/my.json={photos}", "--negatives-images", "{photos}", *DETECTOR, "--output", "{out}"],
        ["--annotations", "{photos}/my.json", *DETECTOR],
        ["--set", "{photos}/my.json", *DETECTOR, "--output", "{out}"],
        ["--set", "gone.json={photos}", *DETECTOR, "--output", "{out}"],
        ["--set", "{bad}/nan.json={photos}", *DETECTOR, "--output", "{out}"],
        ["--set", "{photos}/my.json={bad}", *DETECTOR, "--output", "{out}"],
        ["--set", "{bad}/no_box.json={photos}", *DETECTOR, "--output", "{out}"],
        ["--set", "{photos}/my.json={photos}", "--name", "cow", *DETECTOR, "--output", "{out}"],
        ["--set", "{photos}/my.json={photos}", "--card", "gone.md", *DETECTOR, "--output", "{out}"],
        ["--set", "{photos}/my.json={photos}", "--compare", *DETECTOR, "--output", "{out}"],
        [*DATA, *DETECTOR, "--output", "{out}.txt"],
    ],
    "few-shot": [
        ["--annotations", "gone.json", "--images", "{photos}", *DETECTOR],
        ["--annotations", "{bad}/list.json", "--images", "{photos}", *DETECTOR],
        ["--annotations", "{photos}/my.json", "--images", "{bad}", *DETECTOR],
        [*DATA, "--shots", "0", *DETECTOR],
        [*DATA, "--fine-tune", "1", "--config-file", "configs/quick/vild.py", "--weights", "{bad}/text.json"],
        [*DATA, "--fine-tune", "1", *DETECTOR, "train.no_option=1"],
        [*DATA, "--fine-tune", "0", *DETECTOR],
        ["--annotations", "{bad}/broken.json", "--images", "{bad}", *DETECTOR],
    ],
    "calibrate": [
        ["--set", "gone.json={photos}", "--model", "ovdet-lite-base48"],
        ["--set", "{bad}/nan.json={photos}", "--model", "ovdet-lite-base48"],
        ["--set", "{photos}/my.json={bad}", "--model", "ovdet-lite-base48"],
        ["--set", "{photos}/my.json={photos}", "--model", "ovdet-lite-base48", "--card", "gone.md"],
        ["--set", "{photos}/my.json={photos}", "--model", "gone"],
    ],
    "average": [
        ["--before", "gone.pth", "--after", "{weights}"],
        ["--before", "{weights}", "--after", "{bad}/text.json"],
        ["--before", "{weights}", "--after", "{bad}/closed.pth"],
        ["--before", "{weights}", "--after", "{weights}", "--share", "nan"],
        ["--before", "{weights}", "--after", "{weights}", "--share", "2"],
        ["--before", "{weights}", "--after", "{weights}", "--shares", "1"],
        ["--before", "{weights}", "--after", "{weights}", *DATA],
        ["--before", "{weights}", "--after", "{weights}", "--share", "0.5", "--max-photos", "3"],
    ],
    "export": [
        ["--model", "gone"],
        ["--config-file", "configs/quick/vild.py", "--weights", "{bad}/text.json"],
        ["--config-file", "configs/quick/vild.py", "--weights", "{bad}/closed.pth"],
    ],
    "pack": [
        ["--model", "ovdet-lite-base48", "--card", "gone.md"],
        ["--config-file", "configs/quick/vild.py", "--weights", "{bad}/text.json", "--card", "{photos}/my.json"],
        ["--config-file", "configs/quick/vild.py", "--weights", "{bad}/closed.pth", "--card", "{photos}/my.json"],
    ],
    "convert": [["--weights", "gone.pth"], ["--weights", "{bad}/text.json"], ["--weights", "{bad}/closed.pth"]],
    "embed": [
        ["--vocabulary", "gone.txt"],
        ["--vocabulary", "dog", "--teacher", "nobody"],
        ["--vocabulary", "dog", "--convert", "{bad}/text.json", "--teacher", "conse", "--prompt", "a {{}}"],
    ],
    "teacher": [
        ["probe", "conse", "--annotations", "{bad}/nan.json", "--images", "{photos}"],
        ["probe", "conse", "--photos", "gone"],
        ["map", "conse", "--photos", "{bad}"],
        ["map", "nobody", *DATA],
        ["zero-shot", "conse", *DATA, "--vocabulary", "gone.txt"],
    ],
}
SUFFIX = {"learn": ".safetensors", "embed": ".safetensors", "average": ".pth", "export": ".onnx"}


@pytest.fixture(scope="module")
def bad(striped, tmp_path_factory) -> Path:
    """Files that something is wrong with; nobody writes there afterwards."""
    folder = tmp_path_factory.mktemp("bad")
    content = json.loads((striped / "my.json").read_text())
    first = content["annotations"][0]
    for name, box in (("nan", [float("nan"), 1, 2, 3]), ("infinite", [1, 1, float("inf"), 3])):
        annotations = [{**first, "bbox": box}, *content["annotations"][1:]]
        (folder / f"{name}.json").write_text(json.dumps({**content, "annotations": annotations}))
    no_size = [{**each, "bbox": [*each["bbox"][:3], 0]} for each in content["annotations"]]
    (folder / "no_box.json").write_text(json.dumps({**content, "annotations": no_size}))
    for image in content["images"]:
        (folder / f"broken_{image['file_name']}").write_bytes(b"")
    broken = [{**image, "file_name": f"broken_{image['file_name']}"} for image in content["images"]]
    (folder / "broken.json").write_text(json.dumps({**content, "images": broken}))
    for name, text in (("text.json", "{"), ("list.json", "[]"), ("unicorn.txt", "unicorn\n")):
        (folder / name).write_text(text)
    for name in ("empty.png", "empty.mp4"):
        (folder / name).write_bytes(b"")
    (folder / "data").mkdir()
    torch.save({"model": {"weight": torch.ones(2, 2)}}, folder / "closed.pth")
    rows = LearnedRows(torch.ones(1, 8), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    no_ids, no_base = torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool)
    other = ClassEmbeddings(torch.zeros(0, 384), no_ids, ("zebra crossing",), no_base, rows, detector="0123", texts=())
    save_classes(folder / "another.safetensors", other)
    return folder


@pytest.fixture(scope="module")
def data(built_once) -> Path:
    """A small data set for training."""
    from ovdet.data.synthetic import build_synthetic

    return built_once("refused", lambda folder: build_synthetic(folder, num_train=4, num_val=2))


CASES = [(command, words) for command, of_command in FAULTS.items() for words in of_command]


@pytest.mark.parametrize(
    ("command", "words"), CASES, ids=[f"{each}-{number}" for number, (each, _) in enumerate(CASES)]
)
def test_a_refused_command_leaves_nothing(ovdet, tiny_files, striped, bad, data, tmp_path, monkeypatch, command, words):
    monkeypatch.chdir(Path(__file__).parents[2])
    has_own_output = any("{out}" in word for word in words)
    out = tmp_path / f"new/out{'' if has_own_output else SUFFIX.get(command, '')}"
    files = {"photos": striped, "bad": bad, "data": data, "weights": tiny_files.arguments[-1], "out": out}
    detector = [*tiny_files.arguments, *tiny_files.overrides]
    if command == "track":  # its overrides are an option
        detector.insert(len(tiny_files.arguments), "--set")
    line = []
    for word in words:
        line += detector if word == "{detector}" else [word.format(**files)]
    if not has_own_output:
        line += ["--output", str(out)]
    given = [bad, striped, data]
    before = [sorted(folder.rglob("*")) for folder in given]
    code, _, err = ovdet(command, *line)
    assert code == 2 and err.strip().splitlines()[-1].startswith("error: ") and "Traceback" not in err, err[-2000:]
    assert list(tmp_path.iterdir()) == [] and before == [sorted(folder.rglob("*")) for folder in given]
