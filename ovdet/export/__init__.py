"""A trained detector as a file that needs neither detectron2 nor this package, and back from it into the predictor."""

from ovdet.export.onnx_detector import OnnxDetector, load_onnx_predictor
from ovdet.export.write import FORMATS, export_detector

__all__ = ["FORMATS", "OnnxDetector", "export_detector", "load_onnx_predictor"]
