"""A detector as a folder: what is written and read back, that it can run no code, and all that is refused."""

from __future__ import annotations

import errno
import json
import logging
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.config.instantiate import locate
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.engine.checkpoint import read_checkpoint
from ovdet.errors import InputError
from ovdet.hub import model_folder
from ovdet.hub.find import find_model, open_config
from ovdet.hub.load import find_weights, has_teacher, load_detector
from ovdet.hub.model_folder import CARD, CONFIG, FORMAT, NAMES, WEIGHTS, read_model_config, write_model_folder
from ovdet.hub.parts import DETECTRON2, part_name
from ovdet.teachers.registry import load_teacher

CARD_TEXT = "# A tiny model\n\nFür nichts gut.\n"


@pytest.fixture(scope="module")
def config(tiny_files):
    return open_config(tiny_files.arguments[1], tiny_files.overrides)


@pytest.fixture(scope="module")
def weights(tiny_files) -> str:
    return tiny_files.arguments[3]


@pytest.fixture(scope="module")
def packed(config, weights, tmp_path_factory) -> Path:
    """The tiny detector's folder; nobody changes it."""
    folder = tmp_path_factory.mktemp("packed") / "model"
    write_model_folder(config, weights, folder, card=CARD_TEXT)
    return folder


@pytest.fixture
def folder(packed, tmp_path) -> Path:
    """A copy of one's own."""
    return shutil.copytree(packed, tmp_path / "model")


def read_back(folder: Path, *overrides: str) -> torch.nn.Module:
    files = find_model(folder)
    return load_detector(open_config(files.config_file, ["train.device=cpu", *overrides]), files.weights)[0]


def detect(model):
    """Of a photo of noise, 20 names."""
    generator = torch.Generator().manual_seed(0)
    classes = ClassEmbeddings.of(torch.randn(20, 384, generator=generator), [str(k) for k in range(20)])
    image = torch.randint(0, 255, (3, 100, 150), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        return model.inference([{"image": image}], classes=classes, do_postprocess=False)[0]


def test_a_folder_detects_what_the_run_did(config, weights, packed):
    assert {file.name for file in packed.iterdir()} == {CONFIG, WEIGHTS, NAMES, CARD}
    before, *_ = load_detector(config, weights)
    expected, found = detect(before), detect(read_back(packed))
    assert len(expected) == 100 and abs(len(found) - 100) <= 2
    partners = (  # in any order: neighbors may score the same
        (found.pred_boxes.tensor[:, None] - expected.pred_boxes.tensor).abs().amax(-1).le(0.5)
        & (found.scores[:, None] - expected.scores).abs().le(1e-2)
        & (found.pred_classes[:, None] == expected.pred_classes)
    )
    assert partners.any(0).float().mean() > 0.95
    before.load_state_dict({key: value.half().float() for key, value in before.state_dict().items()})
    expected = detect(before)  # and the loss is rounding alone
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores) and torch.equal(found.pred_classes, expected.pred_classes)


def test_trained_names_come_along(packed, monkeypatch, tmp_path):
    embedder = instantiate(read_model_config(packed / CONFIG).name_embedder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("ovdet.text.embedder.load_teacher", lambda *_: pytest.fail("loaded"))
    assert embedder(["Red circle"]).shape == (1, 384)


def test_the_header_the_card_and_the_rule_for_photos_are_kept(config, packed):
    header = read_checkpoint(str(packed / WEIGHTS))["ovdet"]
    assert header == {"teacher": "conse", "width": 384, "training_classes": ["red circle"]}
    assert (packed / CARD).read_text(encoding="utf-8") == CARD_TEXT
    again = read_model_config(packed / CONFIG)
    resize = instantiate(again.dataloader.test.mapper.augmentations)[0]
    assert (resize.short_edge_length, resize.max_size) == ((192, 192), 256)
    embedder, expected = instantiate(again.name_embedder), instantiate(config.name_embedder)
    assert (embedder.teacher_name, embedder.width, embedder.templates) == ("conse", 384, "a")
    assert embedder.expected_fingerprint == expected.fingerprint  # names by another teacher are refused


def test_weights_are_in_half_precision_and_nothing_is_a_pickle(packed, weights, monkeypatch):
    assert all(value.dtype == torch.float16 for value in load_file(packed / WEIGHTS).values())
    assert (packed / WEIGHTS).stat().st_size < 0.6 * Path(weights).stat().st_size
    content = json.loads((packed / CONFIG).read_text())
    assert content["format"] == FORMAT and "${" not in json.dumps(content)
    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("unpickled"))
    read_back(packed)


