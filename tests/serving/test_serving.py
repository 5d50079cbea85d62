"""The server by real requests: right answers to many at once, and a clear no to what is wrong."""

import hashlib
import io
import json
import struct
import urllib.error
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ovdet.errors import InputError
from ovdet.learning.classes_file import load_classes
from ovdet.learning.learn import AnnotatedPhoto
from ovdet.serving import app
from ovdet.serving.service import Busy, DetectionService, Limits, UnknownPhoto, parse_names
from ovdet.text.classes import join_classes

MAX_BYTES = 200_000


def png(seed: int, size=(90, 120)) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, format="PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def client(predictor, serve):
    return serve(DetectionService(predictor, Limits(megapixels=0.1)), max_bytes=MAX_BYTES, rate=0)


def direct(predictor, content: bytes, names, **options) -> list[dict]:
    return list(predictor(np.asarray(Image.open(io.BytesIO(content))), names, channel_order="RGB", **options))


def test_answers_are_those_of_the_predictor_and_the_network_runs_once(client, predictor):
    photo, names = png(0), ["red circle", "wheel"]
    before = client.service.counts.photos
    code, answer = client.detect(image=photo, names="red circle, wheel", threshold=0)
    assert code == 200 and (answer["width"], answer["height"]) == (120, 90)
    assert answer["detections"] == direct(predictor, photo, names, threshold=0) != []
    assert answer["names"] == [{"name": "red circle", "threshold": 0.3}, {"name": "wheel", "threshold": 0.08}]
    code, other = client.detect(photo=answer["photo"], names="blue star", threshold=0)
    assert code == 200 and other["detections"] == direct(predictor, photo, ["blue star"], threshold=0)
    code, again = client.detect(image=photo, names="red circle, wheel")
    assert again["detections"] == direct(predictor, photo, names)
    assert client.service.counts.photos == before + 1


def test_many_at_once_get_their_own_answers(client, predictor):
    photos = [png(seed) for seed in range(1, 4)]
    asked = [(photo, [f"thing {number}", "wheel"]) for number in range(8) for photo in photos]
    expected = [direct(predictor, photo, names, threshold=0) for photo, names in asked]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda each: client.detect(image=each[0], names=", ".join(each[1]), threshold=0), asked))
    assert [answer["detections"] for _, answer in found] == expected
    assert len({str(answer) for answer in expected}) == len(asked)


BOXES = [[10, 10, 50, 60], [60, 20, 110, 80]]


def learn(client, photos, rows) -> tuple[int, bytes]:
    examples = json.dumps([{"photo": photo, "name": name, "box": box} for photo, name, box in rows])
    return client.form("/learn", image=photos, examples=examples)


def test_learned_classes_are_those_of_the_predictor_and_load_again(client, predictor, tmp_path):
    photos = [png(0), png(1)]
    code, content = learn(client, photos, [(0, "mug ", BOXES[0]), (0, "mug", BOXES[1]), (1, "spoon", BOXES[0])])
    assert code == 200
    (tmp_path / "mine.safetensors").write_bytes(content)
    classes = load_classes(tmp_path / "mine.safetensors")
    images = [Image.open(io.BytesIO(photo)) for photo in photos]
    shown = [AnnotatedPhoto(images[0], torch.tensor(BOXES).float(), torch.tensor([0, 0]))]
    shown += [AnnotatedPhoto(images[1], torch.tensor(BOXES[:1]).float(), torch.tensor([1]))]
    expected = predictor.learn_classes(["mug", "spoon"], shown)
    assert classes.names == ("mug", "spoon") and torch.equal(classes.learned.weights, expected.learned.weights)
    # beside names, and alone; the network does not look again
    before = client.service.counts.photos + (client.service._find(hashlib.sha256(photos[0]).hexdigest()) is None)
    both = join_classes(predictor.embed(["wheel"]), expected)
    code, answer = client.detect(image=photos[0], names="wheel", classes=content, threshold=0)
    assert code == 200 and answer["detections"] == direct(predictor, photos[0], None, classes=both, threshold=0)
    assert "mug" in {row["label"] for row in answer["detections"]}
    assert answer["names"][1:] == [{"name": "mug", "threshold": 0.1}, {"name": "spoon", "threshold": 0.1}]
    code, answer = client.detect(photo=answer["photo"], classes=content, threshold=0)
    assert answer["detections"] == direct(predictor, photos[0], None, classes=expected, threshold=0) != []
    assert client.service.counts.photos == before
    code, answer = client.detect(photo=answer["photo"], classes=[content, content])
    assert code == 422 and "learned once" in answer["detail"]


