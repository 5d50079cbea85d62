"""The image side as the frozen backbone's own classifier on each region (F-VLM, arXiv:2209.15639)."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ovdet.modeling import DenseImageBranch, GeometricScores
from ovdet.teachers.conse import load_conse_head


def dense_image_branch(model: DictConfig, *, trained: bool = False) -> DictConfig:
    """For EfficientNet-Lite below and `conse` as the teacher.

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
    # of a name that it was not trained on the text branch knows less than the paper's 1/3, but still that it is a thing
    model.roi_heads.score_fusion = L(GeometricScores)(
        base_exponent=2 / 3, novel_exponent=0.15, foreground_exponent=0.35, objectness_exponent=0.1
    )
    return model
