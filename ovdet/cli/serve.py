"""Detect in the browser: a page on this machine, and a JSON API beside it.

ovdet serve
ovdet serve --model output/lite/vild --host 0.0.0.0 --port 8000
curl -F image=@photo.jpg -F names="dog, red kite" http://127.0.0.1:7860/detect
"""

from __future__ import annotations

import argparse
import logging
import math
import os
from pathlib import Path

from ovdet.cli.arguments import (
    add_device_argument,
    add_half_argument,
    add_int8_argument,
    add_model_arguments,
    add_overrides,
)
from ovdet.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_model_arguments(parser, default="ovdet-lite")
    add_device_argument(parser)
    add_half_argument(parser)
    add_int8_argument(parser)
    add("--host", default="127.0.0.1", metavar="H", help="0.0.0.0 for other machines too (default: this one alone)")
    add("--port", type=int, default=7860, metavar="P", help="0 takes a free one (default: %(default)s)")
    add("--max-megabytes", type=float, default=20, metavar="MB", help="of a request (default: %(default)s)")
    kept = "memory for photos, whose names can be changed at little cost (default: %(default)s)"
    add("--keep-megabytes", type=float, default=256, metavar="MB", help=kept)
    rate = "requests a second of one address, 0 for any number (default: %(default)s)"
    add("--rate", type=float, default=20, metavar="N", help=rate)
    root = "folder of Label Studio's local files (its LOCAL_FILES_DOCUMENT_ROOT)"
    add("--photos", metavar="FOLDER", help=root)
    host = "its address, for photos that were uploaded there; the token of its API comes from $LABEL_STUDIO_API_KEY"
    add("--label-studio", metavar="URL", help=host)
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    for option in ("max_megabytes", "keep_megabytes", "rate"):
        if not 0 <= getattr(arguments, option) < math.inf:
            raise InputError(f"expected --{option.replace('_', '-')} of 0 or more, got {getattr(arguments, option)}")
    if arguments.photos is not None and not Path(arguments.photos).is_dir():
        raise InputError(f"expected --photos to be a folder, got {arguments.photos}")
    if not 0 <= arguments.port < 65536:
        raise InputError(f"expected --port of 0 to 65535, got {arguments.port}")
    try:
        import python_multipart  # noqa: F401
        import uvicorn

        from ovdet.serving.app import build_app
        from ovdet.serving.photo_source import PhotoSource
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("fastapi", "starlette", "uvicorn", "python_multipart"):
            raise InputError(f"expected {error.name} to be installed: pip install 'ovdet[web]'") from error
        raise
    from ovdet.inference import vocabulary_embedder
    from ovdet.inference.load import load_predictor
    from ovdet.serving.service import DetectionService, Limits

    vocabulary_embedder.logger.setLevel(logging.ERROR)  # who asks is told, in the answer
    listening = _listen(arguments.host, arguments.port)
    keys = ("model", "config_file", "weights", "device", "half", "int8")
    chosen = {key: getattr(arguments, key) for key in keys}
    predictor = load_predictor(**chosen, overrides=arguments.overrides)
    predictor.embed_names.warm_up()
    service = DetectionService(predictor, Limits(kept_bytes=int(arguments.keep_megabytes * 2**20)))
    model = arguments.model or arguments.weights or "ovdet-lite"
    max_bytes = int(arguments.max_megabytes * 2**20)
    photos = PhotoSource(
        folder=None if arguments.photos is None else Path(arguments.photos),
        host=arguments.label_studio,
        token=os.environ.get("LABEL_STUDIO_API_KEY"),
        max_bytes=max_bytes,
    )
    app = build_app(service, model=model, max_bytes=max_bytes, rate=arguments.rate, photos=photos)
    host, port = listening.getsockname()[:2]
    print(f"http://{'localhost' if host in ('127.0.0.1', '0.0.0.0') else host}:{port}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


def _listen(host: str, port: int):
    """A socket; before the detector is loaded, as this is what mostly fails.

    Raises:
        InputError: somebody else listens there, or there is no such address.
    """
    import socket

    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(f"expected a free port, {host}:{port} cannot be had: {error.strerror or error}") from error
