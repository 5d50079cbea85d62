"""What other papers add to ViLD, as small changes of one model: for few photos and short schedules."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ovdet.modeling import DenseImageBranch, GeometricScores, LocalisationQuality
from ovdet.teachers.conse import load_conse_head


def dense_image_branch(model: DictConfig, *, trained: bool = False) -> DictConfig:
    """The image side as the frozen backbone's own classifier on each region (F-VLM, arXiv:2209.15639).

    For EfficientNet-Lite below and `conse` as the teacher.

    Args:
        model: with `backbone` a PyramidWithMaps.
        trained: whether distillation, if there is any, trains that classifier.
    """
    model.roi_heads.image_branch = L(DenseImageBranch)(
        in_feature="stride32",
        stride=32,
        width="${teacher.width}",
        weights=L(load_conse_head)(variant=0),
        trained=trained,
    )
    return model


def localisation_quality(model: DictConfig) -> DictConfig:
    """Boxes are ranked by how well they fit, too (OLN, arXiv:2108.06753)."""
    model.roi_heads.quality = L(LocalisationQuality)(in_features=model.roi_heads.box_head.fc_dims[-1])
    return model


def foreground_fusion(model: DictConfig) -> DictConfig:
    """Of a novel name the text branch of a short schedule knows little, but still that there is a thing."""
    model.roi_heads.score_fusion = L(GeometricScores)(
        base_exponent=2 / 3, novel_exponent=0.15, foreground_exponent=0.35, objectness_exponent=0.3
    )
    return model
