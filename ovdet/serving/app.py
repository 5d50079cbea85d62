"""The service over HTTP: a page for people at /, a JSON API for programs, described at /docs."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ovdet.errors import InputError
from ovdet.inference.media import sample_images
from ovdet.serving.label_studio import label_studio_routes
from ovdet.serving.photo_source import PhotoSource
from ovdet.serving.service import Busy, DetectionService, Example, UnknownPhoto
from ovdet.typed import decoded
from ovdet.version import VERSION

_PAGES = {"": "page.html", "docs": "api.html"}  # FastAPI's own page of the API takes its parts from the internet
_CLIENTS = 10_000  # addresses whose rate is remembered
_POLICY = "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' blob: data:"
_BYTES = "application/octet-stream"
Names = Annotated[str, Form(description='"dog; puppy, red kite, -cat": synonyms, and what it is not')]
Image = Annotated[bytes | None, File(description="a photo")]
PhotoId = Annotated[str | None, Form(description="instead of it: the id that an answer gave it")]


def build_app(
    service: DetectionService,
    *,
    model: str,
    max_bytes: int = 20 * 2**20,
    rate: float = 20.0,
    photos: PhotoSource | None = None,
) -> FastAPI:
    """The application.

    Args:
        service: that answers.
        model: the detector's name, to be told.
        max_bytes: of a request.
        rate: requests a second of one address, in the mean of some seconds; 0 for any number.
        photos: reads those of Label Studio's tasks; None reads such as stand in the task itself.
    """
    about = "Open-vocabulary object detection"
    app = FastAPI(title="ovdet", version=VERSION, description=about, docs_url=None, redoc_url=None)
    app.add_middleware(_RateLimit, service=service, rate=rate)
    app.add_middleware(_BodyLimit, service=service, max_bytes=max_bytes)
    _add_errors(app, service)

    for address, name in _PAGES.items():
        app.get(f"/{address}", response_class=HTMLResponse, include_in_schema=False)(partial(_page, name))

    @app.get("/health")
    def health() -> dict[str, str]:
        """The server's status, which Label Studio asks for too: that it answers, and with which detector."""
        return {"status": "UP", "model_class": "ovdet", "model": model, "version": VERSION}

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> str:
        """Counters in Prometheus' text format."""
        return _metrics(service)

    @app.get("/samples")
    def samples() -> list[str]:
        """Photos to try, as addresses here."""
        return [f"samples/{number}" for number in range(len(_samples()))]

    @app.get("/samples/{number}", response_class=FileResponse, include_in_schema=False)
    def sample(number: int) -> FileResponse:
        files = _samples()
        if not 0 <= number < len(files):
            raise HTTPException(404, "no such sample")
        return FileResponse(files[number])

    _add_questions(app, service)
    app.include_router(label_studio_routes(service, photos or PhotoSource(max_bytes=max_bytes), model=model))
    return app


def _add_questions(app: FastAPI, service: DetectionService) -> None:
    """Routes for questions about photos."""

    def seen(image: bytes | None, photo: str | None) -> str:
        if (image is None) == (photo is None):
            raise InputError("expected an image or a photo's id: one of the two")
        return photo if image is None else service.look(image)

    @app.post("/detect")
    def detect(
        names: Names = "",
        image: Image = None,
        photo: PhotoId = None,
        threshold: Annotated[float | None, Form(ge=0, le=1, description="lowest score; else each name's own")] = None,
        classes: Annotated[list[bytes], File(description="files of /learn or `ovdet learn`")] = [],  # noqa: B006
    ) -> dict[str, Any]:
        """Boxes of names in a photo. The same photo with other names costs a fraction of the first time."""
        return service.detect(seen(image, photo), names, threshold, classes)

    @app.post("/nearest")
    def nearest(
        names: Names,
        image: Image = None,
        photo: PhotoId = None,
        number: Annotated[int, Form(ge=1, le=50, description="of regions for each name")] = 5,
    ) -> dict[str, Any]:
        """The regions of a photo that lie nearest to each name, however low their scores are."""
        return service.nearest(seen(image, photo), names, number)

    @app.post("/learn", response_class=Response, responses={200: {"content": {_BYTES: {}}}})
    def learn(
        image: Annotated[list[bytes], File(description="photos")],
        examples: Annotated[str, Form(description='[{"photo": 0, "name": "mug", "box": [x1, y1, x2, y2]}, ...]')],
    ) -> Response:
        """A file of classes learned from boxes of all things of their names in photos, for /detect."""
        boxes = decoded(examples, list[Example], "a list of examples", "what was sent")
        headers = {"Content-Disposition": 'attachment; filename="classes.safetensors"'}
        return Response(service.learn(image, boxes), media_type=_BYTES, headers=headers)


