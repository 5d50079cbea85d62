"""What all tests share; conftest.py loads it."""

from __future__ import annotations

import copy
import json
import logging
import os
import random
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, cached_property, wraps
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger
from filelock import FileLock
from PIL import Image
from safetensors.torch import save_file

from ovdet import imagenet_lite
from ovdet.cache import cache_folder
from ovdet.data import catalog  # noqa: F401, which announces the built-in data sets
from ovdet.engine.config import load_config
from ovdet.imagenet_lite import load_efficientnet_lite_weights
from ovdet.modeling.backbones.nanodet import NanoDetBackbone
from ovdet.modeling.expert import ClosedSetExpert
from ovdet.modeling.nanodet_weights import layer_names
from ovdet.regions.plan import ImageRecord, RegionPlan, write_plan
from ovdet.regions.shard import ImageRegions, write_shard
from ovdet.regions.store import RegionStore
from ovdet.teachers.base import Teacher
from ovdet.teachers.conse import ConseTeacher
from ovdet.teachers.registry import load_teacher

torch.set_num_threads(1)  # the tensors are small; more threads only get in each other's way


ROOT = Path(__file__).resolve().parents[1]
QUICK = "configs/quick/vild.py"


# changes to the quick config: a network that trains and is traced in seconds
SMALL = (
    "model.backbone.bottom_up.name=test_efficientnet",
    "model.backbone.bottom_up.weights=null",
    "model.backbone.bottom_up.freeze_stages=0",
    "model.backbone.bottom_up.out_indices=[3,4]",
    "model.backbone.in_features=[stride16,stride32]",
    "model.backbone.out_channels=16",
    "model.backbone.top_block=null",
    "model.proposal_generator.in_features=[p4,p5]",
    "model.proposal_generator.anchor_generator.sizes=[[48],[96]]",
    "model.proposal_generator.anchor_generator.strides=[16,32]",
    "model.proposal_generator.head.in_channels=16",
    "model.proposal_generator.head.num_anchors=3",
    "model.roi_heads.box_in_features=[p4,p5]",
    "model.roi_heads.box_pooler.scales=[0.0625,0.03125]",
    "model.roi_heads.box_head.input_shape.channels=16",
    "model.roi_heads.box_head.fc_dims=[32]",
    "model.roi_heads.box_predictor.input_shape.channels=32",
    "train.device=cpu",  # what little four steps teach is asked for, and hangs on how a device rounds
)
# and one that needs no training
TINY = ("model.region_source=null", "model.roi_heads.objectives=[]", *SMALL)


ANNOUNCED = frozenset(DatasetCatalog)  # the built-in ones


@pytest.fixture(scope="module", autouse=True)
def own_data_sets() -> Iterator[None]:
    """What the tests of a file register is gone after them: those of another have other data under the same names."""
    yield
    forget_data_sets()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    """A cache that is empty when the tests start, one for all that run side by side; other programs keep theirs."""
    users = cache_folder().parent
    with pytest.MonkeyPatch.context() as patch:
        for variable, program in (("HF_HOME", "huggingface"), ("TORCH_HOME", "torch"), ("MPLCONFIGDIR", "matplotlib")):
            patch.setenv(variable, os.environ.get(variable) or str(users / program))
        patch.setenv("XDG_CACHE_HOME", str(_folder_of_all(tmp_path_factory) / "cache"))
        yield


def _folder_of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that the processes of a test run have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Every test draws the same random numbers in every run, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_log_handlers():
    """A test's log handlers go with it: they write to streams that pytest closes. Nor does one of before close what
    pytest writes to: absl's (which OpenVINO loads) would, where a server sets up its log.
    """
    logging._handlerList.clear()
    yield
    forget_log_handlers()


@pytest.fixture(scope="session", autouse=True)
def one_conse_teacher():
    """What the embedded teacher reads from files is read once a process."""
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():  # else somebody may move them
            for name in ("_sentence_encoder", "_sentences_digest", "fingerprint", "classifier"):
                patch.setattr(ConseTeacher, name, _read_once(name))
        yield


