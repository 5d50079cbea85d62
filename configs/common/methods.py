"""The methods of arXiv:2104.13921 as small changes of one model (ViLD-text as it comes from common/models)."""

from copy import deepcopy

from detectron2.config import LazyCall as L
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, StandardROIHeads
from omegaconf import DictConfig

from ovdet.data.dataset import training_classes
from ovdet.data.proposal_files import PrecomputedProposals
from ovdet.device import choose_device
from ovdet.modeling.detector import ClosedSetRCNN
from ovdet.modeling.embedding_heads import ImageBranch
from ovdet.modeling.region_sources import OnlineRegions, StoredRegions
from ovdet.modeling.region_teacher import RegionTeacher
from ovdet.modeling.score_fusion import GeometricScores, ImageScores
from ovdet.objectives.l1_distillation import L1Distillation
from ovdet.regions.store import RegionStore
from ovdet.teachers.crops import RegionEmbedder
from ovdet.teachers.registry import load_teacher

_OPEN_ONLY = ("score_fusion", "image_temperature", "objectives", "image_branch", "region_teacher")


def _teacher_on_crops() -> DictConfig:
    teacher = L(load_teacher)(name="${teacher.name}", device=L(choose_device)(name="${train.device}"))
    return L(RegionEmbedder)(teacher=teacher)


def online_regions(model: DictConfig, max_regions: int = 32) -> DictConfig:
    """The teacher embeds base ground truth and the best proposals of each step's own photos."""
    model.region_source = L(OnlineRegions)(embed_crops=_teacher_on_crops(), max_regions=max_regions)
    return model


def stored_regions(model: DictConfig, dataloader: DictConfig, max_regions: int = 300) -> DictConfig:
    """The mapper brings regions from a store (dataset.region_store)."""
    model.region_source = L(StoredRegions)()
    dataloader.train.mapper.update(region_store=L(RegionStore)(path="${dataset.region_store}"), max_regions=max_regions)
    return model


def vild(model: DictConfig, weight: float = 0.5) -> DictConfig:
    """ViLD: one head for text classification and distillation; needs online_regions or stored_regions."""
    model.roi_heads.objectives = [L(L1Distillation)(weight=weight)]
    return model


def vild_image(model: DictConfig, weight: float = 0.5) -> DictConfig:
    """ViLD-image: distillation alone; no classification loss, no background, objectness instead."""
    model.roi_heads.box_predictor.loss_weight = dict(loss_cls=0.0, loss_box_reg=1.0)
    model.roi_heads.score_fusion = L(ImageScores)(objectness_exponent=0.5)
    return vild(model, weight)


def vild_ensemble(model: DictConfig, weight: float = 0.5) -> DictConfig:
    """ViLD-ensemble: a head of its own for distillation, scores fused by geometric mean, 2/3 and 1/3."""
    heads = model.roi_heads
    box_head = deepcopy(heads.box_head)
    heads.image_branch = L(ImageBranch)(box_head=box_head, in_features=box_head.fc_dims[-1], width="${teacher.width}")
    heads.score_fusion = L(GeometricScores)(base_exponent=2 / 3, novel_exponent=1 / 3)
    return vild(model, weight)


def vild_text_teacher(model: DictConfig, max_crops: int = 1000, nms_threshold: float = 0.9) -> DictConfig:
    """ViLD-text weights; at test time the teacher on the crops takes the place of the image branch."""
    cut = dict(max_regions=max_crops, nms_threshold=nms_threshold)
    model.roi_heads.region_teacher = L(RegionTeacher)(embed_regions=_teacher_on_crops(), **cut)
    model.roi_heads.score_fusion = L(GeometricScores)(base_exponent=2 / 3, novel_exponent=1 / 3)
    return model


def rcnn_style(model: DictConfig, max_crops: int = 1000, nms_threshold: float = 0.9) -> DictConfig:
    """The slow upper baseline: proposals and boxes of ViLD-text weights, scores by the teacher times objectness."""
    model = vild_text_teacher(model, max_crops, nms_threshold)
    model.roi_heads.score_fusion = L(ImageScores)(objectness_exponent=0.5)
    return model


def precomputed_proposals(model: DictConfig, dataset: dict, dataloader: DictConfig) -> DictConfig:
    """Proposals of a file in place of the RPN's, for training and testing (R-CNN, Fast R-CNN)."""
    model.proposal_generator = None
    for name, loader in (("train", dataloader.train), ("val", dataloader.test)):
        key = f"proposals_{name}"
        dataset[key] = f"${{.root}}/{key}.json"
        loader.mapper.proposals = L(PrecomputedProposals)(path=f"${{dataset.{key}}}")
    return model


def weights_of(train: DictConfig, init_checkpoint: str, output_dir: str) -> None:
    """The method takes another's weights as they are: nothing is left to train, and training is refused."""
    train.update(init_checkpoint=init_checkpoint, init_parts="", output_dir=output_dir)
    train.freeze = "backbone,proposal_generator,roi_heads"


def closed_set(model: DictConfig) -> DictConfig:
    """The supervised baseline: detectron2's linear classifier over the base classes."""
    names = L(training_classes)(dataset_name="${dataloader.train.dataset.names}")
    heads, predictor = model.roi_heads, model.roi_heads.box_predictor
    model._target_, model.training_classes = ClosedSetRCNN, names
    heads._target_, heads.num_classes = StandardROIHeads, "${dataset.num_base}"
    for key in _OPEN_ONLY:
        heads.pop(key, None)
    predictor._target_, predictor.cls_agnostic_bbox_reg = FastRCNNOutputLayers, True
    predictor.num_classes = "${dataset.num_base}"
    del predictor.width, predictor.temperature
    return model
