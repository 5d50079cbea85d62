"""Export as a user runs it; the file run by onnxruntime, by torch and by the demo, beside the detector it came from."""

import importlib.util
import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from PIL import Image
from torchvision.ops import box_iou

from configs.common.methods import vild_ensemble
from ovdet.class_embeddings import ClassEmbeddings, LearnedRows
from ovdet.engine.config import load_config
from ovdet.errors import InputError
from ovdet.export import write
from ovdet.export.onnx_detector import load_onnx_predictor, load_openvino_predictor
from ovdet.hub.find import open_config
from ovdet.hub.model_folder import write_model_folder
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.text.classes import join_classes
from ovdet.text.embeddings import TextEmbeddings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)], ids=["one pass", "two passes"])
def folder(request, tiny_files, tmp_path_factory) -> Path:
    """The tiny detector as a model folder, with all that a file may have: fused scores, masks, prompts of its own."""
    _, file, _, weights = tiny_files.arguments
    config = open_config(file, [*tiny_files.overrides, "teacher.templates=['a drawing of a {}']"])
    heads = vild_ensemble(config.model).roi_heads
    heads.update(objectives=[], mask_in_features=["p4", "p5"], box_passes=request.param)
    heads.mask_pooler = L(ROIPooler)(
        output_size=14, scales=(1 / 16, 1 / 32), sampling_ratio=0, pooler_type="ROIAlignV2"
    )
    shape = L(ShapeSpec)(channels=16, width=14, height=14)
    heads.mask_head = L(MaskRCNNConvUpsampleHead)(input_shape=shape, num_classes=1, conv_dims=[8, 8])
    torch.manual_seed(0)
    model, content = instantiate(config.model), torch.load(weights, weights_only=True)
    torch.nn.init.normal_(model.roi_heads.image_branch.projection.linear.weight, std=1.0)  # as in the text branch
    model.load_state_dict(content["model"], strict=False)
    folder = tmp_path_factory.mktemp("folder")
    torch.save({**content, "model": model.state_dict()}, folder / "tiny.pth")
    write_model_folder(config, str(folder / "tiny.pth"), folder / "tiny", card="# Tiny\n")
    return folder / "tiny"


@pytest.fixture(scope="module")
def exported(folder) -> Path:
    """And as .onnx, by the real command."""
    file = folder.parent / "tiny.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", ["export.py", "--model", str(folder), "--output", str(file)])
        runpy.run_path("tools/export.py", run_name="__main__")
    return file


@pytest.fixture(scope="module")
def eager(folder) -> OpenVocabPredictor:
    """The detector that the file was written from."""
    return OpenVocabPredictor.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    """Patches of color, noise over them."""
    generator = np.random.default_rng(0)
    patches = np.kron(generator.integers(0, 200, (5, 6, 3)), np.ones((40, 50, 1)))
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray((patches + generator.integers(0, 55, patches.shape)).astype(np.uint8)).save(path)
    return path


def assert_same(found, expected):
    """As what is asked of parity, and tighter."""
    assert found.labels == expected.labels and found.size == expected.size
    assert np.allclose(found.scores, expected.scores, atol=1e-4)
    assert np.allclose(found.boxes, expected.boxes, atol=0.05)
    assert found.masks.shape == expected.masks.shape and (found.masks != expected.masks).mean() < 1e-3
    assert 0.01 < expected.masks.mean() < 0.99


@pytest.mark.parametrize("number", [1, 65, 1203])
def test_onnxruntime_finds_what_the_detector_finds(exported, eager, photo, number):
    embeddings = F.normalize(torch.randn(number, 384, generator=torch.Generator().manual_seed(number)), dim=1)
    names = ("red circle", *(f"thing {k}" for k in range(1, number)))  # the first alone was trained on
    predictor = load_onnx_predictor(exported, device="cpu")
    for each in (predictor, eager):
        each.set_vocabulary(TextEmbeddings(embeddings, names, ("a {}",), "conse", ""))
    expected = eager(photo, threshold=0)
    assert len(expected) > 10
    assert_same(predictor(photo, threshold=0), expected)


