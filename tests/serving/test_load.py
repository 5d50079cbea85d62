"""`ovdet serve` under load: fifty clients at once, each with names of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from ovdet.inference.media import sample_images
from ovdet.inference.predictor import OpenVocabPredictor

ROOT = Path(__file__).parents[2]
CLIENTS, SECONDS = 50, float(os.environ.get("OVDET_LOAD_SECONDS", "120"))
WARM_UP = 10 * CLIENTS  # answers: until then buffers reach their size, libraries are paged in; nothing grows after it
THINGS = ("cat", "cup", "spoon", "motorcycle", "wheel", "ear", "table", "mirror", "saucer", "eye")


@pytest.fixture
def served(tmp_path):
    """Process and address of a server with the package's detector; its log must stay empty."""
    command = [sys.executable, "-m", "ovdet", "serve", "--port", "0", "--device", "cpu", "--rate", "0", "--no-half"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    yield psutil.Process(process.pid), process.stdout.readline().strip()
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert not (tmp_path / "log").read_text()


def post(address: str, fields: list[tuple[str, bytes]]) -> dict:
    parts = [f'--x\r\nContent-Disposition: form-data; name="{name}"'.encode() + value for name, value in fields]
    body = b"\r\n".join(parts) + b"\r\n--x--\r\n"
    request = urllib.request.Request(address, body, {"Content-Type": "multipart/form-data; boundary=x"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fifty_clients_get_their_own_right_answers(served, capsys):
    process, address = served
    names = [[THINGS[k % 10], f"{THINGS[(k // 10 + 3) % 10]} number {k}"] for k in range(CLIENTS)]
    photos = sample_images()
    predictor = OpenVocabPredictor.from_pretrained("ovdet-lite", device="cpu")
    seen = [predictor.embed_photo(photo) for photo in photos]
    expected = {
        (p, k): list(predictor.detect_embedded(seen[p], names[k], threshold=0))
        for p in range(3)
        for k in range(CLIENTS)
    }
    assert len({str(answer) for answer in expected.values()}) > CLIENTS
    times, wrong, sizes, over = [], [], [], threading.Event()

    def client(k: int) -> None:
        turn = k
        while not over.is_set():
            p = turn % 3
            start = time.perf_counter()
            image = b"; filename=photo\r\n\r\n" + photos[p].read_bytes()
            fields = [("names", b"\r\n\r\n" + ", ".join(names[k]).encode()), ("threshold", b"\r\n\r\n0")]
            answer = post(f"{address}/detect", [*fields, ("image", image)])
            times.append(time.perf_counter() - start)
            if answer["detections"] != expected[p, k]:
                wrong.append((p, k))
            turn += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, k) for k in range(CLIENTS)]
        while len(times) < WARM_UP and not any(each.done() for each in clients):
            time.sleep(0.1)
        times.clear()
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            sizes.append(process.memory_info().rss / 1e6)
            time.sleep(SECONDS / 20)
        sizes.append(process.memory_info().rss / 1e6)
        over.set()
        for each in clients:
            each.result()
    median, late = np.quantile(times, [0.5, 0.95])
    with capsys.disabled():
        print(f"\n{len(times)} answers in {SECONDS:.0f} s, {len(wrong)} wrong; median {median:.2f} s, p95 {late:.2f} s")
        print(
            f"memory {sizes[0]:.0f} MB after {WARM_UP} answers, {max(sizes):.0f} MB at most, {sizes[-1]:.0f} at the end"
        )
    assert not wrong and len(times) >= CLIENTS
    assert max(sizes) <= 1.02 * sizes[0]
