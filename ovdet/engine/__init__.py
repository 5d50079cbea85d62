"""Training and evaluation on detectron2's engine. Depends on everything below it."""

from ovdet.engine.config import load_config
from ovdet.engine.evaluate import do_test
from ovdet.engine.extract import extract_regions
from ovdet.engine.extract_plan import ExtractOptions
from ovdet.engine.options import TrainOptions, choose_device
from ovdet.engine.train import do_train, load_detector, prepare_dataset, prepare_output, training_classes

__all__ = [
    "ExtractOptions",
    "TrainOptions",
    "choose_device",
    "do_test",
    "do_train",
    "extract_regions",
    "load_config",
    "load_detector",
    "prepare_dataset",
    "prepare_output",
    "training_classes",
]
