"""One space or two."""

import pytest

from ovdet.teachers.embedding_space import space_difference

CLIP = {"teacher": "open_clip:ViT-B-32@/data/clip.safetensors", "width": 512, "fingerprint": "abcd"}


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({}, None),
        ({"teacher": "open_clip:ViT-B-32@clip.safetensors"}, None),  # the file moved
        ({"fingerprint": "ef01"}, "fingerprint"),
        ({"teacher": "conse", "fingerprint": "ef01"}, "teacher"),
        ({"width": 384}, "width"),
        ({"width": 384, "teacher": "conse", "fingerprint": "ef01"}, "teacher"),
        ({"fingerprint": ""}, None),
        ({"fingerprint": "", "teacher": "conse"}, "teacher"),
        ({"fingerprint": None, "width": None, "teacher": None}, None),
    ],
)
def test_the_fingerprint_decides_and_else_the_name(other, difference):
    assert space_difference(CLIP, {**CLIP, **other}) == difference
    assert space_difference({**CLIP, **other}, CLIP) == difference
    said = {key: value for key, value in {**CLIP, **other}.items() if value}
    assert space_difference(CLIP, said) == difference
