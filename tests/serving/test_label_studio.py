"""A Label Studio project asks for its own labels, over HTTP; tasks cannot have other files read."""

import base64
import functools
import http.server
import io
import threading

import numpy as np
import pytest
from PIL import Image

from ovdet.errors import InputError
from ovdet.integrations.label_studio import parse_label_config, to_prediction
from ovdet.serving.photo_source import PhotoSource
from ovdet.serving.service import DetectionService
from ovdet.text.vocabulary import Vocabulary

CONFIG = """<View>
  <Image name="photo" value="$picture"/>
  <RectangleLabels name="thing" toName="photo" model_score_threshold="0.0">
    <Label value="red circle" background="red"/><Label value="Wheel" predicted_values="wheel, tyre"/>
  </RectangleLabels>
</View>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "root"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a b&c.png")
    (folder.parent / "secret.png").write_bytes((folder / "a b&c.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def client(predictor, serve, folder):
    return serve(DetectionService(predictor), rate=0, photos=PhotoSource(folder=folder))


def test_the_labels_of_a_project():
    config = parse_label_config(CONFIG)
    assert (config.from_name, config.to_name, config.key, config.threshold) == ("thing", "photo", "picture", 0)
    assert config.names == ("red circle", "Wheel") and config.synonyms == {"Wheel": ("wheel", "tyre")}


@pytest.mark.parametrize(
    "text",
    [
        "", "no xml", "<View/>", CONFIG.replace('toName="photo"', 'toName="text"'), CONFIG.replace("0.0", "high"),
        CONFIG.replace("0.0", "nan"),
        '<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>', "<View>" * 500_000,
        '<View><Image name="i" value="$i"/><RectangleLabels name="l" toName="i"/></View>',
    ],
)  # fmt: skip
def test_configs_that_cannot_be_used(text):
    with pytest.raises(InputError, match="expected"):
        parse_label_config(text)


def test_a_project_gets_predictions_of_its_own_labels(client, predictor, folder):
    code, answer = client.post("/setup", {"project": "7.1", "schema": CONFIG, "extra_params": None})
    assert code == 200 and answer == {"model_version": "tiny"}
    tasks = [{"id": 1, "data": {"picture": "/data/local-files/?d=a%20b%26c.png"}}]
    asked = {"tasks": tasks, "label_config": CONFIG, "project": "7.1", "params": {"login": None, "context": None}}
    code, answer = client.post("/predict", asked)
    assert code == 200
    (prediction,) = answer["results"]
    names = Vocabulary(("red circle", "Wheel"), {"Wheel": ("wheel", "tyre")})
    found = predictor(folder / "a b&c.png", names, threshold=0)
    assert prediction["model_version"] == "tiny" and len(prediction["result"]) == len(found) > 0
    result, best = prediction["result"][0], found[0]
    assert result["from_name"] == "thing" and result["to_name"] == "photo" and result["type"] == "rectanglelabels"
    assert result["value"]["rectanglelabels"] == [best["label"]] and result["score"] == best["score"]
    x, y, width, height = (result["value"][key] for key in ("x", "y", "width", "height"))
    box = np.array([x * 1.2, y * 0.9, (x + width) * 1.2, (y + height) * 0.9])
    assert np.allclose(box, best["box"], atol=0.01)
    assert (result["original_width"], result["original_height"]) == (120, 90)


def test_a_photo_that_cannot_be_had_does_not_stop_the_others(client, folder):
    inline = base64.b64encode((folder / "a b&c.png").read_bytes()).decode()
    addresses = [
        *("/data/local-files/?d=none.png", "/data/local-files/?d=../secret.png", "/data/local-files/?d=/etc/passwd"),
        *("http://169.254.169.254/latest", "file:///etc/passwd", "/data/upload/1/a.png", "s3://bucket/a.png", None),
        *("data:image/png;base64,???", f"data:image/png;base64,{inline}"),
    ]
    tasks = [{"id": number, "data": {"picture": address}} for number, address in enumerate(addresses)]
    code, answer = client.post("/predict", {"tasks": tasks, "label_config": CONFIG})
    assert code == 200 and len(answer["results"]) == len(addresses)
    assert [len(each["result"]) > 0 for each in answer["results"]] == [False] * (len(addresses) - 1) + [True]


def test_what_is_wrong_is_told(client):
    for path, content in (
        ("/predict", {"tasks": [], "label_config": "<View/>"}),
        ("/predict", {"tasks": []}),
        ("/predict", {"tasks": [1], "label_config": CONFIG}),
        ("/setup", {"schema": "<View/>"}),
        ("/setup", {"schema": CONFIG.replace("Wheel", "red circle")}),
    ):
        code, answer = client.post(path, content)
        assert code == 422 and answer["detail"], path
    assert client.post("/predict", {"tasks": [], "label_config": CONFIG}) == (200, {"results": []})


def test_webhook_and_health(client):
    assert client.post("/webhook", {"action": "ANNOTATION_CREATED"}) == (201, {"result": {}, "status": "ok"})
    assert '"status":"UP"' in client.get("/health")[1]


def test_uploaded_photos_come_with_a_token(folder):
    seen = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers.get("Authorization")))
            if self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", f"http://localhost:{self.server.server_port}/a%20b&c.png")
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *more):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        source = PhotoSource(host=address, token="abc")
        content = (folder / "a b&c.png").read_bytes()
        assert source.read("/a%20b&c.png") == source.read(f"{address}/a%20b&c.png") == content
        assert source.read("/moved") == content  # to a host of another name, which does not get the token
        with pytest.raises(InputError, match="cannot be had"):
            source.read("/none.png")
        with pytest.raises(InputError, match="100 bytes"):
            PhotoSource(host=address, max_bytes=100).read("/a%20b&c.png")
        with pytest.raises(InputError, match="--label-studio"):
            source.read(f"http://localhost:{server.server_port}/a%20b&c.png")
        server.shutdown()
    assert ("/a%20b&c.png", "Token abc") in seen and seen[3] == ("/a%20b&c.png", None)


def test_predictions_as_label_studios_own_package_reads_them():
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    rows = [{"box": [12, 9, 60, 45], "score": 0.5, "label": "Wheel"}]
    names = {"model": "m", "from_name": "thing", "to_name": "photo"}
    prediction = to_prediction(rows, 120, 90, **names)
    assert interface.LabelInterface(CONFIG).validate_prediction(prediction)
    value = prediction["result"][0]["value"]
    assert (value["x"], value["y"], value["width"], value["height"]) == (10, 10, 40, 40)
    stream = io.BytesIO()
    Image.new("RGB", (1, 1)).save(stream, format="PNG")
    assert to_prediction([], 1, 1, **names) == {"model_version": "m", "score": 0.0, "result": []}
