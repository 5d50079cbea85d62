"""Small models of transformers' families, untrained, in folders as `save_pretrained` writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

WORDS = ["<pad>", "<unk>", "<s>", "</s>", *"a the photo of cat dog longer text about dogs two small cats".split()]
SIZE = 32  # pixels


@pytest.fixture(scope="session")
def hugging_face_folder(tmp_path_factory) -> Callable[[str], Path]:
    """A family's name -> the folder of its small model, made once."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            torch.manual_seed(0)
            model, image_processor = MAKERS[family]()
            model.save_pretrained(made[family])
            image_processor.save_pretrained(made[family])
            make_tokenizer().save_pretrained(made[family])
        return made[family]

    return folder


def make_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", WORDS.index("<s>")), ("</s>", WORDS.index("</s>"))]
    )
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


TEXT = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": WORDS.index("<pad>"),
    "bos_token_id": WORDS.index("<s>"),
    "eos_token_id": WORDS.index("</s>"),
}
VISION = {
    "image_size": SIZE,
    "patch_size": 8,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def make_clip():
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    config = CLIPConfig(
        text_config={**TEXT, "max_position_embeddings": 20, "projection_dim": 12},
        vision_config={**VISION, "projection_dim": 12},
        projection_dim=12,
    )
    return CLIPModel(config), CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE)


def make_align():
    from transformers import AlignConfig, AlignModel, EfficientNetImageProcessor

    config = AlignConfig(
        text_config={**TEXT, "max_position_embeddings": 80},
        vision_config={
            "image_size": SIZE,
            "width_coefficient": 1.0,
            "depth_coefficient": 1.0,
            "hidden_dim": 24,
            "kernel_sizes": [3, 5],
            "in_channels": [32, 16],
            "out_channels": [16, 24],
            "strides": [1, 2],
            "num_block_repeats": [1, 1],
            "expand_ratios": [1, 6],
            "depthwise_padding": [],
        },
        projection_dim=24,  # as wide as the last of out_channels
    )
    model = AlignModel(config)
    model.temperature.data.fill_(0.02)  # as trained ones have; untrained it is 1
    image_processor = EfficientNetImageProcessor(
        size={"height": 40, "width": 40},
        crop_size={"height": SIZE, "width": SIZE},
        do_center_crop=True,
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        include_top=True,
    )
    return model, image_processor


def make_siglip():
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    config = SiglipConfig(
        text_config={**TEXT, "max_position_embeddings": 16, "projection_size": 16}, vision_config=VISION
    )
    model = SiglipModel(config)
    model.logit_scale.data.fill_(4.7)  # as trained ones have; untrained it divides by 1
    return model, SiglipImageProcessor(size={"height": SIZE, "width": SIZE})


MAKERS = {"clip": make_clip, "align": make_align, "siglip": make_siglip}
