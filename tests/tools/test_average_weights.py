"""Averaging weights as a user would: a file, and bad input in a line."""

import torch


def test_a_file_is_written(run_tool, tmp_path):
    for name, value in (("a", 0.0), ("b", 1.0)):
        torch.save({"model": {"weight": torch.full((2,), value)}}, tmp_path / f"{name}.pth")
    files = ["--before", tmp_path / "a.pth", "--after", tmp_path / "b.pth", "--output", tmp_path / "c.pth"]
    code, out, err = run_tool("average_weights.py", *files, "--share", "0.7")
    assert code == 0, err
    assert torch.load(tmp_path / "c.pth", weights_only=True)["model"]["weight"].tolist() == [0.699999988079071] * 2


def test_bad_input_is_one_line_and_exit_code_2(run_tool, tmp_path):
    files = ["--before", tmp_path / "a.pth", "--after", tmp_path / "b.pth", "--output", tmp_path / "c.pth"]
    code, _, err = run_tool("average_weights.py", *files)
    assert code == 2 and "a.pth does not exist" in err.strip().splitlines()[-1]
    for more, message in (
        (("--share", "2"), "share between 0 and 1, got 2"),
        (("--output", tmp_path / "c.safetensors"), "expected a .pth file to write to, got"),
    ):
        code, _, err = run_tool("average_weights.py", *files, *more)
        assert code == 2 and message in err.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())
