"""Every config of configs/ can be passed on: packed as a model folder, and opened as the detector that it was."""

import pytest
import torch
from config_files import in_tiers, name_of
from detectron2.config import LazyConfig, instantiate

from ovdet.engine.config import load_config, read_run_values
from ovdet.hub.find import find_model, open_config
from ovdet.hub.load import load_detector, without_training
from ovdet.hub.model_folder import write_model_folder
from ovdet.hub.parts import check_build, check_parts, check_run_parts, to_data


@pytest.mark.parametrize("file", in_tiers())
def test_a_run_of_it_opens_by_its_folder(file, tmp_path):
    LazyConfig.save(load_config(str(file)), str(tmp_path / "config.yaml"))
    check_run_parts(read_run_values(tmp_path / "config.yaml"), name_of(file))


@pytest.mark.parametrize("file", in_tiers())
def test_every_part_may_be_named(file):
    model = without_training(load_config(str(file))).model
    if "training_classes" in model:  # of the registered data set, else of the checkpoint
        model.training_classes = [str(number) for number in range(model.roi_heads.num_classes)]
    content = to_data(model)
    check_parts(content, name_of(file))
    check_build(content, name_of(file))


# an expert, a teacher at test time, a closed set; masks are packed in tests/tools/test_export.py
@pytest.mark.parametrize("file", in_tiers({"lite/ovdet_lite_expert", "lite/vild_text_teacher", "lite/closed_set"}))
def test_packed_and_opened(file, tmp_path, undrawn, nanodet_files):
    config = load_config(str(file), ["train.device=cpu"])
    if "nanodet" in config.dataset:
        config.dataset.nanodet = str(nanodet_files)
    config.teacher.update(name="conse", width=384, templates="a")  # no hub is asked
    names = [f"class {number}" for number in range(config.dataset.num_base)]
    plain = without_training(config).model
    if "training_classes" in plain:  # else of the registered data set, which is not here
        plain.training_classes = names
    model = instantiate(plain)
    state = {key: torch.full_like(value, 0.5) if value.is_floating_point() else value
             for key, value in model.state_dict().items()}  # fmt: skip
    header = {"teacher": "conse", "width": 384, "training_classes": names}
    torch.save({"model": state, "ovdet": header}, tmp_path / "weights.pth")

    write_model_folder(config, str(tmp_path / "weights.pth"), tmp_path / "folder", card="")
    files = find_model(tmp_path / "folder")
    opened, embed_names, opened_header = load_detector(
        open_config(files.config_file, ["train.device=cpu"]), files.weights
    )

    assert type(opened) is type(model) and repr(opened) == repr(model.eval())
    assert opened.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in opened.state_dict().items())
    assert (embed_names.teacher_name, embed_names.width) == ("conse", 384)
    if (expert := getattr(opened.roi_heads, "expert", None)) is not None:
        header["known_classes"] = header["training_classes"] = [*names, *expert.names]
    assert opened_header == header