def test_classes_of_another_detector_are_refused(client, predictor):
    _, content = learn(client, [png(0)], [(0, "mug", BOXES[0])])
    code, answer = client.detect(image=png(0), classes=content.replace(predictor.fingerprint.encode(), b"0" * 16))
    assert code == 422 and "this detector learned" in answer["detail"]


@pytest.mark.parametrize(
    ("photos", "examples", "told"),
    [
        ([png(0)], "[]", "1 to 500 boxes, got 0"),
        ([png(0)], "{", "a list of examples, what was sent is not json"),
        ([png(0)], '[{"photo": 0, "name": "a"}]', "missing required field `box`"),
        ([png(0)], '[{"photo": 1, "name": "a", "box": [1, 1, 9, 9]}]', "places of 1 photos"),
        ([png(0)], '[{"photo": 0, "name": "a", "box": [5, 5, 5, 9]}]', "an area in the photo"),
        ([png(0)], '[{"photo": 0, "name": "a", "box": [1, 1, NaN, 9]}]', "finite numbers"),
        ([png(0)], '[{"photo": 0, "name": "a", "box": [1, 1, 9, 1e999]}]', "finite numbers"),
        ([png(0)], '[{"photo": 0, "name": " ", "box": [1, 1, 9, 9]}]', "class name 1"),
        ([b"none"], '[{"photo": 0, "name": "a", "box": [1, 1, 9, 9]}]', "the photo is not an image"),
        ([b"none"] * 21, '[{"photo": 0, "name": "a", "box": [1, 1, 9, 9]}]', "1 to 20 photos"),
    ],
)
def test_examples_that_cannot_be_learned_from(client, photos, examples, told):
    code, content = client.form("/learn", image=photos, examples=examples)
    assert code == 422 and told in json.loads(content)["detail"]


def test_nearest_regions(client, predictor):
    code, content = client.form("/nearest", image=png(0), names="wheel; tyre, red circle, -cat", number=3)
    answer = json.loads(content)
    assert code == 200 and (answer["width"], answer["height"]) == (120, 90)
    of_name = [[row for row in answer["regions"] if row["label"] == name] for name in ("wheel", "red circle")]
    assert sum(map(len, of_name)) == len(answer["regions"]) and all(1 <= len(rows) <= 3 for rows in of_name)
    # by hand, from the photo anew: the highest cosine of any region and row, and where it is
    seen = predictor.embed_photo(Image.open(io.BytesIO(png(0)))).seen
    texts = predictor.embed_names(["wheel", "tyre"]).T
    cosines = ((seen.regions.text @ texts + seen.regions.image @ texts) / 2).amax(1)
    scale = 120 / seen.image_size[1]
    assert of_name[0][0]["cosine"] == pytest.approx(float(cosines.max()), abs=1e-4)
    box = torch.tensor(of_name[0][0]["box"])
    assert torch.allclose(box, seen.regions.boxes[cosines.argmax()] * scale, atol=1)
    assert [row["cosine"] for row in of_name[1]] == sorted((row["cosine"] for row in of_name[1]), reverse=True)
    assert client.form("/nearest", photo="0" * 64, names="cat")[0] == 404
    assert client.form("/nearest", image=png(0), names="cat", number=0)[0] == 422


def test_synonyms_and_negatives():
    vocabulary, negatives = parse_names("dog; puppy, -cat, red kite，- bus")
    assert vocabulary.names == ("dog", "red kite") and vocabulary.synonyms == {"dog": ("puppy",)}
    assert negatives == ("cat", "bus") and parse_names("dog")[1] is None
    for wrong in ("", "-cat", " , ", "dog, -", "dog, Dog"):
        with pytest.raises(InputError):
            parse_names(wrong)


@pytest.mark.parametrize(
    ("fields", "code", "told"),
    [
        ({"names": "cat"}, 422, "one of the two"),
        ({"image": png(0), "photo": "a", "names": "cat"}, 422, "one of the two"),
        ({"image": png(0)}, 422, "one class name or more"),
        ({"image": png(0), "classes": b"no classes"}, 422, "what was sent is damaged"),
        ({"image": png(0), "names": " "}, 422, "one class name or more"),
        ({"image": png(0), "names": ",".join(f"n{i}" for i in range(201))}, 422, "200 names at most, got 201"),
        ({"image": png(0), "names": "x" * 10_001}, 422, "10,000 characters"),
        ({"image": png(0), "names": "cat", "threshold": 7}, 422, "less than or equal to 1"),
        ({"image": png(0), "names": "cat", "threshold": "nan"}, 422, ""),
        ({"image": b"", "names": "cat"}, 422, "empty"),
        ({"image": b"no photo", "names": "cat"}, 422, "the photo is not an image"),
        ({"image": png(0)[:300], "names": "cat"}, 422, "the photo is broken"),
        ({"image": png(0, (1, 200)), "names": "cat"}, 422, "200 x 1"),
        ({"image": bytes(MAX_BYTES), "names": "cat"}, 413, "200,000 bytes"),
        ({"photo": "0" * 64, "names": "cat"}, 404, "send it again"),
    ],
)
def test_what_is_wrong_is_told(client, fields, code, told):
    found, answer = client.detect(**fields)
    text = json.dumps(answer)
    assert found == code and told in text and "Traceback" not in text and "/tmp" not in text