@pytest.fixture(scope="session", autouse=True)
def configs_read_once():
    """A config of the project is read once a process, of which each test gets a copy; so are ImageNet's weights and
    CLIP's tokens, where anything has loaded open_clip."""
    load, load_weights, configs = LazyConfig.load, cache(load_efficientnet_lite_weights), {}

    def load_config_once(path: str, *keys):
        file = os.path.abspath(path)
        if keys or not file.startswith(f"{ROOT}/configs/"):
            return load(path, *keys)
        if file not in configs:
            configs[file] = load(path)
        return copy.deepcopy(configs[file])

    @wraps(load_efficientnet_lite_weights)
    def load_weights_once(variant: int) -> dict[str, torch.Tensor]:
        return dict(load_weights(variant))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LazyConfig, "load", staticmethod(load_config_once))
        patch.setattr(imagenet_lite, "load_efficientnet_lite_weights", load_weights_once)
        if tokenizers := sys.modules.get("open_clip.tokenizer"):
            patch.setattr(tokenizers.SimpleTokenizer, "__init__", _made_once(tokenizers.SimpleTokenizer.__init__))
        yield


def _made_once(make: Callable[..., None]) -> Callable[..., None]:
    """An `__init__` as one that fills an object with what an earlier one of the same arguments holds."""
    known = {}

    def make_once(made: object, *arguments, **options) -> None:
        key = repr((arguments, options))
        if key not in known:
            make(made, *arguments, **options)
            known[key] = dict(made.__dict__)
        made.__dict__.update(known[key])

    return make_once


def _read_once(name: str) -> cached_property:
    """A cached property of `ConseTeacher` as one that all teachers of a variant have in common."""
    read, known = ConseTeacher.__dict__[name].func, {}

    def value(teacher: ConseTeacher):
        if teacher.variant not in known:
            known[teacher.variant] = read(teacher)
        return known[teacher.variant]

    shared = cached_property(value)
    shared.__set_name__(ConseTeacher, name)
    return shared


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data beside the project (photos, golden results), no part of it; skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the data beside the project (../shared/data) is not here")
    return folder