def _page(name: str) -> HTMLResponse:
    content = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return HTMLResponse(content, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"})


def _samples() -> list[Path]:
    try:
        return sample_images()
    except InputError:  # scikit-image is not here
        return []


def _add_errors(app: FastAPI, service: DetectionService) -> None:
    """An answer to what went wrong: {"detail": one line}."""

    @app.exception_handler(InputError)
    def wrong_input(request: Request, error: InputError) -> JSONResponse:
        service.counts.add(refused=1)
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(UnknownPhoto)
    def unknown_photo(request: Request, error: UnknownPhoto) -> JSONResponse:
        service.counts.add(refused=1)
        return JSONResponse({"detail": "expected a photo that is kept here: send it again"}, 404)

    @app.exception_handler(Busy)
    def busy(request: Request, error: Busy) -> JSONResponse:
        service.counts.add(refused=1)
        return JSONResponse({"detail": "too many requests are waiting"}, 503, headers={"Retry-After": "5"})


def _metrics(service: DetectionService) -> str:
    counts = service.counts
    rows = {
        "ovdet_photos_total": counts.photos,
        "ovdet_questions_total": counts.questions,
        "ovdet_learned_total": counts.learned,
        "ovdet_refused_total": counts.refused,
        "ovdet_seconds_total": round(counts.seconds, 3),
        "ovdet_photos_kept": service.num_kept,
        "ovdet_photos_kept_bytes": service.kept_bytes,
    }
    kinds = {name: "counter" if name.endswith("_total") else "gauge" for name in rows}
    return "".join(f"# TYPE {name} {kinds[name]}\n{name} {value}\n" for name, value in rows.items())


class _BodyLimit:
    """Refuse bodies that are too long: by what they say, and by what comes."""

    def __init__(self, app: ASGIApp, service: DetectionService, max_bytes: int) -> None:
        self.app, self.service, self.max_bytes = app, service, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        came = 0
        refusal = JSONResponse({"detail": f"expected at most {self.max_bytes:,} bytes"}, 413)

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.max_bytes:
                raise _TooLong
            return message

        try:
            if not said.isdigit() or int(said) > self.max_bytes:
                raise _TooLong
            await self.app(scope, counted, send)
        except _TooLong:
            self.service.counts.add(refused=1)
            await refusal(scope, receive, send)


class _TooLong(Exception):
    pass


class _RateLimit:
    """A bucket of requests for each address, which fills at a rate and holds five seconds of it."""

    def __init__(self, app: ASGIApp, service: DetectionService, rate: float) -> None:
        self.app, self.service, self.rate = app, service, rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # left, when
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.rate > 0 and not self._may(scope["client"][0] if scope["client"] else ""):
            self.service.counts.add(refused=1)
            refusal = JSONResponse({"detail": "too many requests"}, 429, headers={"Retry-After": "1"})
            await refusal(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _may(self, address: str) -> bool:
        now, most = time.monotonic(), 5 * self.rate
        with self._lock:
            left, when = self._buckets.pop(address, (most, now))
            left = min(most, left + (now - when) * self.rate)
            self._buckets[address] = (max(left - 1, 0.0) if left >= 1 else left, now)
            if len(self._buckets) > _CLIENTS:
                self._buckets.popitem(last=False)
        return left >= 1