def test_no_initial_weights_are_asked_for(tmp_path):
    """The config's backbone and branch start from ImageNet's; a folder has its own."""
    lite = open_config("configs/lite/ovdet_lite.py", ["train.device=cpu"])
    state = instantiate(lite.model).state_dict()
    torch.save({"model": state, "ovdet": {"teacher": "conse"}}, tmp_path / "lite.pth")
    content = write_model_folder(lite, str(tmp_path / "lite.pth"), tmp_path / "lite", card="")
    assert content["model"]["backbone"]["bottom_up"]["weights"] is None
    assert content["model"]["roi_heads"]["image_branch"]["weights"] is None
    found = read_back(tmp_path / "lite").state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], value.half().to(value)) for key, value in state.items())


def test_the_weights_beside_the_config_are_taken_wherever_one_is(packed, tmp_path, monkeypatch):
    (tmp_path / "output").mkdir()
    (tmp_path / "output/last_checkpoint").write_text("model_final.pth")  # of a run with no output_dir of its own
    monkeypatch.chdir(tmp_path)
    assert find_weights(open_config(str(packed / CONFIG))) == str(packed / WEIGHTS)


def test_a_folder_takes_overrides_that_exist(packed):
    assert read_back(packed).roi_heads.box_predictor.test_nms_thresh == 0.5
    model = read_back(packed, "model.roi_heads.box_predictor.test_nms_thresh=0.01")
    assert model.roi_heads.box_predictor.test_nms_thresh == 0.01
    with pytest.raises(InputError, match="test_nms_thresh"):
        read_back(packed, "model.roi_heads.box_predictor.test_nms=0.01")


def put(*keys, value):
    """A change of the content: content[keys[0]][keys[1]]... = value; no keys: all of it."""

    def change(content):
        if not keys:
            return value
        node = content
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
        return content

    return change


def drop(*keys):
    def change(content):
        node = content
        for key in keys[:-1]:
            node = node[key]
        del node[keys[-1]]
        return content

    return change