@pytest.mark.slow
def test_openvino_finds_what_onnxruntime_finds(exported, eager, photo):
    pytest.importorskip("openvino")
    predictors = load_onnx_predictor(exported, device="cpu"), load_openvino_predictor(exported)
    found = [predictor(photo, names=["red circle", "wheel"], threshold=0) for predictor in predictors]
    assert len(found[0]) > 10
    assert_same(found[1], found[0])
    half = load_openvino_predictor(exported, half=True)(photo, names=["red circle", "wheel"], threshold=0)
    assert len(half) > 10
    mine = eager.learn("patch", [(photo, [[50, 40, 150, 120]])])
    with pytest.raises(InputError, match="torch, or onnx"):
        predictors[1](photo, classes=mine)


@pytest.mark.parametrize("names", [(), ("red circle", "wheel")])
def test_the_file_finds_learned_classes_too(exported, eager, photo, names):
    mine = eager.learn("patch", [(photo, [[50, 40, 150, 120]])])
    second = replace(mine.learned, biases=mine.learned.biases - 1, weights=mine.learned.weights.flip(1))
    rows = LearnedRows(*(torch.cat([getattr(each, key) for each in (mine.learned, second)])
                         for key in ("weights", "biases", "class_ids")))  # fmt: skip
    predictor = load_onnx_predictor(exported, device="cpu")
    assert predictor.fingerprint == eager.fingerprint
    for learned in (mine, replace(mine, learned=rows)):
        classes = join_classes(eager.embed(names, negatives=["dog"]), learned) if names else learned
        expected, found = (each(photo, classes=classes, threshold=0) for each in (eager, predictor))
        assert set(expected.labels) == {"patch", *names}
        best = min(30, len(expected), len(found))  # each side has limits of its own on how many there may be
        if learned is mine:
            assert best > 10 and np.allclose(found.scores[:best], expected.scores[:best], atol=1e-4)
            assert found.labels[:best] == expected.labels[:best]
        assert np.allclose(found.scores[0], expected.scores[0], atol=1e-4)


def test_learned_classes_of_another_detector_are_refused(exported, eager, photo):
    predictor = load_onnx_predictor(exported, device="cpu")
    mine = replace(eager.learn("patch", [(photo, [[50, 40, 150, 120]])]), detector="0" * 16)
    with pytest.raises(InputError, match="another's"):
        predictor(photo, classes=mine)


def test_names_are_embedded_by_the_detectors_own_prompts(exported, eager):
    prompts = load_onnx_predictor(exported, device="cpu").embed_names.templates
    assert prompts == eager.embed_names.templates == ("a drawing of a {}",)


@pytest.mark.parametrize("size", [(192, 288), (97, 131), (1, 1), (31, 700)])
def test_the_file_alone_takes_photos_of_any_size(exported, size):
    import onnxruntime

    image = np.random.default_rng(0).integers(0, 255, (3, *size), dtype=np.uint8)
    session = onnxruntime.InferenceSession(str(exported))
    names = {"vocabulary": np.eye(7, 384, dtype=np.float32), "is_base": np.arange(7) < 3}
    boxes, scores, classes, masks = session.run(None, {"image": image, **names})
    assert len(boxes) == len(scores) == len(classes) == len(masks) > 0
    assert (boxes >= 0).all() and (boxes <= [size[1], size[0], size[1], size[0]]).all()
    assert (classes < 7).all() and (np.diff(scores) <= 0).all()


