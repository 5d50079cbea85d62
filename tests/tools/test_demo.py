"""The demo as a user runs it: any photo, any names; and all that can be wrong with either."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from streaming import Streaming

from ovdet.inference.detections import Detections
from ovdet.inference.draw import draw_detections
from ovdet.inference.media import Video
from ovdet.inference.photo import to_rgb
from ovdet.inference.video_writer import writing_video
from ovdet.text.classes import parse_negatives
from ovdet.text.embeddings import convert_matrix, embed_vocabulary
from ovdet.text.vocabulary import Vocabulary

QUICK = "configs/quick/vild.py"


@pytest.fixture
def demo(trained, run_tool, tmp_path):
    """Run the demo with the trained weights into tmp_path/out -> exit code, stderr, detections or None."""

    def demo(image, vocabulary="red square, wheel", *more):
        weights = [] if "--weights" in more else ["--weights", trained.output / "model_final.pth"]
        code, _, err = run_tool(
            "demo.py", "--input", image, "--vocabulary", vocabulary, "--output", tmp_path / "out",
            "--config-file", QUICK, "--threshold", "0", *weights, *more, *trained.overrides,
            "model.roi_heads.box_predictor.test_score_thresh=-1",  # four steps of training find nothing yet
        )  # fmt: skip
        found = tmp_path / "out/detections.json"
        return code, err, json.loads(found.read_text()) if found.exists() else None

    return demo


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


def check(row, width, height, names):
    assert (row["width"], row["height"]) == (width, height)
    scores = [d["score"] for d in row["detections"]]
    assert scores == sorted(scores, reverse=True)
    for detection in row["detections"]:
        x1, y1, x2, y2 = detection["box"]
        assert 0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height
        assert detection["label"] in names and 0 <= detection["score"] <= 1


def test_picture_and_json(demo, photo, tmp_path):
    code, err, rows = demo(photo)
    assert code == 0, err
    check(rows[0], 120, 90, {"red square", "wheel"})
    assert rows[0]["detections"]
    picture = Image.open(tmp_path / "out/photo.png")
    assert picture.size[0] >= 120
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["detections.json", "photo.png"]


def test_a_folder_with_a_broken_photo_does_the_others(demo, photo, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "a.png", "c.webp"):
        Image.open(photo).convert("RGB").save(folder / name)
    (folder / "b.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not a photo")
    code, err, rows = demo(folder)
    assert code == 2 and "b.jpg" in err and len(err.strip().splitlines()[-1]) < 400
    assert [row["image"].split("/")[-1] for row in rows] == ["a.jpg", "a.png", "c.webp"]
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_pictures_never_take_the_place_of_photos(demo, photo, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    Image.open(photo).convert("RGB").save(folder / "a.png")
    before = (folder / "a.png").read_bytes()
    code, err, rows = demo(folder / "a.png")
    assert code == 0, err
    assert len(rows) == 1 and (folder / "a.png").read_bytes() == before
    assert sorted(file.name for file in folder.iterdir()) == ["a.png", "a.png.png", "detections.json"]
    code, err, _ = demo(folder)
    assert code == 2 and "expected --output to be another folder than that of the photos" in err
    assert len(list(folder.iterdir())) == 3


@pytest.mark.slow
def test_photos_as_a_shell_finds_them(demo, photo, tmp_path):
    files = [tmp_path / f"{name}.png" for name in "abc"]
    for file in files:
        Image.open(photo).save(file)
    code, err, rows = demo(files[0], "red square", *files[1:])
    assert code == 0, err
    assert [row["image"] for row in rows] == list(map(str, files))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "kind", ["1x1", "16bit", "exif", *(pytest.param(k, marks=SLOW) for k in ("gray", "cmyk", "palette"))]
)
def test_unusual_photos_give_the_right_result(demo, tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80), dtype=np.uint8)
    path, size = tmp_path / f"{kind}.png", (80, 60)
    if kind == "gray":
        Image.fromarray(noise).save(path)
    elif kind == "1x1":
        Image.new("RGB", (1, 1)).save(path)
        size = (1, 1)
    elif kind == "cmyk":
        path = path.with_suffix(".jpg")
        Image.fromarray(np.stack([noise] * 4, axis=2), mode="CMYK").save(path)
    elif kind == "16bit":
        Image.fromarray(noise.astype(np.uint16) * 257).save(path)
    elif kind == "palette":
        Image.fromarray(noise).convert("P").save(path)
    else:
        path, size = path.with_suffix(".jpg"), (60, 80)
        image = Image.fromarray(np.stack([noise] * 3, axis=2))
        exif = image.getexif()
        exif[0x0112] = 6  # turned by a quarter
        image.save(path, exif=exif)
    code, err, rows = demo(path)
    assert code == 0, err
    check(rows[0], *size, {"red square", "wheel"})


def test_synonyms_on_the_command_line(demo, photo):
    code, err, rows = demo(photo, "red square; wheel, blue star")
    assert code == 0, err
    check(rows[0], 120, 90, {"red square", "blue star"})
    assert {d["label"] for d in rows[0]["detections"]} == {"red square", "blue star"}


def test_distractors_are_nothing_that_is_found(demo, photo):
    """They are told apart from what is asked for, as tests/test_predictor.py shows, and take no place."""
    assert parse_negatives(None) is None and parse_negatives(" ") == ()
    assert parse_negatives("wheel; tyre, blue star") == ("wheel", "blue star", "tyre")
    names = ["red square", "wheel", "blue star", "cat"]
    code, err, rows = demo(photo, ",".join(names), "--negatives", "", "--class-agnostic-iou", "1")
    assert code == 0, err
    labels = [d["label"] for d in rows[0]["detections"]]
    name = min(set(labels), key=labels.count)
    asked = [d["box"] for d in rows[0]["detections"] if d["label"] == name]
    names.remove(name)
    code, err, rows = demo(photo, name, "--negatives", "; ".join(names), "--class-agnostic-iou", "1")
    assert code == 0, err
    check(rows[0], 120, 90, {name})
    found = [d["box"] for d in rows[0]["detections"]]
    assert 1 < len(asked) < len(found) and np.allclose(found[: len(asked)], asked, atol=0.02)


@pytest.mark.slow
def test_a_run_by_its_folder_on_the_samples(trained, run_tool, tmp_path):
    """--model instead of config and weights, and no photo of one's own."""
    pytest.importorskip("skimage")
    code, out, err = run_tool(
        "demo.py", "--vocabulary", "cat, cup", "--output", tmp_path / "out", "--model", trained.output,
        "--device", "cpu", "--threshold", "0", "model.roi_heads.box_predictor.test_score_thresh=-1",
    )  # fmt: skip
    assert code == 0, err
    rows = json.loads((tmp_path / "out/detections.json").read_text())
    names = [row["image"].split("/")[-1] for row in rows]
    assert names[:3] == ["chelsea.png", "coffee.png", "motorcycle_left.png"] and names[-1] == "flower.jpg"
    assert all((tmp_path / "out" / name).with_suffix(".png").is_file() and Path(name).stem in out for name in names)
    assert (rows[0]["width"], rows[0]["height"]) == (451, 300)
    for row in rows:
        check(row, row["width"], row["height"], {"cat", "cup"})


