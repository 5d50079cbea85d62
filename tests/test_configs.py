"""Every config loads, builds its detector, can be saved, and is listed in configs/README.md."""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from config_files import CONFIGS, in_tiers, name_of
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig, ListConfig

from ovdet.data.catalog import BUILTIN
from ovdet.engine.config import load_config
from ovdet.engine.options import TrainOptions
from ovdet.engine.train import check_files
from ovdet.errors import InputError
from ovdet.modeling.box_predictor import FederatedBoxPredictor

ROOT = Path(__file__).parents[1]
METHODS = {"closed_set", "rcnn_style", "vild", "vild_ensemble", "vild_image", "vild_text", "vild_text_teacher"}


def offline(config):
    """Put the embedded teacher where a hub would be asked; the structure stays."""
    config.teacher.update(name="conse", width=384, templates="a")
    return config


@pytest.mark.parametrize("family", ["lite", "ov_coco", "ov_lvis"])
def test_all_methods_are_there(family):
    assert {f.stem for f in (ROOT / "configs" / family).glob("*.py")} >= METHODS


@pytest.mark.parametrize("file", in_tiers())
def test_only_what_training_reads_must_be_there(file, tmp_path):
    config = load_config(str(file), [f"dataset.root={tmp_path}", "train.init_checkpoint="])
    for key in ("train", "val", "split", "captions", "proposals_train", "proposals_val"):
        path = Path(config.dataset.get(key) or tmp_path / "none")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    needs_store = config.dataloader.get("train", {}).get("mapper", {}).get("region_store") is not None
    with pytest.raises(InputError, match="ovdet extract writes one") if needs_store else nullcontext():
        check_files(config)


@pytest.mark.parametrize("file", CONFIGS, ids=name_of)
def test_is_listed_in_readme(file):
    _, _, section = (ROOT / "configs/README.md").read_text(encoding="utf-8").partition(f"\n## {file.parent.name}\n")
    assert f"| `{file.name}` |" in section.partition("\n## ")[0]


def test_readme_lists_no_others_and_rows_fit_their_tables():
    for section in (ROOT / "configs/README.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        folder, _, text = section.partition("\n")
        rows = [line for line in text.splitlines() if line.startswith("|")]
        listed = [match[1] for match in (re.match(r"\| `(\w+\.py)` \|", row) for row in rows) if match]
        assert sorted(listed) == sorted(file.name for file in (ROOT / "configs" / folder).glob("*.py"))
        assert len({row.count("|") for row in rows}) == 1


@pytest.mark.parametrize("file", CONFIGS, ids=name_of)
def test_instantiates(file, nanodet_files, undrawn):
    config = offline(LazyConfig.load(str(file)))
    if "nanodet" in config.dataset:
        config.dataset.nanodet = str(nanodet_files)
    assert isinstance(instantiate(config.train), TrainOptions)
    assert instantiate(config.name_embedder).width == 384
    instantiate(config.lr_multiplier)
    assert config.dataset.num_base in (24, 48, 866)
    if "training_classes" in config.model:  # comes from the registered data set, which is not here
        config.model.training_classes = [f"class {i}" for i in range(config.dataset.num_base)]
    model = instantiate(config.model)
    config.optimizer.params.model = model
    instantiate(config.optimizer)
    for loader in (config.dataloader.train, config.dataloader.test):
        if loader.mapper.get("region_store") is not None:
            assert re.match(r".*/regions\w*$", loader.mapper.region_store.path)
            loader.mapper.region_store = None
        for key in ("captions", "sentences"):
            if loader.mapper.get(key) is not None:
                assert loader.mapper[key].captions.endswith("captions_train.json")
                loader.mapper[key] = None
        if loader.mapper.get("proposals") is not None:
            assert re.match(r".*/proposals_\w+.json$", loader.mapper.proposals.path)
            loader.mapper.proposals = None
        instantiate(loader.mapper)
    expected_classes = {"closed_set": "ClosedSetRCNN", "image_labels": "ImageLabelRCNN"}.get(file.stem, "OpenVocabRCNN")
    assert type(model).__name__ == expected_classes


def by_name(node):
    """A config as plain values, with the names of what it calls: a module may have been loaded anew since."""
    if isinstance(node, DictConfig):
        return {key: by_name(node._get_node(key)) for key in node}
    if isinstance(node, ListConfig):
        return [by_name(node._get_node(index)) for index in range(len(node))]
    value = node._value() if hasattr(node, "_value") else node
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else value


def test_federated_configs_differ_in_the_loss_alone():
    for stem in ("vild_text", "vild", "vild_ensemble"):
        plain, federated = (
            LazyConfig.load(str(ROOT / f"configs/ov_lvis/{stem}{end}.py")) for end in ("", "_federated")
        )
        assert federated.model.roi_heads.box_predictor._target_ is FederatedBoxPredictor
        assert federated.model.roi_heads.box_predictor.class_weights.dataset_name == "ov_lvis_v1_train"
        for config in (plain, federated):
            del config.model.roi_heads.box_predictor, config.train.output_dir
        assert by_name(plain) == by_name(federated)


def test_photos_are_repeated_in_ov_lvis_alone():
    for family, sampled in (("ov_lvis", True), ("ov_coco", False)):
        config = LazyConfig.load(str(ROOT / "configs" / family / "vild_text.py"))
        assert ("sampler" in config.dataloader.train) == sampled


@pytest.mark.parametrize("file", sorted((ROOT / "configs/transfer").glob("*.py")), ids=name_of)
def test_transfer_has_one_exponent(file):
    config = load_config(str(file), ["model.roi_heads.score_fusion.open_exponent=0.4"])
    fusion = instantiate(config.model.roi_heads.score_fusion)
    told_apart = fusion.exponents(torch.tensor([True, False]))
    assert fusion.exponents(None).text == 0.4 and torch.equal(told_apart.text, torch.tensor([0.4, 0.4]))
    assert config.dataloader.test.dataset.names.name in BUILTIN


@pytest.mark.parametrize("file", in_tiers())
def test_saved_yaml_loads(file, tmp_path):
    LazyConfig.save(LazyConfig.load(str(file)), str(tmp_path / "config.yaml"))
    saved = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert set(saved) >= {"model", "dataloader", "optimizer", "lr_multiplier", "train", "teacher", "name_embedder"}
