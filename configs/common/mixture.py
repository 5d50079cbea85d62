"""Several data sets in one training: which, how often, and how complete their boxes are (docs/own_data.md)."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ovdet.data.image_labels import LabeledPhotos
from ovdet.data.mixture import DataSet, MixtureMapper, mixture_sampler, register_mixture, set_labels
from ovdet.modeling.image_labels import ImageLabelRCNN
from ovdet.modeling.partial_labels import PartialLabelBoxPredictor, PartialLabelRPN, PartialLabels

_NAMES = "${dataset.name}_train"


def data_set(name: str, share: float, folder: str = "${dataset.more}", **flags: bool) -> DictConfig:
    """A set in `folder`/`name`, instances.json and images/, of which every tenth photo is kept for choosing."""
    files = dict(json_file=f"{folder}/{name}/instances.json", image_root=f"{folder}/{name}/images")
    return L(DataSet)(name=name, share=share, hold_out=10, **files, **flags)


def labeled_photos(name: str, share: float, image_root: str, labels: str | None = None) -> DictConfig:
    """Photos in a folder for each class, or with a json of labels by photo; they have no boxes."""
    return L(LabeledPhotos)(name=name, image_root=image_root, labels=labels, share=share)


def train_on(dataloader: DictConfig, sets: list[DictConfig], *, threshold: float = 0.1) -> None:
    """Train on all sets at once; test on the first one's `dataset.val`, all names."""
    dataloader.train.dataset.names = L(register_mixture)(name=_NAMES, sets=sets)
    dataloader.train.dataset.filter_empty = False  # labeled photos have no boxes
    dataloader.train.mapper._target_ = MixtureMapper
    dataloader.train.sampler = L(mixture_sampler)(name=_NAMES, threshold=threshold)
    dataloader.test.dataset.names.update(split=None, subsets=["base"])


def partial_labels(model: DictConfig) -> DictConfig:
    """Losses that leave out the names of which a photo's set does not speak."""
    labels = L(set_labels)(name=_NAMES)
    model.roi_heads.box_predictor._target_ = PartialLabelBoxPredictor
    model.roi_heads.box_predictor.partial_labels = L(PartialLabels)(labels=labels)
    model.proposal_generator._target_ = PartialLabelRPN
    model.proposal_generator.labels = labels
    return model


def image_labels(model: DictConfig, weight: float = 0.1) -> DictConfig:
    """Photos without boxes teach what their largest proposal is (Detic's max-size loss, arXiv:2201.02605)."""
    model._target_ = ImageLabelRCNN
    model.update(labels=L(set_labels)(name=_NAMES), image_label_weight=weight)
    return model
