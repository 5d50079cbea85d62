"""LVIS's federated loss on sigmoid scores with Detic's settings (arXiv:2201.02605), for any method."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ovdet.data.samplers import frequency_weights
from ovdet.modeling.box_predictor import FederatedBoxPredictor


def federated(model: DictConfig) -> DictConfig:
    """Sigmoid scores instead of softmax; each step counts 50 classes: those of its batch, and others by frequency."""
    predictor = model.roi_heads.box_predictor
    predictor._target_ = FederatedBoxPredictor
    predictor.class_weights = L(frequency_weights)(dataset_name="${dataloader.train.dataset.names.name}", power=0.5)
    predictor.update(loss_classes=50, temperature=0.02, prior=0.01)
    return model