def test_names_alone_are_enough(run_tool, tmp_path):
    """No photo, no model: the package's own on scikit-image's. It knows a cat from a dog."""
    code, out, err = run_tool(
        "demo.py", "--vocabulary", "cat; kitten, dog", "--output", tmp_path / "out", "--device", "cpu"
    )
    assert code == 0, err
    rows = json.loads((tmp_path / "out/detections.json").read_text())
    assert rows[0]["image"].endswith("chelsea.png") and rows[0]["detections"][0]["label"] == "cat"


def test_no_photos_of_its_own_without_scikit_image(run_tool, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "skimage" else find(name))
    code, _, err = run_tool("demo.py", "--vocabulary", "cat", "--output", tmp_path / "out")
    assert code == 2 and "pip install scikit-image" in err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model", "nowhere"), "got nowhere"),
        (("--model", "output", "--config-file", QUICK), "one of the two"),
        (("--model", "output", "--weights", "w.pth"), "--config-file with --weights"),
        (("--weights", "w.pth"), "--config-file with --weights"),
        (("--weights", "w.pt2"), "can run code"),
        (("--threshold", "nan"), "--threshold between 0 and 1"),
        (("--class-agnostic-iou", "1.5"), "--class-agnostic-iou between 0 and 1, got 1.5"),
        (("--max-containment", "-1"), "--max-containment between 0 and 1, got -1"),
        (("--input", "nowhere.jpg"), "nowhere.jpg does not exist"),
        (("--input", "configs"), "in configs, got none"),
        (("--vocabulary", "cat; , dog"), "an empty one for class 1"),
        (("--vocabulary", "none.txt"), "none.txt"),
        (("--vocabulary", "configs/lite"), "configs/lite is a folder"),
        (("--vocabulary", "nope.csv"), "a vocabulary file in .txt or .json, got nope.csv"),
        (("--vocabulary", "nope.TXT"), "expected a vocabulary file, got nope.TXT: No such file"),
        (("--negatives", "nope.txt"), "expected a vocabulary file, got nope.txt: No such file"),
        (("--vocabulary", "dog", "bicycle"), '--names "dog, bicycle"'),
        (("--vocabulary", "dog. bicycle. car"), '"dog, bicycle, car"'),
        (("gone.jpg",), "gone.jpg does not exist"),
        (("--input", ""), "got an empty name"),
        (("--output", ""), "expected a file or a folder, got an empty name"),
    ],
)
def test_bad_options_are_one_line(photo, run_tool, tmp_path, more, message):
    code, _, err = run_tool("demo.py", "--input", photo, "--vocabulary", "cat", "--output", tmp_path / "out", *more)
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ") and message in last and "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("negatives", [",", "dog,,bus", "dog; ", "Dog, dog", "d\x07og"])
def test_bad_distractors(demo, photo, tmp_path, negatives):
    code, err, rows = demo(photo, "cat", "--negatives", negatives)
    last = err.strip().splitlines()[-1]
    assert code == 2 and rows is None and last.startswith("error: ") and "Traceback" not in err


