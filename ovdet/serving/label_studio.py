"""A Label Studio machine-learning backend: /setup, /predict, /webhook; /health stands in app.py."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from ovdet.errors import InputError
from ovdet.integrations.label_studio import LabelConfig, parse_label_config, to_prediction
from ovdet.serving.photo_source import PhotoSource
from ovdet.serving.service import DetectionService
from ovdet.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


class PredictRequest(BaseModel):
    """Tasks of a project."""

    tasks: list[dict[str, Any]]
    label_config: str
    model_config = {"extra": "allow", "protected_namespaces": ()}


def label_studio_routes(service: DetectionService, photos: PhotoSource, *, model: str) -> APIRouter:
    """Routes that answer Label Studio with the names of the project's own labels.

    Args:
        service: that detects.
        photos: reads the tasks' photos.
        model: the version that predictions name.
    """
    routes = APIRouter(tags=["Label Studio"])

    @routes.post("/setup")
    def setup(request: dict[str, Any]) -> dict[str, str]:
        """Whether the project's labels can be found."""
        if request.get("schema"):
            _vocabulary(parse_label_config(request["schema"]))
        return {"model_version": model}

    @routes.post("/predict")
    def predict(request: PredictRequest) -> dict[str, Any]:
        """A prediction for each task."""
        config = parse_label_config(request.label_config)
        vocabulary = _vocabulary(config)
        return {"results": [_predict(service, photos, task, config, vocabulary, model) for task in request.tasks]}

    @routes.post("/webhook", status_code=201)
    def webhook(request: dict[str, Any]) -> dict[str, Any]:
        """Told of annotations; nothing is learned from them here."""
        return {"result": {}, "status": "ok"}

    return routes


def _vocabulary(config: LabelConfig) -> Vocabulary:
    return Vocabulary(config.names, dict(config.synonyms))


def _predict(
    service: DetectionService,
    photos: PhotoSource,
    task: dict[str, Any],
    config: LabelConfig,
    vocabulary: Vocabulary,
    model: str,
) -> dict[str, Any]:
    """One task's prediction; none for a photo that cannot be had, which the log names: the others go on."""
    names = {"model": model, "from_name": config.from_name, "to_name": config.to_name}
    try:
        photo = service.look(photos.read(task.get("data", {}).get(config.key)))
    except InputError as error:
        logger.warning("task %s: %s", task.get("id"), error)
        return to_prediction([], 1, 1, **names)
    found, _ = service.ask(photo, vocabulary, threshold=config.threshold)
    height, width = found.size
    return to_prediction(found, width, height, **names)