def test_the_file_describes_itself(exported):
    import onnx

    model = onnx.load(exported)
    onnx.checker.check_model(model)
    (entry,) = model.metadata_props
    description = json.loads(entry.value)
    assert entry.key == "ovdet" and description["teacher"] == "conse" and description["width"] == 384
    assert description["templates"] == ["a drawing of a {}"]
    assert description["training_classes"] == ["red circle"] and len(description["fingerprint"]) == 16
    assert description["resize"] == {"short_edge_length": 192, "max_size": 256}
    assert str(ROOT).encode() not in exported.read_bytes()  # no stack traces
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input]
    needed, optional = ["image", "vocabulary", "is_base"], ["learned_weights", "learned_biases"]
    assert [value.name for value in model.graph.input] == [*needed, *optional]
    assert {value.name for value in model.graph.initializer} >= set(optional)  # which may be left out
    assert [shape[0] for shape in shapes[:3]] == [3, *[shapes[1][0]] * 2] and shapes[1][1] == 384
    assert isinstance(shapes[3][0], str) and shapes[3][0] == shapes[4][0] != shapes[1][0]
    assert all(isinstance(side, str) for side in (*shapes[0][1:], shapes[1][0]))


def test_integers_find_nearly_the_same(exported, folder, eager, photo, run_tool, tmp_path, monkeypatch):
    import onnx

    file = tmp_path / "int8.onnx"
    with monkeypatch.context() as patch:  # what comes before takes its time, and is the same
        patch.setattr("ovdet.export.write.trace", lambda *_, **options: None)
        patch.setattr("ovdet.export.write.pack_onnx", lambda *_: exported.read_bytes())
        code, _, err = run_tool("export.py", "--model", folder, "--format", "onnx_int8", "--output", file)
    assert code == 0, err[-2000:]
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(file).graph.initializer}
    assert kinds["roi_heads.box_head.fc1.weight_quantized"] == onnx.TensorProto.INT8  # of both passes
    assert "roi_heads.box_head.fc1.weight" not in kinds
    assert file.stat().st_size < exported.stat().st_size
    predictor = load_onnx_predictor(file, device="cpu")
    predictor.set_vocabulary(["red square", "wheel"])
    eager.set_vocabulary(["red square", "wheel"])
    found, expected = predictor(photo, threshold=0), eager(photo, threshold=0)
    near = box_iou(torch.from_numpy(expected.boxes), torch.from_numpy(found.boxes)).max(1).values > 0.9
    assert near.float().mean() > 0.9


@pytest.mark.slow
def test_openvino_runs_a_network_in_8_bits(folder, eager, photo, run_tool, tmp_path):
    pytest.importorskip("openvino")
    onnx = pytest.importorskip("nncf") and pytest.importorskip("onnx")
    file = tmp_path / "int8.onnx"
    form = ("--format", "openvino_int8", "--photos", photo.parent)
    code, _, err = run_tool("export.py", "--model", folder, *form, "--output", file)
    assert code == 0, err[-2000:]
    nodes = onnx.load(file).graph.node
    dequantized = {output for node in nodes if node.op_type == "DequantizeLinear" for output in node.output}
    layers = [node for node in nodes if node.op_type in ("Conv", "Gemm")]
    in_int8 = [node for node in layers if node.input[1] in dequantized]
    assert len(in_int8) > len(layers) / 2
    assert not any(set(node.input) & dequantized for node in nodes if node.op_type in ("Add", "Mul", "Exp", "MatMul"))
    predictor = load_openvino_predictor(file)
    assert predictor.fingerprint == eager.fingerprint
    found = predictor(photo, names=["red square", "wheel"], threshold=0)  # of random weights, so not the same boxes
    assert len(found) > 10 and found.masks.shape == (len(found), 200, 300)