@pytest.mark.parametrize(
    "vocabulary",
    ["кошка, 猫, château", "$5$ bill $x_$", *(pytest.param(v, marks=SLOW) for v in ("one name only", "Red Square"))],
)
def test_names_of_any_script(demo, photo, vocabulary):
    code, err, rows = demo(photo, vocabulary)
    assert code == 0, err
    check(rows[0], 120, 90, {name.strip() for name in vocabulary.split(",")})


@pytest.mark.parametrize("number", [130, pytest.param(1203, marks=SLOW)])
def test_many_names(demo, photo, tmp_path, number):
    file = tmp_path / "names.txt"
    file.write_text("\n".join(f"thing number {i}" for i in range(number)))
    code, err, rows = demo(photo, file)
    assert code == 0, err
    assert rows[0]["detections"]
    check(rows[0], 120, 90, {f"thing number {i}" for i in range(number)})


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [("", "name"), (" , ,", "empty"), ("cat, dog, Cat", "cat"), ("x" * 500, "500"), ("a,,b", "empty")],
)
def test_bad_names(demo, photo, tmp_path, vocabulary, message):
    code, err, rows = demo(photo, vocabulary)
    assert code == 2 and rows is None
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ") and message.lower() in last.lower() and len(last) < 300
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["missing", "empty", "broken", "truncated", "folder", "thin"])
def test_bad_photos(demo, photo, tmp_path, kind):
    path = tmp_path / f"{kind}.png"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "broken":
        path.write_bytes(b"\x89PNG" + b"junk" * 30)
    elif kind == "truncated":
        path.write_bytes(photo.read_bytes()[:500])
    elif kind == "folder":
        path.mkdir()
    elif kind == "thin":
        Image.new("RGB", (5000, 1)).save(path)
    code, err, rows = demo(path)
    assert code == 2 and rows is None
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in err
    assert kind == "thin" or path.name in last
    assert not (tmp_path / "out").exists()


