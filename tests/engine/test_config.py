"""Configs are read with overrides that must exist."""

from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import ShapeSpec

from ovdet.device import choose_device
from ovdet.engine.config import find_config, load_config, override, read_run_values
from ovdet.engine.options import TrainOptions
from ovdet.errors import InputError

QUICK = str(Path(__file__).parents[2] / "configs/quick/vild.py")


def test_overrides_take_effect():
    config = load_config(QUICK, ["train.max_iter=7", "dataset.root=/somewhere", "train.amp=false"])
    assert config.train.max_iter == 7 and config.train.amp is False
    assert config.dataset.train == "/somewhere/instances_train.json"


def test_a_runs_config_is_read_back_as_it_was(tmp_path):
    """Shapes of layers too, which are no plain values."""
    LazyConfig.save(load_config(QUICK), str(tmp_path / "config.yaml"))
    shapes = [
        instantiate(load_config(file).model.roi_heads.box_predictor.input_shape)
        for file in (str(tmp_path / "config.yaml"), QUICK)
    ]
    assert shapes[0] == shapes[1] and isinstance(shapes[0], ShapeSpec)


def test_an_argument_that_the_config_leaves_at_its_default_may_be_set():
    config = load_config(QUICK, ["model.roi_heads.box_predictor.test_nms_thresh=0.4", "train.device=cpu"])
    assert config.model.roi_heads.box_predictor.test_nms_thresh == 0.4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("train.max_itr=7", "max_iter"),
        ("trian.max_iter=7", "train"),
        ("model.roi_heads.batch_size=3", "batch_size_per_image"),
        ("train.max_iter.more=7", "it is a value"),
        ("train.max_iter", "key=value"),
        ("=3", "key=value"),
        ("train.max_iter=[1", "key=value"),
        ("train.max_iter=1,2", "in quotes: 'key=\"a,b\"'"),
        ("teacher.embeddings=a,b", "in quotes: 'key=\"a,b\"'"),
    ],
)
def test_misspelt_overrides_are_refused(given, message):
    with pytest.raises(InputError, match=message) as error:
        load_config(QUICK, [given])
    assert "\n" not in str(error.value)


AWKWARD = (
    "/data/photos (1)", "/data/a,b", "/data/a=b", "/data/[x]", "/data/{x}", "/data/a#1", "~/x", "/data/it's",
    '/data/"q"', "/data/${x}", "/data/\\${x}", "C:\\photos\\", '\\"', " a ", "a: b", "null", "true", "3", "1e3",
    "choice(a,b)", "猫", "",
)  # fmt: skip


@pytest.mark.parametrize("text", AWKWARD)
def test_an_override_of_any_text_gives_that_text(text):
    config = load_config(QUICK, [override("dataset.root", text), override("train.output_dir", text)])
    assert config.dataset.root == config.train.output_dir == text
    assert config.dataset.train == f"{text}/instances_train.json"


@pytest.mark.parametrize("text", ["/data/photos (1)", "/data/a,b", "/data/a=b", "/data/[x]", "/data/a#1", "/data/it's"])
def test_text_that_hydra_cannot_read_needs_no_quotes_where_text_stands(text):
    config = load_config(QUICK, [f"dataset.root={text}", f"train.freeze={text}"])  # freeze: the argument's default
    assert config.dataset.root == config.train.freeze == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("null", None), ("3", 3), ("true", True), ("[a,b]", ["a", "b"]), ('"a,b"', "a,b"), ("'a b'", "a b"),
        (r"a\,b", "a,b"), ("${train.output_dir}/x", "output/quick/x"), ("${train.output_dir}/x,y", "output/quick/x,y"),
    ],
)  # fmt: skip
def test_values_keep_what_they_mean_to_hydra(value, expected):
    assert load_config(QUICK, ["train.output_dir=output/quick", f"dataset.root={value}"]).dataset.root == expected


def test_files_that_are_no_configs(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_config(str(tmp_path / "none.py"))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"\.py"):
        load_config(str(tmp_path / "a.txt"))
    (tmp_path / "broken.py").write_text("model = (")
    with pytest.raises(InputError, match="SyntaxError") as error:
        load_config(str(tmp_path / "broken.py"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.py", "model = undefined", "NameError"),
        ("a.yaml", "a: [", "fails with"),
        ("b.py", "model = dict(a=1)", "train"),
    ],
)
def test_configs_that_fail_or_lack_parts(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_config(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_options_refuse_what_makes_no_sense():
    with pytest.raises(InputError, match="max_iter"):
        TrainOptions(max_iter=0)
    with pytest.raises(InputError, match="'gpu9'"):
        choose_device("gpu9")
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda")


def test_configs_of_the_package_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = find_config("quick/vild")
    assert Path(own).is_file() and own.endswith("configs/quick/vild.py")
    assert find_config("configs/quick/vild.py") == find_config("quick/vild.py") == own
    assert find_config("quick/nothing") == "quick/nothing" and find_config("") == ""
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick/vild.py").write_text("")
    assert find_config("quick/vild.py") == "quick/vild.py"  # a file of one's own comes first


def test_a_runs_config_that_holds_something_else(tmp_path):
    (tmp_path / "config.yaml").write_text("- a list")
    with pytest.raises(InputError, match=r"config\.yaml holds a list"):
        read_run_values(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("")
    assert read_run_values(tmp_path / "config.yaml") == {}