def test_the_demo_takes_the_file(exported, folder, photo, run_tool, tmp_path):
    common = ("--input", photo, "--vocabulary", "red square, wheel", "--threshold", "0", "--device", "cpu")
    code, _, err = run_tool("demo.py", *common, "--output", tmp_path / "onnx", "--weights", exported)
    assert code == 0, err[-2000:]
    code, _, err = run_tool("demo.py", *common, "--output", tmp_path / "eager", "--model", folder, "--no-half")
    assert code == 0, err[-2000:]
    found, expected = (json.loads((tmp_path / kind / "detections.json").read_text()) for kind in ("onnx", "eager"))
    assert len(expected[0]["detections"]) == len(found[0]["detections"]) > 5
    for theirs in expected[0]["detections"]:  # in any order: some score the same
        assert any(
            ours["label"] == theirs["label"]
            and np.allclose([*ours["box"], ours["score"]], [*theirs["box"], theirs["score"]], atol=0.05)
            for ours in found[0]["detections"]
        )
    assert (tmp_path / "onnx/photo.png").is_file()


def last_line(err: str) -> str:
    assert "Traceback" not in err
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--output", "model.bin"), "*.onnx"),
        (("--output", "setup.py/model.onnx"), "place to write to"),
        pytest.param(  # root finds it out at the end
            ("--output", "/proc/nowhere/model.onnx"), "place to write to", marks=pytest.mark.slow
        ),
        (("--format", "torch_export"), "*.pt2"),
        (("--format", "openvino_int8"), "expected photos, whose ranges of values it needs, got none"),
        (("--photos", "docs"), "expected no photos for this format"),
        (("--format", "openvino_int8", "--photos", "nowhere"), "nowhere does not exist"),
        (("--weights", "none.pth"), "none.pth does not exist"),
        (("--model", "output"), "one of the two"),
        (("--config-file", "configs/lite/rcnn_style.py"), "asks a teacher about crops"),
        (("dataloader.test.mapper.augmentations=[]",), "ResizeShortestEdge"),
    ],
)
def test_bad_input(tiny_files, run_tool, tmp_path, change, message):
    arguments = ["--output", tmp_path / "model.onnx", *tiny_files.arguments, *tiny_files.overrides, *change]
    code, _, err = run_tool("export.py", *arguments)
    assert code == 2 and message in last_line(err), err[-2000:]
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tiny_files, run_tool, tmp_path, exported, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name.startswith("onnx") else find(name, *more)
    )
    code, _, err = run_tool("export.py", "--output", tmp_path / "m.onnx", *tiny_files.arguments)
    assert code == 2 and "pip install onnx onnxscript" in last_line(err)
    with pytest.raises(InputError, match="pip install onnxruntime"):
        load_onnx_predictor(exported)


def test_files_that_are_no_detectors(exported, shared_data, tmp_path, photo, run_tool):
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(InputError, match="does not load"):
        load_onnx_predictor(tmp_path / "junk.onnx")
    with pytest.raises(InputError, match="does not exist"):
        load_onnx_predictor(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="by ovdet export, .*`format`"):
        load_onnx_predictor(shared_data / "peers/yolox_nano.onnx")
    with pytest.raises(InputError, match="'tpu'"):
        load_onnx_predictor(exported, device="tpu")
    for more, message in (
        (("--weights", exported, "--config-file", "configs/quick/vild.py"), "expected no model, config"),
        (("--weights", exported, "--model", "ovdet-lite"), "expected no model, config"),
        (("--weights", tmp_path / "model.pt2"), "can run code"),
    ):
        out = ("--input", photo, "--vocabulary", "cat", "--output", tmp_path / "out")
        code, _, err = run_tool("demo.py", *out, *more)
        assert code == 2 and message in last_line(err)


def test_the_callers_inference_mode_does_not_reach_the_export(monkeypatch, tiny_files, tmp_path):
    """Parameters that are made in it cannot be traced."""

    def load(config, weights):
        raise InputError(f"inference mode: {torch.is_inference_mode_enabled()}")

    monkeypatch.setattr(write, "load_detector", load)
    with torch.inference_mode(), pytest.raises(InputError, match="inference mode: False"):
        config = load_config(tiny_files.arguments[1], list(tiny_files.overrides))
        write.export_detector(config, tiny_files.arguments[3], tmp_path / "tiny.pt2", write.FORMATS["torch_export"])


