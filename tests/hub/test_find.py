"""A detector by its name: of the package, of a folder, of the hub; and what a command line may say of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants, errors

from ovdet import OpenVocabPredictor, offline
from ovdet.errors import InputError
from ovdet.hub.find import DEFAULT_MODEL, choose_model, find_model, open_config
from ovdet.hub.load import find_weights


def test_a_model_by_its_folder(tmp_path):
    with pytest.raises(InputError, match="config.json or a training run's config.yaml, got"):
        find_model(tmp_path)
    (tmp_path / "before").mkdir()
    (tmp_path / "before/config.yaml").write_text("")
    with pytest.raises(InputError, match="expected a checkpoint"):
        find_model(tmp_path / "before")
    (tmp_path / "before/last_checkpoint").write_text("model_0000003.pth")
    with pytest.raises(InputError, match="expected a checkpoint"):
        find_model(tmp_path / "before")
    (tmp_path / "before/model_0000003.pth").write_text("")
    folder = (tmp_path / "before").rename(tmp_path / "moved")
    assert find_model(folder) == (f"{folder}/config.yaml", f"{folder}/model_0000003.pth")


CODE = (
    "!!python/object/apply:os.system ['touch {canary}']",
    "!!python/object/new:os.system ['touch {canary}']",
    "!!python/object/apply:subprocess.check_call [[touch, '{canary}']]",
    "!!python/object/new:type {{args: [x, !!python/tuple [], {{}}], state: {{}}}}",
    "!!python/object:subprocess.Popen {{args: [touch, '{canary}']}}",
    "!!python/name:os.system ''",
    "!!python/module:this ''",
    "{{_target_: os.system, command: touch {canary}}}",
    "{{_target_: subprocess.check_call, popenargs: [touch, '{canary}']}}",
    "{{_target_: torch.hub.load, repo_or_dir: '{canary}', model: x, source: local}}",
    "{{_target_: torch.optim.sgd.sys.exit}}",
    "{{_target_: ovdet.engine.config.load_config, path: '{canary}.py'}}",
    "{{_target_: detectron2.config.LazyConfig.load, filename: '{canary}.py'}}",
    "{{_target_: '${{model.name}}', name: os.system, command: touch {canary}}}",
    "{{_target_: [os.system], command: touch {canary}}}",
    "'${{oc.create:{{_target_:os.system,command:touch}}}}'",
)


@pytest.mark.parametrize("text", CODE)
def test_a_run_of_somebody_else_runs_no_code(tmp_path, text):
    """In any part of its config: everything is looked at before anything is built."""
    folder, canary = tmp_path / "run", tmp_path / "canary"
    folder.mkdir()
    (tmp_path / "canary.py").write_text(f"open({str(canary)!r}, 'w')")
    (folder / "last_checkpoint").write_text("model_final.pth")
    (folder / "model_final.pth").write_text("")
    for place in ("model: {}", "train: {{x: [1, {{y: {}}}]}}", "other: {}"):
        (folder / "config.yaml").write_text(place.format(text.format(canary=canary)))
        with pytest.raises(InputError) as caught:
            OpenVocabPredictor.from_pretrained(folder)
        assert "config.yaml" in str(caught.value) and "\n" not in str(caught.value)
        if "!!" in text:  # not even by its config file
            with pytest.raises(InputError, match="can run code"):
                open_config(str(folder / "config.yaml"))
    assert not canary.exists()


@pytest.fixture
def model(tmp_path):
    """A folder that looks like a model's."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("")
    return folder


def test_a_model_folder(model):
    assert find_model(model) == find_model(str(model)) == (f"{model}/config.json", f"{model}/model.safetensors")
    (model / "config.yaml").write_text("")  # a run that was packed into its own folder
    assert find_model(model).config_file == f"{model}/config.json"
    (model / "model.safetensors").unlink()
    with pytest.raises(InputError, match="expected model.safetensors beside"):
        find_model(model)