@pytest.fixture(scope="session")
def conse_teacher() -> Teacher:
    """The embedded teacher, loaded once; nobody moves it to another device."""
    return load_teacher("conse")


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a small CLIP architecture that open_clip then knows: 32 px, width 24."""
    import open_clip

    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    file = tmp_path_factory.mktemp("open_clip") / "ovdet-tiny.json"
    file.write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(file)
    return file.stem


@pytest.fixture(scope="session")
def tiny_teacher(tiny_clip, tmp_path_factory) -> str:
    """The name of a teacher that costs next to nothing: that architecture with weights from a file."""
    import open_clip

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("tiny") / "weights.safetensors"
    save_file(open_clip.create_model(tiny_clip).state_dict(), file)
    return f"open_clip:{tiny_clip}@{file}"


class Trained(NamedTuple):
    """What the quick training left."""

    output: Path  # its folder
    overrides: tuple[str, ...]  # that make the config fit it
    log: str


@pytest.fixture(scope="session")
def built_once(tmp_path_factory):
    """Build something on disk once for all processes of a test run: `built_once(name, build)` -> its folder.

    `build(folder)` fills an empty folder; the others wait for it. Nobody writes there afterwards.
    """
    base = _folder_of_all(tmp_path_factory)

    def built_once(name: str, build: Callable[[Path], None]) -> Path:
        folder = base / "built_once" / name
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not Path(f"{folder}.done").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                build(folder)
                Path(f"{folder}.done").touch()
        return folder

    return built_once


@pytest.fixture(scope="session")
def trained(built_once) -> Trained:
    """The quick config with a small network on a smaller drawn data set, four steps, by the real command."""

    def overrides(folder: Path) -> tuple[str, ...]:
        return (
            *SMALL,
            f"dataset.root={folder}/data",
            "dataset.prepare.num_train=16",
            "dataset.prepare.num_val=4",
            f"train.output_dir={folder}/run",
            "train.max_iter=4",
            "train.checkpoint_period=2",
            "dataloader.train.num_workers=0",
            "dataloader.test.num_workers=0",
            "dataloader.train.total_batch_size=2",
        )

    def train(folder: Path) -> None:
        begin = f"train.init_checkpoint={_write_tiny(folder / 'initial.pth')}"
        with pytest.MonkeyPatch.context() as patch:
            assert _run(patch, "train_net.py", "--config-file", QUICK, *overrides(folder), begin) == 0

    folder = built_once("quick", train)
    return Trained(folder / "run", overrides(folder), (folder / "run/log.txt").read_text())


@pytest.fixture(scope="session")
def run_two_processes():
    """Run a script beside a test in two processes that know each other; see tests/two_processes.py."""

    def run_two_processes(script: Path, folder: Path) -> None:
        # a fresh interpreter: once the engine's threads have run, a fork of this one would wait for them for ever
        command = [sys.executable, Path(__file__).with_name("two_processes.py"), script, folder]
        subprocess.run(command, cwd=ROOT, check=True, timeout=120)

    return run_two_processes


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Run a tool in this process (no start-up cost) -> exit code, stdout, stderr."""

    def run_tool(name: str, *arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = _run(monkeypatch, name, *arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_tool


def _run(patch: pytest.MonkeyPatch, name: str, *arguments: object) -> int:
    """Run a tool in this process -> exit code."""
    patch.chdir(ROOT)
    patch.setattr(sys, "argv", [f"tools/{name}", *map(str, arguments)])
    code = 0
    try:
        runpy.run_path(f"tools/{name}", run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    forget_log_handlers()
    return code


@pytest.fixture
def ovdet(monkeypatch, capsys):
    """Run the console command in this process -> exit code, stdout, stderr."""

    from ovdet.cli.main import main

    def ovdet(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ovdet", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ovdet


def forget_data_sets() -> None:
    """Remove what a program has registered, as the end of its process would."""
    for name in set(DatasetCatalog) - ANNOUNCED:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def forget_log_handlers() -> None:
    """A run's handlers write to streams that pytest closes; the next run sets up its own."""
    setup_logger.cache_clear()
    for name in ("detectron2", "fvcore", "ovdet"):
        logging.getLogger(name).handlers.clear()


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Untrained layers answer nearly the same everywhere, and ties may be broken either way: make them differ."""
    for name, layer in model.named_modules():
        if name.endswith((".objectness_logits", ".heatmap", ".bbox_pred")):
            torch.nn.init.normal_(layer.weight, std=0.5)
        elif re.search(r"box_predictor\.projection\.linear|earlier_predictors\.\d\.projection\.linear", name):
            torch.nn.init.normal_(layer.weight, std=1.0)
        elif name.endswith(".distances"):  # of CenterNet
            torch.nn.init.normal_(layer.weight, std=0.2)
            torch.nn.init.ones_(layer.bias)
    return model.eval()


@pytest.fixture(scope="session")
def nanodet_files(tmp_path_factory) -> Path:
    """A folder with coco.param and coco.bin in ncnn's format: NanoDet-Plus-m's layers with small random numbers."""
    folder, generator = tmp_path_factory.mktemp("nanodet"), np.random.default_rng(0)
    expert = ClosedSetExpert([str(k) for k in range(80)], width=1)
    shapes = {key: value.shape for part in (NanoDetBackbone(), expert) for key, value in part.state_dict().items()}
    lines, numbers = [], b""
    for number, name in enumerate(layer_names()):
        shape = shapes[f"{name}.weight"]
        kind = "Convolution" if shape[1] > 1 else "ConvolutionDepthWise"
        lines.append(f"{kind} conv_{number} 1 1 {number} {number + 1} 0={shape[0]} 1={shape[2]} 5=1 6={shape.numel()}")
        weight = generator.normal(0, shape[1:].numel() ** -0.5, shape.numel()).astype(np.float16).tobytes()
        bias = generator.normal(0, 0.1, shape[0]).astype(np.float32)
        numbers += np.uint32(0x01306B47).tobytes() + weight + b"\0" * (-len(weight) % 4) + bias.tobytes()
    (folder / "coco.param").write_text("\n".join(["7767517", "201 237", "Input in0 0 1 in0", *lines]) + "\n")
    (folder / "coco.bin").write_bytes(numbers)
    return folder


@pytest.fixture
def undrawn(monkeypatch):
    """Networks come with whatever lies in memory: to draw a large one's weights takes a second."""
    for name in dir(torch.nn.init):
        if name.endswith("_") and not name.startswith("_"):
            monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.fixture
def build_tiny():
    """Build the tiny detector after a change to `config.model`."""

    def build_tiny(change=lambda model: model) -> torch.nn.Module:
        torch.manual_seed(0)
        return spread(instantiate(change(load_config(str(ROOT / QUICK), TINY).model)))

    return build_tiny


def _write_tiny(file: Path) -> Path:
    """The tiny detector's weights, "red circle" known as a training class."""
    torch.manual_seed(0)
    model = spread(instantiate(load_config(str(ROOT / QUICK), TINY).model))
    header = {"teacher": "conse", "width": 384, "training_classes": ["red circle"]}
    torch.save({"model": model.state_dict(), "ovdet": header}, file)
    return file


class TinyFiles(NamedTuple):
    """What names the tiny detector on a command line."""

    arguments: tuple[str, ...]
    overrides: tuple[str, ...]


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory) -> TinyFiles:
    """The tiny detector's weights on disk, "red circle" known as a training class."""
    file = _write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.pth")
    return TinyFiles(("--config-file", QUICK, "--weights", str(file)), TINY)


@pytest.fixture(scope="session")
def striped(tmp_path_factory):
    """A folder with six photos of a striped square each, on noise, and my.json; nobody writes into it."""
    folder = tmp_path_factory.mktemp("photos")
    random, images, annotations = np.random.default_rng(0), [], []
    for number in range(6):
        pixels = random.integers(90, 160, (160, 200, 3), dtype=np.uint8)
        x, y = random.integers(5, 90, 2).tolist()
        pixels[y : y + 60, x : x + 80] = np.where(np.arange(80)[None, :, None] // 8 % 2, 255, 0)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 160, "width": 200})
        box = {"id": number, "image_id": number, "category_id": 1, "bbox": [x, y, 80, 60], "area": 4800, "iscrowd": 0}
        annotations.append(box)
    categories = [{"id": 1, "name": "zebra crossing"}, {"id": 2, "name": "wheel"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "my.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def write_store(tmp_path) -> Callable[..., RegionStore]:
    """Makes a store of these (image_id, boxes, embeddings, scores), of images of 90 x 120, in folder `name`."""

    def write(entries, name: str = "store", **settings) -> RegionStore:
        plan = _make_plan([entry[0] for entry in entries], **settings)
        rows = [
            ImageRegions(*map(torch.as_tensor, arrays), (90, 120), bytes(np.full(32, row, np.uint8)))
            for row, (_, *arrays) in enumerate(entries)
        ]
        write_plan(tmp_path / name, plan)
        for number in range(plan.num_shards):
            write_shard(tmp_path / name, plan, number, rows[plan.of_shard(number)])
        return RegionStore(tmp_path / name)

    return write


def _make_plan(image_ids, root: Path | str = "/images", **settings) -> RegionPlan:
    given = {
        "teacher": "conse",
        "fingerprint": "0123456789abcdef",
        "width": 6,
        "crops": {"scales": [1.0, 1.5]},
        "dataset": {"name": "images", "sha256": ""},
        "proposals": {"source": "an RPN", "training_classes": ["cat", "hot_dog"]},
        "max_regions": 300,
        "images_per_shard": 3,
        "images": tuple(ImageRecord(image_id, f"{image_id}.jpg", 90, 120) for image_id in image_ids),
        "image_root": str(root),
    }
    return RegionPlan(**{**given, **settings})
