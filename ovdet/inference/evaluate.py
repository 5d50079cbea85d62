"""Evaluation without training: on a config's own test set, or zero-shot on any COCO-format data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.config import LazyCall, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.data.catalog import LVIS_EVALUATOR_TYPE
from ovdet.data.coco import listed
from ovdet.data.dataset import EVALUATOR_TYPE, register_coco_subsets
from ovdet.data.leakage import same_meaning
from ovdet.engine.checkpoint import known_classes
from ovdet.engine.config import prepare_dataset, save_config
from ovdet.engine.evaluate import classes_of, do_test, prepare_evaluation
from ovdet.errors import InputError
from ovdet.evaluation.evaluator import LVIS_DETECTIONS, build_evaluator
from ovdet.export.onnx_detector import load_onnx_predictor, load_openvino_predictor
from ovdet.export.runtimes import OPENVINO, TORCH, exported_file
from ovdet.files import check_place
from ovdet.hub.load import is_own, load_detector
from ovdet.inference.suggest import write_thresholds
from ovdet.modeling.acceleration import speed_up
from ovdet.modeling.fingerprint import detector_fingerprint
from ovdet.text.class_names import normalize_class_name
from ovdet.text.classes import join_classes
from ovdet.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

_DETECTIONS = 100  # of a photo, where a config does not say, as detectron2 has it
SETTINGS = {"generalized": ("base", "novel"), "constrained": ("novel",)}  # the subsets whose names are asked for


def evaluate_config(config: DictConfig, weights: str = "") -> Mapping[str, Any]:
    """Evaluate a detector on its config's own test set; `train.output_dir`/evaluation takes what is written.

    Args:
        config: as for do_train.
        weights: see `load_detector`.

    Returns:
        The evaluator's results on the main process, {} elsewhere.

    Raises:
        InputError: the folder cannot be written to, weights or data set are not there or do not fit.
    """
    folder = f"{config.train.output_dir}/evaluation"
    check_place(folder, is_folder=True)
    prepare_dataset(config)
    return _evaluate(config, folder, weights)[0]


def evaluate_on(
    config: DictConfig,
    annotations: str | Path,
    images: str | Path,
    output: str | Path,
    *,
    weights: str = "",
    split: str | Path | None = None,
    setting: str = "generalized",
    iou_types: Sequence[str] = ("bbox",),
    max_detections: int | None = None,
    lvis: bool = False,
    vocabulary: Vocabulary | None = None,
    negatives: Sequence[str] = (),
    learned: ClassEmbeddings | None = None,
    suggest_thresholds: bool = False,
    precision: float | None = None,
    compile: bool = False,
    half: bool = False,
    int8: bool = False,
    runtime: str = TORCH,
    exported: str | Path | None = None,
) -> Mapping[str, Any]:
    """Evaluate a detector on data of one's own; the data is checked before the model is loaded.

    With a split as OV-COCO's protocol has it: photos without an object of the asked names are left out (LVIS's keeps
    them), figures come by subset, and fused scores weigh the split's base names as such. Without one as COCO's: all
    photos, all classes; fused scores then take for base what the model was trained on.

    Args:
        config: of the detector, see `load_config`; its test set and evaluator are replaced.
        annotations: COCO-format json; its classes are the vocabulary.
        images: the folder that its photos' names are relative to.
        output: folder for metrics.json, detections.json, per_class.csv, plots, the resolved config and the log.
        weights: see `load_detector`.
        split: a split json, see `load_split`.
        setting: "generalized" asks for base and novel names at once, "constrained" for the novel ones alone.
        iou_types: "bbox", or "bbox" and "segm".
        max_detections: per photo, of the detector and of the figures; None leaves it to config and protocol.
        lvis: LVIS's federated figures, which need an LVIS json, instead of COCO's. The detector then finds at least as
            many as its protocol counts.
        vocabulary: synonyms of the json's class names, of which the best counts; None for none.
        negatives: names of other things: what looks more like one of them is not found.
        learned: learned classes, which take the place of the names' embeddings; each is one of the json's.
        suggest_thresholds: write `output`/thresholds.csv and classes.safetensors, the classes as they were asked for
            with a threshold each.
        precision: the least that the thresholds are to give; None for the best F1.
        compile: see `speed_up`.
        half: see `speed_up`.
        int8: likewise.
        runtime: see `load_predictor`.
        exported: an .onnx file of this detector that the runtime is to run; None: one that it exports.

    Returns:
        The evaluator's results.

    Raises:
        InputError: data, split, setting, output, config or weights cannot be used or do not fit.
    """
    _check(config, split, setting, iou_types, max_detections)
    if exported is not None and runtime == TORCH:
        raise InputError("expected --runtime onnx or openvino with --exported")
    if suggest_thresholds and (lvis or "segm" in iou_types):
        raise InputError("expected boxes and COCO's rules to suggest thresholds, got LVIS's or masks")
    if precision is not None and not (suggest_thresholds and 0 < precision <= 1):
        raise InputError(f"expected a precision within (0, 1] with suggest_thresholds, got {precision}")
    dataset = {
        "name": Path(annotations).name,
        "json_file": str(annotations),
        "image_root": str(images),
        "split": None if split is None else str(split),
        "subsets": list(SETTINGS[setting] if split else ("base",)),
        "filter_empty": split is not None and not lvis,
        "evaluator_type": LVIS_EVALUATOR_TYPE if lvis else EVALUATOR_TYPE,
    }
    config.dataloader.test.dataset.names = LazyCall(register_coco_subsets)(**dataset)
    _score(config, output, iou_types, max_detections, least=LVIS_DETECTIONS if lvis else 0)
    check_place(output, is_folder=True)
    with registered(dataset):
        names = dict(vocabulary=vocabulary, negatives=negatives, learned=learned)
        results, classes, detector = _evaluate(
            config, output, weights, **names, compile=compile, half=half, int8=int8, runtime=runtime, exported=exported
        )
        if suggest_thresholds and comm.is_main_process():
            write_thresholds(output, dataset["name"], classes, detector(), precision)
        return results


def _score(
    config: DictConfig, output: str | Path, iou_types: Sequence[str], max_detections: int | None, least: int = 0
) -> None:
    """Have a config score these: its detector then finds no masks that nobody scores, and as many as are scored.

    Without `max_detections` it finds as many as it would, or `least` where that is more.
    """
    config.dataloader.evaluator = LazyCall(build_evaluator)(
        dataset_name="${..test.dataset.names}",
        output_dir=str(output),
        iou_types=list(iou_types),
        max_detections=max_detections,
    )
    if not is_own(config):
        config.model.max_detections = max_detections or max(config.model.max_detections, least)
        return
    heads = config.model.roi_heads
    if "segm" not in iou_types and "mask_in_features" in heads:
        heads.mask_in_features = None
    if max_detections is not None:
        heads.box_predictor.test_topk_per_image = max_detections
    elif 0 <= heads.box_predictor.get("test_topk_per_image", _DETECTIONS) < least:  # below 0: all
        heads.box_predictor.test_topk_per_image = least


def _evaluate(
    config: DictConfig,
    folder: str | Path,
    weights: str,
    vocabulary: Vocabulary | None = None,
    negatives: Sequence[str] = (),
    learned: ClassEmbeddings | None = None,
    runtime: str = TORCH,
    exported: str | Path | None = None,
    **faster: bool,
) -> tuple[Mapping[str, Any], ClassEmbeddings, Callable[[], str]]:
    """The evaluator's results, the classes that were asked for, and what gives the detector's fingerprint.

    All that may be refused comes before the folder is made.
    """
    model, embed_names, header = load_detector(config, weights)
    dataset_name = instantiate(config.dataloader.test.dataset.names)
    trained, by_expert = (header.get(key, ()) for key in ("training_classes", "learned_classes"))
    asked = dict(vocabulary=vocabulary, negatives=negatives)
    classes = classes_of(dataset_name, embed_names, trained, learned_classes=by_expert, **asked)
    if learned is not None:
        if learned.detector != detector_fingerprint(model):
            raise InputError(f"expected classes that this detector learned, got another's ({learned.detector})")
        known = {normalize_class_name(name) for name in classes.names}
        if odd := [name for name in learned.names if normalize_class_name(name) not in known]:
            raise InputError(f"expected learned classes that the json has, got {odd[0]!r}")
        classes = join_classes(classes, learned)
    if runtime == TORCH:
        network = speed_up(model, **faster)
    else:
        network = _Exported(config, weights, model, runtime, exported, **faster)
    prepare_evaluation(folder)
    _tell_known_novel(config, header)
    results = do_test(config, network, classes)
    if comm.is_main_process():
        save_config(config, Path(folder) / "config.yaml")  # beside the figures that it gave, and no others
    return results, classes, lambda: detector_fingerprint(model)


class _Exported(nn.Module):
    """A detector's exported file, called like the detector."""

    def __init__(
        self,
        config: DictConfig,
        weights: str,
        model: nn.Module,
        runtime: str,
        file: str | Path | None,
        *,
        compile: bool,
        half: bool,
        int8: bool,
    ) -> None:
        super().__init__()
        if compile or int8 or (half and runtime != OPENVINO) or model.device.type != "cpu":
            what = "the CPU with --runtime, no --compile, no --int8, and --half with torch or openvino alone"
            raise InputError(f"expected {what}")
        own = file or exported_file(config, weights)
        loaded = load_openvino_predictor(own, half=half) if runtime == OPENVINO else load_onnx_predictor(own)
        if file and loaded.fingerprint != detector_fingerprint(model):
            raise InputError(f"expected a file exported from this detector, {file} is of another one")
        self.detector, self.is_bgr = loaded.model, model.input_format == "BGR"

    def forward(self, inputs: list[dict], *, classes: ClassEmbeddings) -> list[dict]:
        """As OpenVocabRCNN's."""
        if self.is_bgr:  # the file takes RGB
            inputs = [{**each, "image": each["image"].flip(0)} for each in inputs]
        return self.detector(inputs, classes=classes)


