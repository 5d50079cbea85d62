"""Dockerfile and Space: what they copy is there, versions are the tested ones, and the Space's program answers."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKER, SPACE = ROOT / "tools/docker/Dockerfile", ROOT / "tools/space/Dockerfile"


def instructions(file: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", file.read_text(encoding="utf-8"))
    return [tuple(line.split(" ", 1)) for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("file", [DOCKER, SPACE], ids=["docker", "space"])
def test_versions_are_those_that_were_tested(file):
    tested = (ROOT / ".constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = re.findall(r"torch(?:vision)?==[\d.]+", file.read_text(encoding="utf-8"))
    assert len(pinned) == 2 and set(pinned) <= set(tested)
    bases = {rest.split()[0] for name, rest in instructions(file) if name == "FROM"}
    assert bases == {"python:3.12-slim-bookworm"}
    assert ("USER", "user") in instructions(file)  # nothing runs as root


def test_what_the_image_copies_is_there_and_not_ignored():
    ignored = DOCKER.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [
        word
        for name, rest in instructions(DOCKER)
        if name == "COPY" and "--from" not in rest
        for word in rest.split()[:-1]
    ]
    assert "ovdet" in copied and all((ROOT / word).exists() and f"!{word}" in ignored for word in copied)


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space") / "made"
    done = subprocess.run([sys.executable, "tools/make_space.py", "--output", folder], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_a_space_is_whole(space):
    lists = {"requirements.txt", "constraints.txt"}
    assert {file.name for file in space.iterdir()} == {"README.md", "Dockerfile", "app.py", "ovdet", *lists}
    first, *required = (space / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = {re.match(r"[\w-]+", line)[0] for line in required}
    assert first == "-c constraints.txt" and {"fastapi", "scikit-image", "supervision", "torch"} <= names
    assert (space / "constraints.txt").read_bytes() == (ROOT / ".constraints.txt").read_bytes()
    copied = [set(rest.split()) for name, rest in instructions(space / "Dockerfile") if name == "COPY"]
    assert lists <= copied[0]
    head = (space / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    given = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
    assert given["sdk"] == "docker" and given["app_port"] == "7860" and len(given["short_description"]) <= 60
    again = [sys.executable, "tools/make_space.py", "--output", space]
    done = subprocess.run(again, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and str(space) in done.stderr


@pytest.mark.slow
def test_the_program_of_a_space_answers(space):
    """Where nothing but that folder is the package."""
    photo = Path(pytest.importorskip("skimage").__file__).with_name("data") / "chelsea.png"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PORT": str(port)}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=space, env=environment)
    try:
        deadline = time.monotonic() + 600
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(1)
        form = ["-F", f"image=@{photo}", "-F", "names=tabby cat, dog", f"http://127.0.0.1:{port}/detect"]
        found = json.loads(subprocess.run(["curl", "-sS", *form], capture_output=True).stdout)
        assert found["detections"][0]["label"] == "tabby cat"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def answers(address: str) -> bool:
    try:
        return json.loads(urllib.request.urlopen(address, timeout=60).read())["status"] == "UP"
    except OSError:
        return False
