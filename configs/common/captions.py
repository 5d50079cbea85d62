"""Captions that people wrote, as pairs with whole photos."""

from copy import deepcopy

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ovdet.data.captions import CaptionSentences


def captioned(dataset: dict, dataloader: DictConfig, name_embedder: DictConfig) -> None:
    """The mapper brings a caption of each photo, drawn at random out of dataset.captions, and its embedding."""
    dataset["captions"] = "${.root}/captions_train.json"
    embed_texts = deepcopy(name_embedder)
    embed_texts.update(templates=["{}"], file=None)
    dataloader.train.mapper.sentences = L(CaptionSentences)(captions="${dataset.captions}", embed_texts=embed_texts)
