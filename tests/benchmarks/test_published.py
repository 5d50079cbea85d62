"""A published detector against detectron2's, on a small photo."""

import argparse

import pytest

from ovdet.benchmarks import published
from ovdet.errors import InputError


def arguments(*words):
    parser = argparse.ArgumentParser()
    published.add_arguments(parser)
    parsed = parser.parse_args([*words, "--device", "cpu"])
    parsed.rounds = 1
    return parsed


@pytest.mark.slow
def test_a_row_for_each_number_of_names():
    row, masks = published.run(arguments("--size", "64", "96", "--classes", "3", "--backbone", "resnet18"))
    assert "resnet18, photo of 64 x 96, 3 names, no mask" in row.case and "Mask R-CNN" in row.peer
    assert 0 < row.limit_s < 2 * row.ours_s and row.peer_s > 0
    assert masks.case.endswith(" masks") and masks.ours_s > row.ours_s


def test_bad_sizes():
    with pytest.raises(InputError, match="at least 32"):
        published.run(arguments("--size", "8", "96"))