@pytest.mark.parametrize(("side", "told"), [(400, "400 x 400"), (12_000, "12,000 x 12,000"), (60_000, "inf x inf")])
def test_a_small_file_of_many_pixels(client, side, told):
    content = bytearray(png(0))
    content[16:24] = struct.pack(">II", side, side)  # of a PNG's header, which has a checksum
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    code, answer = client.detect(image=bytes(content), names="cat")
    assert code == 422 and f"0.1 megapixels at most, got {told}" in answer["detail"]


def test_names_are_no_files(client, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("password")
    code, answer = client.detect(image=png(0), names=str(secret), threshold=0)
    assert "password" not in json.dumps(answer)


def test_a_body_without_an_end(client):
    """Chunks, of which nobody says how many come."""
    chunks = iter([b"x" * 50_000] * 1000)
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request(client.address + "/detect", chunks, headers)
    try:
        code, _ = client.open(request)
        assert code == 413
    except (urllib.error.URLError, ConnectionError):
        pass  # the server hung up while we were sending
    assert client.get("/health")[0] == 200 and next(chunks, None) is not None


def test_page_description_and_counters(client):
    code, page = client.get("/")
    assert code == 200 and "<title>ovdet</title>" in page
    assert "/detect" in json.loads(client.get("/openapi.json")[1])["paths"]
    assert json.loads(client.get("/health")[1])["model"] == "tiny"
    counters = dict(line.split() for line in client.get("/metrics")[1].splitlines() if not line.startswith("#"))
    assert int(counters["ovdet_photos_kept"]) >= 1 and int(counters["ovdet_photos_kept_bytes"]) > 0
    samples = json.loads(client.get("/samples")[1])
    assert client.get(f"/samples/{len(samples)}")[0] == 404


def test_memory_of_photos_is_bounded(predictor):
    one = DetectionService(predictor)
    first = one.look(png(0))
    service = DetectionService(predictor, Limits(kept_bytes=int(2.5 * one.kept_bytes)))
    ids = [service.look(png(seed)) for seed in range(5)]
    assert service.num_kept == 2 and service.kept_bytes <= service.limits.kept_bytes and ids[0] == first
    assert service.detect(ids[-1], "cat")["photo"] == ids[-1]
    with pytest.raises(UnknownPhoto):
        service.detect(first, "cat")


def test_a_photo_too_many_waits_or_is_refused(predictor):
    service = DetectionService(predictor, Limits(patience=0.05, waiting=1))
    photo = service.look(png(0))
    with service._my_turn():
        with pytest.raises(Busy):
            service.detect(photo, "cat")
    assert service.detect(photo, "cat")["photo"] == photo


def test_too_many_requests_of_one_address(predictor, serve):
    client = serve(DetectionService(predictor), rate=1.0)
    codes = [client.get("/health")[0] for _ in range(12)]
    assert codes[:5] == [200] * 5 and 429 in codes[5:]


def test_samples_that_are_not_there(client, monkeypatch):
    def nothing():
        raise InputError("expected scikit-image")

    number = len(json.loads(client.get("/samples")[1]))
    assert client.get(f"/samples/{number}")[0] == client.get("/samples/-1")[0] == 404
    monkeypatch.setattr(app, "sample_images", nothing)
    assert client.get("/samples") == (200, "[]")


def test_a_limit_remembers_some_addresses(monkeypatch):
    """Many addresses do not fill the memory; the oldest is forgotten, and may ask anew."""
    monkeypatch.setattr(app, "_CLIENTS", 3)
    monkeypatch.setattr(app, "time", SimpleNamespace(monotonic=lambda: 1.0))  # the servers of this file go on by theirs
    limit = app._RateLimit(None, None, rate=0.2)  # one at once
    assert [limit._may(address) for address in "abcc"] == [True, True, True, False]
    assert limit._may("d") and limit._may("a") and not limit._may("d")