COMMAND = {"_target_": "os.system", "command": "echo run > ran"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("format", value="ovdet model 3"), "$.format` ('ovdet model 3')"),
        (drop("format"), "`format`"),
        (put(value=[1]), "Expected `object`, got `array`"),
        (drop("model"), "`model`"),
        (put("model", value="none"), "$.model` ('none')"),
        (drop("teacher"), "`teacher`"),
        (drop("teacher", "name"), "`name`"),
        (drop("teacher", "templates"), "`templates`"),
        (put("teacher", "width", value="384"), "teacher.width"),
        (put("teacher", "fingerprint", value=None), "teacher.fingerprint"),
        (drop("resize"), "`resize`"),
        (put("resize", value={"short_edge": 320, "max_size": 400}), "`short_edge`"),
        (put("resize", "max_size", value=0), "resize.max_size"),
        (put("resize", "interp", value=0), "`interp`"),
        (drop("model", "_target_"), "`_target_`"),
        (drop("model", "roi_heads"), "`roi_heads`"),
        (put("model", "_target_", value="ovdet.modeling.score_fusion.TextScores"), "OpenVocabRCNN"),
        (put("model", "_target_", value="ovdet.modeling.TextScores"), "may name, got 'ovdet.modeling.TextScores'"),
        (put("model", value={**COMMAND, "roi_heads": {}}), "'os.system'"),
        (put("model", "roi_heads", "score_fusion", value=COMMAND), "'os.system'"),
        (put("model", "pixel_mean", value=[1, [COMMAND]]), "'os.system'"),
        (put("model", "backbone", "bottom_up", "weights", value={"_target_": "torch.load", "f": "x"}), "'torch.load'"),
        (put("model", "backbone", "_target_", value=["os.system"]), "'os.system'"),
        (put("model", "backbone", "_target_", value={"a": "os.system"}), "do not fit"),
        (put("teacher", "more", value=COMMAND), "'os.system'"),
        (put("model", "input_format", value="${oc.env:HOME}"), "oc.env"),
        (put("teacher", "name", value="${oc.env:HOME}"), "oc.env"),
        (put("model", "roi_heads", "suppress", value="os.system"), "suppress"),
        (put("model", "roi_heads", "_target_", value="ovdet.modeling.roi_heads.torch"), "roi_heads.torch"),
        (put("model", "roi_heads", "_target_", value="ovdet.modeling.roi_heads.os.system"), "os.system"),
        (put("model", "roi_heads", "_target_", value="ovdet.modeling.roi_heads.ROIHeads"), "roi_heads.ROIHeads"),
        (put("model", "roi_heads", "_target_", value="ovdet.data.catalog.register_builtin"), "register_builtin"),
        (put("model", "input_format", value="???"), "do not fit"),
        (put("model", "roi_heads", "unheard_of", value=1), "unheard_of"),
        (drop("model", "proposal_generator", "head"), "head"),
        (put("model", "backbone", "bottom_up", "name", value="no_such_model"), "no_such_model"),
        (put("model", "backbone", "out_channels", value="wide"), "do not fit"),
        (put("model", "backbone", "out_channels", value=2**40), "out_channels of at most"),
        (put("model", "roi_heads", "box_pooler", "output_size", value=5000), "output_size of at most 64"),
        (put("model", "roi_heads", "box_pooler", "sampling_ratio", value=10**6), "sampling_ratio of at most 16"),
        (put("model", "roi_heads", "box_head", "fc_dims", value=[900_000, 32]), "of shape"),
        (put("model", "roi_heads", "box_head", "conv_dims", value=[8] * 20_000), "at most 10,000 entries"),
        (put("resize", "max_size", value=10**9), "max_size"),
        (put("teacher", "templates", value=["a {}"] * 100_000), "templates"),
    ],
)  # fmt: skip
def test_contents_that_are_refused(folder, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    content = change(json.loads((folder / CONFIG).read_text()))
    (folder / CONFIG).write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        read_back(folder)
    assert message in str(error.value) and CONFIG in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 600 and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", sorted(DETECTRON2))
def test_detectron2s_parts_have_the_names_that_configs_are_written_with(name):
    assert part_name(locate(name)) == name


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"head": {"_target_": "torch.nn.Linear"}}, False),
        ({"heads": [{"a": 1, "teacher": {"_target_": "ovdet.load_teacher", "name": "conse"}}]}, True),
        ({"teacher": LazyCall(load_teacher)(name="conse")}, True),
    ],
)
def test_only_a_detector_without_a_teacher_is_built_without_random_weights(model, expected):
    """A teacher's weights are not in the detector's file: an untrained one of tests is drawn."""
    assert has_teacher(OmegaConf.create(model, flags={"allow_objects": True})) is expected


@pytest.mark.parametrize("text", ["", "{", "\xff", "[" * 100000, '{"a":' * 3000 + "1" + "}" * 3000])
def test_a_broken_json(folder, text):
    (folder / CONFIG).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=f"{CONFIG}") as error:
        read_back(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["missing", "empty", "junk", "truncated", "shapes", "lacking", "teacher"])
