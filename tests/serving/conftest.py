"""A server in a thread of the tests' process, and what speaks to it."""

import json
import threading
import urllib.error
import urllib.request
import uuid

import pytest
import uvicorn

from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.serving.app import build_app
from ovdet.serving.service import DetectionService


@pytest.fixture(scope="module")
def predictor(tiny_files):
    overrides = [*tiny_files.overrides, "model.roi_heads.box_predictor.test_score_thresh=-1"]
    predictor = OpenVocabPredictor.from_config(tiny_files.arguments[1], tiny_files.arguments[3], overrides=overrides)
    predictor.embed_names.warm_up()
    return predictor


class Client:
    """Speaks HTTP to a server in a thread of this process."""

    def __init__(self, service: DetectionService, **options) -> None:
        config = uvicorn.Config(build_app(service, model="tiny", **options), port=0, log_level="error")
        self.service, self.server = service, uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            self.thread.join(0.01)
        self.address = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()

    def get(self, path: str) -> tuple[int, str]:
        return self.open(urllib.request.Request(self.address + path))

    def detect(self, **fields) -> tuple[int, dict]:
        code, content = self.form("/detect", **fields)
        return code, json.loads(content)

    def form(self, path: str, **fields) -> tuple[int, bytes]:
        """A form's fields; bytes are a file, lists are several."""
        boundary, parts = uuid.uuid4().hex, []
        for name, values in fields.items():
            for value in values if isinstance(values, list) else [values]:
                file = isinstance(value, bytes)
                head = f'Content-Disposition: form-data; name="{name}"{"; filename=photo" if file else ""}'
                content = value if file else str(value).encode()
                parts.append(f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n")
        body = b"".join(parts) + f"--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return self.read(urllib.request.Request(self.address + path, body, headers))

    def post(self, path: str, content) -> tuple[int, dict]:
        """JSON there and back."""
        headers = {"Content-Type": "application/json"}
        code, text = self.open(urllib.request.Request(self.address + path, json.dumps(content).encode(), headers))
        return code, json.loads(text)

    def open(self, request) -> tuple[int, str]:
        code, content = self.read(request)
        return code, content.decode()

    def read(self, request) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=200) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


@pytest.fixture(scope="module")
def serve():
    """Serve a service -> its client; all are closed at the end."""
    clients = []

    def serve(service: DetectionService, **options) -> Client:
        clients.append(Client(service, **options))
        return clients[-1]

    yield serve
    for client in clients:
        client.close()
