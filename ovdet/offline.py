"""Asking the Hugging Face hub on machines that may not reach it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_PATIENCE = 5  # seconds


@contextlib.contextmanager
def offline_where_unreachable() -> Iterator[None]:
    """Ask the hub once; where it does not answer, its client looks into its cache alone, as under HF_HUB_OFFLINE=1.

    The client itself would ask five times for each file, with longer and longer pauses.
    """
    from huggingface_hub import constants

    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was_offline or not _answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _answers(url: str) -> bool:
    """Whether any answer comes, by way of the user's proxies if there are any."""
    from huggingface_hub.utils import get_session

    try:
        get_session().head(url, timeout=_PATIENCE)
    except Exception:  # of whichever client of HTTP the hub's is built on
        return False
    return True