def _tell_known_novel(config: DictConfig, header: Mapping[str, Any]) -> None:
    """A warning where figures of "novel" classes are of classes that the weights have seen boxes of."""
    metadata = MetadataCatalog.get(instantiate(config.dataloader.test.dataset.names))
    known = same_meaning(known_classes(header) or (), metadata.get("novel_classes", ()))
    if known:
        logger.warning("the weights were trained on boxes of classes that are novel here: %s", listed(known))


def _check(
    config: DictConfig, split: str | Path | None, setting: str, iou_types: Sequence[str], max_detections: int | None
) -> None:
    if setting not in SETTINGS:
        raise InputError(f"expected a setting out of {', '.join(SETTINGS)}, got {setting!r}")
    if setting == "constrained" and split is None:
        raise InputError("expected a split that says which classes are novel for the constrained setting, got none")
    if max_detections is not None and max_detections < 1:
        raise InputError(f"expected at least 1 detection a photo, got {max_detections}")
    if "segm" in iou_types and not (is_own(config) and config.model.roi_heads.get("mask_in_features")):
        raise InputError("expected a detector with masks to score masks, the config's has none")


@contextmanager
def registered(dataset: Mapping[str, Any]) -> Iterator[None]:
    """A dataset in detectron2's catalogs for the time of a `with` block: files may change between two evaluations.

    Args:
        dataset: the arguments of `register_coco_subsets`.

    Raises:
        InputError: as of `register_coco_subsets`, or there is nothing to find.
    """
    name = register_coco_subsets(**dataset)
    try:
        if not any(entry["image_count"] for entry in MetadataCatalog.get(name).class_image_count):
            raise InputError(f"expected annotations of the classes asked for in {dataset['json_file']}, got none")
        yield
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