def test_the_packages_own_model():
    files = find_model("ovdet-lite")
    assert find_model(DEFAULT_MODEL) == files
    assert files.config_file.endswith("ovdet/assets/ovdet_lite/config.json")
    assert files.weights.endswith("ovdet/assets/ovdet_lite/model.safetensors")


@pytest.fixture
def ask_hub(monkeypatch):
    """Let the hub answer with a folder or an error -> what it was asked, and whether as if offline."""

    def ask_hub(answer, reachable: bool = True) -> list:
        asked = []

        def snapshot_download(repository, **options):
            asked.append((repository, options, constants.HF_HUB_OFFLINE))
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        monkeypatch.setattr(offline, "_answers", lambda url: reachable)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        return asked

    return ask_hub


@pytest.mark.parametrize(("name", "revision"), [("hf://me/kites", None), ("hf://me/kites@v2", "v2")])
@pytest.mark.parametrize("reachable", [True, False])
def test_a_model_on_the_hub(model, ask_hub, name, revision, reachable, caplog):
    """Without a connection the hub's client looks into its cache alone; a commit that nobody named is told."""
    asked = ask_hub(model, reachable)
    assert find_model(name) == find_model(model)
    patterns = ["config.json", "model.safetensors", "names.safetensors", "README.md"]  # nothing else is fetched
    assert asked == [("me/kites", {"revision": revision, "allow_patterns": patterns}, not reachable)]
    assert constants.HF_HUB_OFFLINE is False
    assert (f"{name}@{Path(model).name}" in caplog.text) == (revision is None)


@pytest.mark.parametrize(
    "answer",
    [
        errors.LocalEntryNotFoundError("no such snapshot in the cache\nand more lines"),
        errors.HFValidationError("no such snapshot"),
        OSError("no such snapshot"),
        RuntimeError("no such snapshot"),  # hf-xet's, also of a connection that breaks
        type("ReadTimeout", (Exception,), {})("no such snapshot"),  # httpx's, which the hub's newer client is built on
    ],
)
def test_the_hub_does_not_have_it(ask_hub, answer):
    ask_hub(answer)
    with pytest.raises(InputError, match="hf://me/kites cannot be had: no such snapshot") as error:
        find_model("hf://me/kites")
    assert "\n" not in str(error.value)


def test_the_hub_has_something_else(tmp_path, ask_hub):
    ask_hub(tmp_path)
    with pytest.raises(InputError, match="hf://me/kites has no config.json"):
        find_model("hf://me/kites")
    (tmp_path / "config.json").write_text("")
    with pytest.raises(InputError, match="expected model.safetensors"):
        find_model("hf://me/kites")


@pytest.mark.parametrize(
    ("name", "message"),
    [("hf://", "got hf://"), ("hf://a/b/c", "expected hf://OWNER/NAME"), ("hf://a b/c", "a b/c cannot be had")],
)
def test_names_that_the_hub_does_not_know(monkeypatch, name, message):
    """By the hub's own client, which looks at names before it connects."""
    monkeypatch.setattr(offline, "_answers", lambda url: False)
    with pytest.raises(InputError, match=message) as error:
        find_model(name)
    assert "\n" not in str(error.value)


def test_what_a_command_line_may_say(model):
    assert choose_model(str(model), None, None) == find_model(model)
    assert choose_model(None, "a.py", None) == ("a.py", "")
    assert choose_model(None, "a.py", "w.pth") == ("a.py", "w.pth")
    for both in ((None, None, None), (str(model), "a.py", None), (None, None, "w.pth")):
        with pytest.raises(InputError, match="one of the two"):
            choose_model(*both)
    with pytest.raises(InputError, match="--weights with --config-file"):
        choose_model(str(model), None, "w.pth")


def test_a_config_that_begins_with_a_shipped_model_opens_before_it_is_trained(tmp_path):
    """As that model, wherever the command line runs."""
    config = open_config("configs/lite/ovdet_lite_mixture.py", [f"train.output_dir={tmp_path}"])
    assert find_weights(config) == find_model("ovdet-lite-base48").weights
