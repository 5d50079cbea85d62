"""Model folders on their way to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ovdet.errors import InputError, first_line
from ovdet.hub.find import HUB
from ovdet.hub.model_folder import CARD, CONFIG, NAMES, WEIGHTS
from ovdet.quiet import quiet_libraries

if TYPE_CHECKING:
    from huggingface_hub import HfApi

METADATA = {  # by which the hub's visitors find models
    "library_name": "ovdet",
    "pipeline_tag": "zero-shot-object-detection",
    "tags": ["object-detection", "open-vocabulary"],
}


def complete_card(card: str, license: str | None = None) -> str:
    """A model card with the metadata that the hub lists models by.

    Args:
        card: Markdown; what its own metadata says stays.
        license: an identifier of the hub's, such as "apache-2.0"; None leaves it to the card.

    Raises:
        InputError: its metadata cannot be read, or name another license.
    """
    from huggingface_hub import ModelCard

    try:
        with quiet_libraries():  # it warns of cards without metadata
            content = ModelCard(card)
    except Exception as error:  # of its YAML, or of entries that the hub does not take
        raise InputError(f"expected a model card with metadata in YAML, got: {first_line(error)}") from error
    data = content.data
    if license and data.license not in (None, license):
        raise InputError(f"expected the license that the model card names, {data.license!r}, got {license!r}")
    data.license = data.license or license
    for key, value in METADATA.items():
        data[key] = data.get(key) or value
    return str(content)


def check_can_push(repository: str) -> None:
    """Refuse to push, before the work of packing, where it cannot succeed.

    Raises:
        InputError: the name is not OWNER/NAME, or no token of the hub is on this machine.
    """
    from huggingface_hub import get_token
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
        owner, name = repository.split("/")
    except ValueError as error:
        raise InputError(f"expected OWNER/NAME to push to, got {repository!r}") from error
    if not get_token():
        raise InputError(f"expected a token of the hub to push to {repository}, got none: hf auth login, or HF_TOKEN")


def push_model_folder(
    folder: str | Path, repository: str, *, private: bool = False, api: HfApi | None = None
) -> tuple[str, str]:
    """Upload a model folder's files in one commit.

    Args:
        folder: see `write_model_folder`; stays as it is.
        repository: OWNER/NAME; created where it does not exist.
        private: refuses a repository that everybody can read.
        api: None takes the user's own, by the token on this machine.

    Returns:
        The name for `find_model` with its revision, "hf://OWNER/NAME@REVISION", and the commit's address.

    Raises:
        InputError: the folder is not complete, or the hub cannot be reached or refuses it.
    """
    import huggingface_hub

    for file in (CONFIG, WEIGHTS, CARD):
        if not Path(folder, file).is_file():
            raise InputError(f"expected a model folder to push, {folder} has no {file}")
    api = api or huggingface_hub.HfApi(library_name="ovdet")
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        is_open = private and not api.repo_info(repository).private
        if not is_open:
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                allow_patterns=[CONFIG, WEIGHTS, NAMES, CARD],
                commit_message="Model folder by ovdet",
            )
    except Exception as error:  # whatever the hub's client raises
        reason = first_line(error)
        raise InputError(f"expected to push {folder}, which is complete, to {repository}, got: {reason}") from error
    if is_open:
        raise InputError(f"expected a private repository, got {repository}, which everybody can read")
    return f"{HUB}{repository}@{commit.oid}", str(commit.commit_url)
