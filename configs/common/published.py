"""Published detectors as a start for training: their parts as `ovdet convert` builds them, and their text space."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ovdet.data.samplers import frequency_weights
from ovdet.hub.published.variant import Variant
from ovdet.modeling.box_predictor import FederatedBoxPredictor


def fine_tuned(model: DictConfig, *, masks: bool = False) -> DictConfig:
    """A published detector that trains: classes of its federated loss are drawn by their photos in the training set.

    Args:
        model: of `Variant.build_model`.
        masks: whether its mask head trains, which needs a segmentation with every box (mapper.use_masks); else it goes.
    """
    heads = model.roi_heads
    for predictor in (*heads.get("earlier_predictors", ()), heads.box_predictor):
        if predictor._target_ == L(FederatedBoxPredictor)()._target_:
            names = "${dataloader.train.dataset.names.name}"
            predictor.class_weights = L(frequency_weights)(dataset_name=names, power=0.5)
    if not masks and "mask_in_features" in heads:
        heads.mask_in_features = None
    return model


def text_space(variant: Variant) -> dict:
    """The text space of a published detector, as a config's `teacher`."""
    space = variant.space
    return dict(name=space.name, width=space.width, templates=space.templates, embeddings=None)