def test_options_reach_the_detector(photo, video, run_tool, tmp_path, monkeypatch):
    """And the command says how many of a video's frames could be read."""
    calls = []

    class Spy(Streaming):
        names = ("wheel", "cup")
        training_classes = ("cup",)

        def set_vocabulary(self, vocabulary, negatives):
            calls.append((vocabulary.names, negatives))

        def __call__(self, image, **shown):
            calls.append(shown)
            return Detections(
                np.float32([[10, 10, 50, 50]]), np.float32([0.9]), np.int64([0]), ("cup",), image.shape[:2]
            )

    monkeypatch.setattr("ovdet.inference.load.load_predictor", lambda **chosen: calls.append(chosen) or Spy())
    options = ("--vocabulary", "wheel,cup", "--output", tmp_path / "out")
    faster, limits = ("--half", "--int8", "--compile"), ("--max-containment", "0.7", "--class-agnostic-iou", "0.3")
    more = (*faster, *limits, "--threshold", "0.2")
    code, out, err = run_tool("demo.py", "--input", photo, *options, *more, "--negatives", "dog; cat, bus")
    assert code == 0 and "out/photo.png: 1 detection; best: cup 0.90" in out, err
    chosen, vocabulary, shown = calls
    assert chosen["half"] and chosen["int8"] and chosen["compile"] and chosen["model"] is None
    assert vocabulary == (("wheel", "cup"), ("dog", "bus", "cat"))
    assert shown == {"threshold": 0.2, "class_agnostic_iou": 0.3, "max_containment": 0.7}
    expected = draw_detections(
        to_rgb(photo), np.float32([[10, 10, 50, 50]]), ("cup",), np.float32([0.9]), names=("wheel", "cup")
    )
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/photo.png")), expected)
    clip = replace(Video.open(video), num_frames=25)
    monkeypatch.setattr(Video, "open", lambda path: clip)
    code, out, err = run_tool("demo.py", "--input", video, *options)
    assert code == 0 and out.endswith("out/clip.mp4: 10 of 25 frames; cup in 10\n"), err


@pytest.mark.parametrize(
    ("missed", "told"),
    [
        (
            ("wheel", 0.0312),
            "photo.png: 0 detections; best below the threshold: wheel 0.031, a name that was not trained",
        ),
        (("cup", 0.2), "photo.png: 0 detections; best below the threshold: cup 0.2\n"),
        (None, "photo.png: 0 detections; nothing below the threshold either"),
    ],
)
def test_nothing_found_says_what_lay_below(photo, run_tool, tmp_path, monkeypatch, missed, told):
    class Spy(Streaming):
        names, trained_names = ("wheel", "cup"), ("cup",)

        def set_vocabulary(self, vocabulary, negatives):
            pass

        def __call__(self, image, **shown):
            nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ()
            return Detections(*nothing, image.shape[:2], best_missed=missed)

    monkeypatch.setattr("ovdet.inference.load.load_predictor", lambda **chosen: Spy())
    options = ("--vocabulary", "wheel,cup", "--output", tmp_path / "out")
    code, out, err = run_tool("demo.py", "--input", photo, *options)
    assert code == 0 and told in out, err


@pytest.fixture
def video(tmp_path):
    """Ten frames in half a second, 121 x 90 (which MPEG-4 rounds up): gray, ever lighter."""
    path = tmp_path / "clip.mp4"
    with writing_video(path, 20) as write:
        for level in range(20, 220, 20):
            write(np.full((90, 121, 3), level, dtype=np.uint8))
    return path