def test_damaged_weights(folder, kind):
    file = folder / WEIGHTS
    content = file.read_bytes()
    if kind == "missing":
        file.unlink()
    elif kind in ("empty", "junk"):
        file.write_bytes(b"" if kind == "empty" else b"junk" * 100)
    elif kind == "truncated":
        file.write_bytes(content[: len(content) // 2])
    else:
        with safe_open(file, framework="pt") as opened:
            header = opened.metadata()
        tensors = load_file(file)
        key = "roi_heads.box_predictor.projection.linear.weight"
        if kind == "shapes":
            tensors[key] = torch.zeros(3, 3)
        elif kind == "lacking":
            del tensors[key]
        else:
            header = {"ovdet": json.dumps({"teacher": "open_clip:ViT-B-32/openai"})}
        save_file(tensors, file, header)
    with pytest.raises(InputError) as error:
        read_back(folder)
    expected = {"shapes": "projection.linear.weight", "lacking": "projection.linear.weight", "teacher": "open_clip"}
    assert expected.get(kind, WEIGHTS) in str(error.value) and "\n" not in str(error.value)


def test_what_cannot_be_packed(config, weights, tiny_files, tmp_path):
    def refuse(message: str, *overrides: str, at: Path = tmp_path / "model") -> None:
        changed = open_config(tiny_files.arguments[1], [*tiny_files.overrides, *overrides])
        with pytest.raises(InputError, match=message) as error:
            write_model_folder(changed, weights, at, card="")
        assert "\n" not in str(error.value)

    refuse("ResizeShortestEdge", "dataloader.test.mapper.augmentations=[]")
    (tmp_path / "file").write_text("")
    refuse("place to write to", at=tmp_path / "file" / "model")
    foreign = open_config(tiny_files.arguments[1], tiny_files.overrides)
    foreign.model.roi_heads.mask_pooler = LazyCall(torch.nn.Identity)()  # not marked, whatever it does
    with pytest.raises(InputError, match="got 'torch.nn.*Identity' in the config"):
        write_model_folder(foreign, weights, tmp_path / "model", card="")
    with pytest.raises(InputError, match="none.pth does not exist"):
        write_model_folder(config, str(tmp_path / "none.pth"), tmp_path / "model", card="")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("file", [CONFIG, CARD])
def test_a_folder_of_something_else_is_left_alone(config, weights, tmp_path, file):
    (tmp_path / file).write_text("mine")
    with pytest.raises(InputError, match="expected a new folder or one of a detector"):
        write_model_folder(config, weights, tmp_path, card="")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [(file, "mine")]


def test_a_folder_where_the_weights_should_be(config, weights, tmp_path):
    (tmp_path / WEIGHTS).mkdir()
    with pytest.raises(InputError, match=f"expected a place to write to, got .*{WEIGHTS}: "):
        write_model_folder(config, weights, tmp_path, card="")
    assert [found.name for found in tmp_path.iterdir()] == [WEIGHTS]


def test_a_folder_that_was_not_written_to_its_end_is_none(config, weights, tmp_path):
    """The config, which makes it a model, is written last."""
    (tmp_path / "model" / CONFIG).mkdir(parents=True)  # nothing can be written there
    with pytest.raises(InputError, match="place to write to"):
        write_model_folder(config, weights, tmp_path / "model", card="")
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == sorted([CONFIG, WEIGHTS, NAMES, CARD])
    with pytest.raises(InputError, match=f"model's {CONFIG}"):
        find_model(tmp_path / "model")


def test_a_full_disk_leaves_an_older_detector(config, weights, folder, monkeypatch):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=f"{WEIGHTS}: No space left on device"):
        write_model_folder(config, weights, folder, card="")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_folder_of_0_1_or_that_cannot_be_read(folder):
    content = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**content, "format": "ovdet model 1"}))
    with pytest.raises(InputError, match="of version 0.2, .* is of 0.1: train and pack that detector anew"):
        read_model_config(folder / CONFIG)
    (folder / CONFIG).unlink()
    (folder / CONFIG).mkdir()
    with pytest.raises(InputError, match=f"expected the {CONFIG} of a model folder, .* cannot be read: Is a directory"):
        read_model_config(folder / CONFIG)


def test_a_config_is_looked_at_without_its_weights(folder):
    (folder / WEIGHTS).unlink()
    assert read_model_config(folder / CONFIG).model.roi_heads.box_predictor is not None


def test_trained_names_of_a_text_encoder_that_is_not_here(caplog, monkeypatch):
    """The detector is packed all the same, and that is said."""

    class Embedder:
        teacher_name, templates, fingerprint = "elsewhere", ("a {}",), "ab"

        def known_of(self, names):
            return tuple(names)

        def __call__(self, names):
            raise InputError("expected the text encoder, it cannot be fetched")

    monkeypatch.setattr(logging.getLogger("ovdet"), "propagate", True)
    assert model_folder.known_names(Embedder(), {"training_classes": ["dog"]}) is None
    assert "each use asks the text encoder: expected the text encoder" in caplog.text
    assert model_folder.known_names(Embedder(), {}) is None
