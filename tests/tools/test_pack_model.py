"""Packing a trained model as a user does, to be used by the next one who gets the folder."""

import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

QUICK = "configs/quick/vild.py"
ANY_SCORE = "model.roi_heads.box_predictor.test_score_thresh=-1"  # four steps of training find nothing yet


@pytest.fixture
def card(tmp_path):
    path = tmp_path / "card.md"
    path.write_text("# Quick\n\nDrawn shapes, CC0.\n", encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_packed_run_is_passed_on(trained, card, run_tool, tmp_path):
    folder = tmp_path / "passed/on"
    code, out, err = run_tool("pack_model.py", "--model", trained.output, "--card", card, "--output", folder, ANY_SCORE)
    assert code == 0, err
    files = {file.name: file.stat().st_size for file in folder.iterdir()}
    assert set(files) == {"config.json", "model.safetensors", "names.safetensors", "README.md"}
    assert out.strip() == f"{folder}: {sum(files.values()) / 1e6:.1f} MB, names by teacher conse"
    assert (folder / "README.md").read_bytes() == card.read_bytes()
    content = json.loads((folder / "config.json").read_text())
    assert content["model"]["region_source"] is None and content["model"]["roi_heads"]["objectives"] == []
    assert str(trained.output.parent) not in json.dumps(content)  # nothing of whose machine it was

    photos = tmp_path / "photos"
    photos.mkdir()
    for file in sorted((trained.output.parent / "data/images").iterdir())[:3]:
        shutil.copy(file, photos)
    found = {}
    for model, more in ((folder, ()), (trained.output, (ANY_SCORE,))):
        code, _, err = run_tool(
            "demo.py", "--input", photos, "--vocabulary", "red square, wheel",
            "--output", tmp_path / "out", "--model", model, "--device", "cpu", "--threshold", "0", *more,
        )  # fmt: skip
        assert code == 0, err
        found[model] = json.loads((tmp_path / "out/detections.json").read_text())
    assert len(found[folder]) == 3
    for ours, theirs in zip(*found.values(), strict=True):
        best, expected = ours["detections"][0], theirs["detections"][0]
        assert best["score"] == pytest.approx(expected["score"], abs=1e-2)
        assert abs(len(ours["detections"]) - len(theirs["detections"])) <= 10


def test_a_folder_may_be_packed_again(trained, card, run_tool, tmp_path):
    """With another threshold, say; in its own place."""
    given = ("--config-file", QUICK, "--weights", trained.output / "model_final.pth")
    code, _, err = run_tool("pack_model.py", *given, "--card", card, "--output", tmp_path / "model", *trained.overrides)
    assert code == 0, err
    before = json.loads((tmp_path / "model/config.json").read_text()), load_file(tmp_path / "model/model.safetensors")
    code, _, err = run_tool(
        "pack_model.py", "--model", tmp_path / "model", "--card", tmp_path / "model/README.md", "--output",
        tmp_path / "model", "model.roi_heads.box_predictor.test_nms_thresh=0.4",
    )  # fmt: skip
    assert code == 0, err
    after = json.loads((tmp_path / "model/config.json").read_text())
    assert after["model"]["roi_heads"]["box_predictor"].pop("test_nms_thresh") == 0.4
    assert after == before[0]
    weights = load_file(tmp_path / "model/model.safetensors")
    assert all(weights[key].equal(value) for key, value in before[1].items()) and len(weights) == len(before[1])


def test_a_full_disk_leaves_an_older_detector(trained, card, run_tool, tmp_path, monkeypatch):
    given = ("pack_model.py", "--model", trained.output, "--card", card, "--output", tmp_path / "model")
    assert run_tool(*given)[0] == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    code, _, err = run_tool(*given, "model.roi_heads.box_predictor.test_nms_thresh=0.4")
    assert code == 2 and "No space left on device" in err.strip().splitlines()[-1]
    assert {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()} == before


def test_a_packed_run_is_pushed(trained, card, run_tool, tmp_path, monkeypatch):
    """To a hub that is none: the folder is there already, its card says what the hub lists models by."""
    uploaded = {}

    class FakeHub:
        def __init__(self, **named):
            pass

        def create_repo(self, repository, **named):
            if repository.startswith("them/"):
                raise OSError("403 Forbidden: no rights")

        def upload_folder(self, *, folder_path, **named):
            uploaded.update({file.name: file.read_bytes() for file in Path(folder_path).iterdir()})
            return SimpleNamespace(oid="abc123", commit_url="https://hub/commit/abc123")

    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_none")
    given = ("pack_model.py", "--model", trained.output, "--card", card, "--output", tmp_path / "model")
    code, out, err = run_tool(*given, "--push", "me/quick", "--license", "cc0-1.0")
    assert code == 0, err
    assert out.splitlines()[-1] == "hf://me/quick@abc123: https://hub/commit/abc123"
    assert uploaded == {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()} and len(uploaded) == 4
    text = uploaded["README.md"].decode()
    assert "license: cc0-1.0" in text and text.endswith(card.read_text())
    code, _, err = run_tool(*given, "--push", "them/quick")
    assert code == 2 and "403 Forbidden" in err.strip().splitlines()[-1] and (tmp_path / "model/config.json").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": None}, "one of the two"),
        ({"--config-file": QUICK}, "one of the two"),
        ({"--model": "nowhere"}, "got nowhere"),
        ({"--model": None, "--config-file": QUICK, "--weights": "nowhere.pth"}, "nowhere.pth does not exist"),
        ({"--card": "nowhere.md"}, "expected a model card, nowhere.md cannot be read"),
        ({"--card": "junk"}, "cannot be read"),
        ({"--output": "file/below"}, "place to write to"),
        ({"more": "--private"}, "--private and --license with --push"),
        ({"--license": "mit"}, "--private and --license with --push"),
        ({"--push": "birds"}, "OWNER/NAME to push to, got 'birds'"),
        ({"more": "model.roi_headz.x=1"}, "roi_headz"),
        ({"more": "teacher.width=512"}, "512"),
        ({"more": "dataloader.test.mapper.augmentations=[]"}, "ResizeShortestEdge"),
    ],
)
def test_bad_input(trained, card, run_tool, tmp_path, change, message):
    (tmp_path / "junk").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "file").write_text("")
    given = {"--model": trained.output, "--card": card, "--output": tmp_path / "model", **change}
    more = [given.pop("more")] if "more" in given else []
    for option, value in given.items():
        if value in ("junk", "file/below"):
            given[option] = tmp_path / value
    flags = [part for option, value in given.items() if value is not None for part in (option, value)]
    code, _, err = run_tool("pack_model.py", *flags, *more)
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ") and message in last and "Traceback" not in err, err[-2000:]
    assert not (tmp_path / "model").exists()