@pytest.mark.slow
def test_a_video(demo, video, tmp_path):
    code, err, rows = demo(video)
    assert code == 0, err
    assert [(row["video"], row["frame"], row["seconds"]) for row in rows] == [
        (str(video), number, round(number / 20, 3)) for number in range(10)
    ]
    for row in rows:
        check(row, 122, 90, {"red square", "wheel"})
    annotated = list(Video.open(tmp_path / "out/clip.mp4"))
    assert len(annotated) == 10 and annotated[0].shape[1] == 800  # enlarged, so that names can be read
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["clip.mp4", "detections.json"]


@pytest.mark.parametrize("kind", ["missing", "empty", "junk", "truncated", "folder"])
def test_bad_videos(demo, video, tmp_path, kind):
    path = tmp_path / f"{kind}.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes({"empty": b"", "junk": b"junk" * 99, "truncated": video.read_bytes()[:800]}[kind])
    code, err, rows = demo(path)
    assert code == 2 and rows is None
    assert err.strip().splitlines()[-1].startswith(f"error: expected a video, got {path}")
    assert not (tmp_path / "out").exists()


def test_bad_weights_teacher_threshold_and_output(demo, photo, tiny_clip, tmp_path):
    (tmp_path / "junk.pth").write_bytes(b"junk")
    (tmp_path / "file").write_text("")
    cases = [
        (("--weights", tmp_path / "none.pth"), "does not exist"),
        (("--weights", tmp_path / "junk.pth"), "junk.pth"),
        (("--teacher", "clip"), "'clip'"),
        (("--teacher", "a,b (c"), "'a,b (c'"),
        (("--teacher", f"open_clip:{tiny_clip}/random"), f"open_clip:{tiny_clip}/random"),
        (("--threshold", "7"), "between 0 and 1"),
        (("--output", tmp_path / "file/below"), "file"),
        (("--device", "gpu"), "'gpu'"),
    ]
    for more, message in cases:
        code, err, rows = demo(photo, "cat", *more)
        last = err.strip().splitlines()[-1]
        assert code == 2 and rows is None, more
        assert last.startswith("error: ") and message in last, (more, last)


def test_weights_of_another_width(demo, photo, trained, tmp_path):
    content = torch.load(trained.output / "model_final.pth", weights_only=True)
    content["ovdet"]["width"] = 512
    torch.save(content, tmp_path / "wide.pth")
    code, err, rows = demo(photo, "cat", "--weights", tmp_path / "wide.pth")
    last = err.strip().splitlines()[-1]
    assert code == 2 and rows is None
    assert last == f"error: expected a checkpoint for width 384, got width 512 in {tmp_path}/wide.pth"


def test_a_file_of_embeddings_as_vocabulary(demo, photo, tmp_path, conse_teacher):
    embed_vocabulary(Vocabulary(("red square", "wheel")), conse_teacher).save(tmp_path / "own.safetensors")
    code, err, rows = demo(photo, tmp_path / "own.safetensors")
    assert code == 0, err
    check(rows[0], 120, 90, {"red square", "wheel"})
    assert rows[0]["detections"]
    code, err, as_names = demo(photo, "red square, wheel")
    assert rows == as_names, err  # the same negatives, too


def test_a_vocabulary_file_of_another_teacher(demo, photo, tmp_path):
    clip = convert_matrix(np.eye(512)[:2], ["cat", "dog"], "open_clip:ViT-B-32/openai", ["a {}"])
    clip.save(tmp_path / "clip.safetensors")
    code, err, rows = demo(photo, tmp_path / "clip.safetensors")
    last = err.strip().splitlines()[-1]
    assert code == 2 and rows is None
    assert "'conse'" in last and "'open_clip:ViT-B-32/openai'" in last
