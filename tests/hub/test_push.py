"""Pushing a model folder, to a hub that is none: what is asked of it, and what is said when it fails."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from ovdet.errors import InputError
from ovdet.hub.push import check_can_push, complete_card, push_model_folder

FILES = {"config.json", "model.safetensors", "README.md"}


class FakeHub:
    """What `HfApi` is asked, in order; a repository is private if it was created so."""

    def __init__(self, *, existing: bool | None = None, failure: Exception | None = None) -> None:
        self.calls, self.is_private, self.failure = [], existing, failure

    def create_repo(self, repo_id, *, private, exist_ok):
        self.calls.append(("create", repo_id, private))
        if self.failure:
            raise self.failure
        assert exist_ok
        self.is_private = bool(private) if self.is_private is None else self.is_private

    def repo_info(self, repo_id):
        return SimpleNamespace(private=self.is_private)

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        self.calls.append(("upload", repo_id, set(allow_patterns)))
        return SimpleNamespace(oid="abc123", commit_url=f"https://hub/{repo_id}/commit/abc123")


@pytest.fixture
def folder(tmp_path):
    for file in (*FILES, "notes.txt"):
        (tmp_path / file).write_text(file)
    return tmp_path


@pytest.mark.parametrize("private", [False, True])
def test_the_files_are_uploaded_and_the_revision_is_told(folder, private):
    hub = FakeHub()
    name, address = push_model_folder(folder, "me/birds", private=private, api=hub)
    assert (name, address) == ("hf://me/birds@abc123", "https://hub/me/birds/commit/abc123")
    assert hub.calls == [("create", "me/birds", private or None), ("upload", "me/birds", {*FILES, "names.safetensors"})]


def test_a_private_model_is_not_put_where_everybody_can_read_it(folder):
    hub = FakeHub(existing=False)
    with pytest.raises(InputError, match="private .* me/birds"):
        push_model_folder(folder, "me/birds", private=True, api=hub)
    assert [what for what, *_ in hub.calls] == ["create"]
    push_model_folder(folder, "me/birds", api=hub)


def test_a_folder_that_is_not_complete_is_not_pushed(folder):
    (folder / "model.safetensors").unlink()
    hub = FakeHub()
    with pytest.raises(InputError, match=r"model\.safetensors"):
        push_model_folder(folder, "me/birds", api=hub)
    assert not hub.calls


def test_what_the_hub_says_is_told_in_one_line(folder):
    hub = FakeHub(failure=OSError("403 Forbidden: no rights\n\nRequest id: 7"))
    with pytest.raises(InputError) as caught:
        push_model_folder(folder, "them/birds", api=hub)
    message = str(caught.value)
    assert "them/birds" in message and "403 Forbidden: no rights" in message and "\n" not in message
    assert str(folder) in message and all((folder / file).is_file() for file in FILES)


def test_a_hub_that_cannot_be_reached(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="me/birds") as caught:
        push_model_folder(folder, "me/birds")
    assert "\n" not in str(caught.value)


def test_a_card_gets_the_metadata_that_it_lacks():
    card = ModelCard(complete_card("# Birds\n\nText.\n", "mit"), ignore_metadata_errors=True)
    assert card.data.license == "mit" and card.data.pipeline_tag == "zero-shot-object-detection"
    assert card.data.library_name == "ovdet" and "open-vocabulary" in card.data.tags
    assert card.text.strip() == "# Birds\n\nText."


def test_what_a_card_says_of_itself_stays():
    text = "---\nlicense: cc0-1.0\ntags:\n- birds\ndatasets:\n- own\n---\n# Birds\n"
    card = ModelCard(complete_card(text))
    assert (card.data.license, card.data.tags, card.data.datasets) == ("cc0-1.0", ["birds"], ["own"])
    assert card.data.library_name == "ovdet" and complete_card(str(card)) == str(card)
    assert complete_card(text, "cc0-1.0") == str(card)
    with pytest.raises(InputError, match="'cc0-1.0', got 'mit'"):
        complete_card(text, "mit")


def test_metadata_that_are_none():
    with pytest.raises(InputError, match="YAML") as caught:
        complete_card("---\nlicense: [mit\n---\n# Birds\n")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["birds", "me/", "/birds", "me/birds/more", "me/my birds", ""])
def test_names_that_the_hub_does_not_have(name, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    with pytest.raises(InputError, match="OWNER/NAME"):
        check_can_push(name)
    check_can_push("me/birds")


def test_no_token(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError, match="token .* me/birds"):
        check_can_push("me/birds")
