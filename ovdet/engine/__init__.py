"""Training and evaluation on detectron2's engine. Depends on everything below it."""

from ovdet.engine.config import load_config
from ovdet.engine.evaluate import do_test
from ovdet.engine.evaluate_only import evaluate_config, evaluate_on
from ovdet.engine.extract import extract_regions
from ovdet.engine.extract_plan import ExtractOptions
from ovdet.engine.extract_verify import verify_store
from ovdet.engine.learning_rate import slower_part
from ovdet.engine.model_folder import read_resize, write_model_folder
from ovdet.engine.models import DEFAULT_MODEL, add_model_arguments, choose_model, find_model
from ovdet.engine.options import TrainOptions, choose_device
from ovdet.engine.train import check_files, do_train, load_detector, prepare_dataset, prepare_output, training_classes

__all__ = [
    "DEFAULT_MODEL",
    "ExtractOptions",
    "TrainOptions",
    "add_model_arguments",
    "check_files",
    "choose_device",
    "choose_model",
    "do_test",
    "do_train",
    "evaluate_config",
    "evaluate_on",
    "extract_regions",
    "find_model",
    "load_config",
    "load_detector",
    "prepare_dataset",
    "prepare_output",
    "read_resize",
    "slower_part",
    "training_classes",
    "verify_store",
    "write_model_folder",
]