@pytest.mark.slow
def test_torch_export_finds_what_the_detector_finds(tiny_files, photo, run_tool, tmp_path):
    """The file needs torch and torchvision alone; only files of one's own are for torch.export.load."""
    _, config, _, weights = tiny_files.arguments
    eager = OpenVocabPredictor.from_config(config, weights, overrides=tiny_files.overrides)
    file = tmp_path / "tiny.pt2"
    code, _, err = run_tool(
        "export.py", *tiny_files.arguments, "--format", "torch_export", "--output", file, *tiny_files.overrides
    )
    assert code == 0, err[-2000:]
    extra = {"ovdet.json": ""}
    program = torch.export.load(file, extra_files=extra).module()
    assert json.loads(extra["ovdet.json"])["teacher"] == "conse"
    image = eager.prepare(Image.open(photo))["image"]
    for number in (1, 65, 1203):
        vocabulary = F.normalize(torch.randn(number, 384, generator=torch.Generator().manual_seed(number)), dim=1)
        asked = ClassEmbeddings.of(vocabulary, [str(k) for k in range(number)])
        with torch.no_grad():
            (expected,) = eager.model.inference([{"image": image}], classes=asked, do_postprocess=False)
            boxes, scores, classes = program(image=image, vocabulary=vocabulary)
        assert len(expected) > 10 and torch.equal(classes, expected.pred_classes)
        assert torch.allclose(scores, expected.scores, atol=1e-4)
        assert torch.allclose(boxes, expected.pred_boxes.tensor, atol=0.05)


@pytest.mark.slow
def test_the_shipped_detector(run_tool, tmp_path):
    """With all that it has: an image side of its own, other names, two box passes."""
    photo = Path(pytest.importorskip("skimage").__file__).with_name("data") / "motorcycle_left.png"
    code, _, err = run_tool("export.py", "--model", "ovdet-lite", "--output", tmp_path / "lite.onnx")
    assert code == 0, err
    exported = load_onnx_predictor(tmp_path / "lite.onnx", device="cpu")
    eager = OpenVocabPredictor.from_pretrained(device="cpu")
    results = []
    for predictor in (exported, eager):
        predictor.set_vocabulary(["motorcycle", "mug", "tabby cat"])
        results.append(predictor(photo))
    found, expected = results
    assert found.labels == expected.labels and found.labels[0] == "motorcycle"
    assert np.abs(found.boxes - expected.boxes).max() < 1 and np.abs(found.scores - expected.scores).max() < 1e-2


@pytest.mark.slow
def test_the_shipped_detector_in_8_bits(run_tool, tmp_path):
    pytest.importorskip("openvino"), pytest.importorskip("nncf")
    data = Path(pytest.importorskip("skimage").__file__).with_name("data")
    (tmp_path / "photos").mkdir()
    asked = {"motorcycle_left.png": "motorcycle", "chelsea.png": "cat", "coffee.png": "cup"}
    for photo in (*asked, "astronaut.png", "rocket.jpg"):
        shutil.copy(data / photo, tmp_path / "photos")
    form = ("--format", "openvino_int8", "--photos", tmp_path / "photos", "--output", tmp_path / "lite.onnx")
    code, _, err = run_tool("export.py", "--model", "ovdet-lite", *form)
    assert code == 0, err
    assert (tmp_path / "lite.onnx").stat().st_size < 22e6  # 57 MB in floats
    predictors = load_openvino_predictor(tmp_path / "lite.onnx"), OpenVocabPredictor.from_pretrained(device="cpu")
    for photo, name in asked.items():
        found, expected = (each(data / photo, names=[name, "mug", "wheel"]) for each in predictors)
        assert found.labels[0] == expected.labels[0] == name
        assert box_iou(*(torch.from_numpy(each.boxes[:1]) for each in (found, expected))) > 0.8
        assert abs(found.scores[0] - expected.scores[0]) < 0.1
