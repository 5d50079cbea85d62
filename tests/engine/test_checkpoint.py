"""Checkpoints: read without running code, refused where they do not fit, written whole."""

import contextlib
import io
import pickle
import resource
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from ovdet.engine.checkpoint import SafeCheckpointer, average_checkpoints, read_checkpoint
from ovdet.errors import InputError


class Boom:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code was run')",))


def test_round_trip_with_header(tmp_path):
    model = nn.Linear(3, 2)
    SafeCheckpointer(model, str(tmp_path), header={"teacher": "conse", "width": 384}).save("model_final", iteration=5)
    other = nn.Linear(3, 2)
    header = SafeCheckpointer(other, header={"teacher": "conse", "width": 384}).load_weights(
        str(tmp_path / "model_final.pth")
    )
    assert header == {"teacher": "conse", "width": 384}
    assert torch.equal(other.weight, model.weight)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["last_checkpoint", "model_final.pth"]


@pytest.mark.parametrize(
    ("header", "message"),
    [({"teacher": "open_clip:ViT-B-32/openai"}, "teacher 'open_clip:ViT-B-32/openai', got teacher 'conse'"),
     ({"width": 512}, "width 512, got width 384"),
     ({"fingerprint": "b"}, "fingerprint 'b', got fingerprint 'a'")],
)  # fmt: skip
def test_another_teacher_or_width_is_refused(tmp_path, header, message):
    theirs = {"teacher": "conse", "width": 384, "fingerprint": "a"}
    SafeCheckpointer(nn.Linear(3, 2), str(tmp_path), header=theirs).save("m")
    with pytest.raises(InputError, match=message):
        SafeCheckpointer(nn.Linear(3, 2), header=header).load_weights(str(tmp_path / "m.pth"))


def test_other_shapes_and_missing_entries_are_refused(tmp_path):
    SafeCheckpointer(nn.Linear(3, 2), str(tmp_path)).save("m")
    with pytest.raises(InputError, match=r"weight of shape \(2, 4\), got shape \(2, 3\)"):
        SafeCheckpointer(nn.Linear(4, 2)).load_weights(str(tmp_path / "m.pth"))
    torch.save({"model": {"weight": torch.zeros(2, 3)}}, tmp_path / "half.pth")
    with pytest.raises(InputError, match="lacks bias"):
        SafeCheckpointer(nn.Linear(3, 2)).load_weights(str(tmp_path / "half.pth"))


def test_nobody_is_told_to_read_a_file_without_care(tmp_path):
    torch.save({"model": print}, tmp_path / "code.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for file in ("code.pth", "text.pth"):
        with pytest.raises(InputError, match=f"{file} is not: damaged, or more than tensors"):
            read_checkpoint(str(tmp_path / file))


def test_parts_alone(tmp_path):
    def two() -> nn.ModuleDict:
        return nn.ModuleDict({"trunk": nn.Linear(3, 2), "head": nn.Linear(2, 2), "trunks": nn.Linear(1, 1)})

    model, other = two(), two()
    SafeCheckpointer(model, str(tmp_path), header={"width": 384}).save("m")
    head = other["head"].weight.clone()
    assert SafeCheckpointer(other).load_parts(str(tmp_path / "m.pth"), ["trunk"]) == {"width": 384}
    assert torch.equal(other["trunk"].weight, model["trunk"].weight)
    assert torch.equal(other["head"].weight, head)
    assert not torch.equal(other["trunks"].weight, model["trunks"].weight)
    SafeCheckpointer(model["trunk"], str(tmp_path)).save("trunk_alone")
    with pytest.raises(InputError, match="lacks head.weight"):
        SafeCheckpointer(other).load_parts(str(tmp_path / "trunk_alone.pth"), ["head"])
    with pytest.raises(InputError, match=r"parts of the model \(trunk, head, trunks\), got 'trun'"):
        SafeCheckpointer(other).load_parts(str(tmp_path / "m.pth"), ["trun", "head"])
    with pytest.raises(InputError, match="checkpoint with trunk as train.init_checkpoint, got none"):
        SafeCheckpointer(other).load_parts("", ["trunk"])


def test_to_begin_with_part_of_the_weights_is_enough(tmp_path):
    torch.save({"weight": torch.ones(2, 3)}, tmp_path / "backbone.pth")
    model = nn.Linear(3, 2)
    SafeCheckpointer(model).resume_or_load(str(tmp_path / "backbone.pth"), resume=False)
    assert torch.equal(model.weight, torch.ones(2, 3))


def test_to_begin_with_weights_of_something_else_is_refused(tmp_path):
    torch.save({"state_dict": {"0.weight": torch.zeros(2, 3)}, "fc.weight": torch.zeros(2, 3)}, tmp_path / "other.pth")
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(InputError, match=r"this model or of parts of it, it has nothing like 0\.weight"):
        SafeCheckpointer(model, "").resume_or_load(str(tmp_path / "other.pth"), resume=False)


def test_safetensors(tmp_path):
    save_file({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, tmp_path / "m.safetensors",
              metadata={"ovdet": '{"teacher": "conse"}'})  # fmt: skip
    model = nn.Linear(3, 2)
    header = SafeCheckpointer(model).load_weights(str(tmp_path / "m.safetensors"))
    assert header == {"teacher": "conse"} and torch.equal(model.bias, torch.ones(2))


def test_detectron2_pickles_of_arrays(tmp_path):
    arrays = {"model": {"weight": np.ones((2, 3), np.float32), "bias": np.zeros(2, np.float32)}, "__author__": "a"}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(arrays))
    model = nn.Linear(3, 2)
    SafeCheckpointer(model).resume_or_load(str(tmp_path / "zoo.pkl"), resume=False)
    assert torch.equal(model.weight, torch.ones(2, 3))


@pytest.mark.parametrize("name", ["m.pkl", "m.pth"])
def test_code_in_a_checkpoint_is_not_run(tmp_path, name):
    if name.endswith(".pkl"):
        (tmp_path / name).write_bytes(pickle.dumps({"model": Boom()}))
    else:
        torch.save({"model": Boom()}, tmp_path / name)
    with pytest.raises(InputError, match="is not"):
        read_checkpoint(str(tmp_path / name))


@pytest.mark.parametrize("name", ["m.pth", "m.safetensors", "m.pkl"])
def test_damaged_and_missing_files(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(InputError, match="does not exist"):
        read_checkpoint(str(path))
    with pytest.raises(InputError, match="does not exist"):
        SafeCheckpointer(nn.Linear(3, 2)).load_weights(str(path))
    path.write_bytes(b"not a checkpoint at all")
    with pytest.raises(InputError) as error:
        read_checkpoint(str(path))
    assert "\n" not in str(error.value)


@contextlib.contextmanager
def full_disk():
    """Files of more than 600 bytes cannot be written in a `with` block; no longer, as pytest's own log may be one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    (tmp_path / "m.pth").write_bytes(b"older")
    refused = pytest.raises(InputError, match=r"expected a place to write to, got .*m\.pth: File too large")
    with refused, full_disk():
        SafeCheckpointer(nn.Linear(3, 2), str(tmp_path)).save("m")
    assert (tmp_path / "m.pth").read_bytes() == b"older" and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_leaves_the_name_of_the_old_checkpoint(tmp_path):
    (tmp_path / "last_checkpoint").write_text("older.pth")
    refused = pytest.raises(InputError, match=r"expected a place to write to, got .*last_checkpoint: File too large")
    with refused, full_disk():
        SafeCheckpointer(nn.Linear(3, 2), str(tmp_path)).tag_last_checkpoint("x" * 700)
    assert (tmp_path / "last_checkpoint").read_text() == "older.pth" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", ["", "\n", "gone.pth", ".", "m.pth\nm.pth", "\0\0\0"])
def test_a_last_checkpoint_that_names_none(tmp_path, content):
    checkpointer = SafeCheckpointer(nn.Linear(3, 2), str(tmp_path))
    assert checkpointer.get_checkpoint_file() == ""
    checkpointer.save("m")
    assert checkpointer.get_checkpoint_file() == f"{tmp_path}/m.pth"
    (tmp_path / "last_checkpoint").write_text(content)
    with pytest.raises(InputError, match=f"name of a checkpoint in {tmp_path}/last_checkpoint, "):
        checkpointer.get_checkpoint_file()
    with pytest.raises(InputError, match="last_checkpoint"):
        checkpointer.resume_or_load("", resume=True)
    (tmp_path / "last_checkpoint").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="last_checkpoint"):
        checkpointer.get_checkpoint_file()


def test_a_write_that_breaks_off_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    checkpointer = SafeCheckpointer(nn.Linear(3, 2), str(tmp_path))
    checkpointer.save("m")
    before = (tmp_path / "m.pth").read_bytes()

    def breaks_off(content, file):
        (open(file, "wb") if isinstance(file, str) else file).write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("m")
    assert (tmp_path / "m.pth").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last_checkpoint", "m.pth"]


def test_the_average_is_that_of_torch(tmp_path):
    """Halves stay halves, what was trained on from them in float32 stays that, and whole numbers are not averaged."""
    first, second = (nn.Sequential(nn.Linear(3, 2).half(), nn.BatchNorm1d(2)) for _ in range(2))
    second[1].num_batches_tracked += 6
    for name, model in (("a", first), ("b", second)):
        SafeCheckpointer(model, str(tmp_path)).save(name)
    average_checkpoints(str(tmp_path / "a.pth"), str(tmp_path / "b.pth"), 0.75, tmp_path / "c.pth")
    found = read_checkpoint(str(tmp_path / "c.pth"))["model"]
    judge = AveragedModel(first, avg_fn=get_ema_avg_fn(0.25))
    judge.update_parameters(first)
    judge.update_parameters(second)
    for name, value in judge.module.named_parameters():
        torch.testing.assert_close(found[name], value.data, rtol=1e-3, atol=1e-3)
    assert found["1.num_batches_tracked"] == 6 and found["0.weight"].dtype == torch.float16
    SafeCheckpointer(second.float(), str(tmp_path)).save("b")
    average_checkpoints(str(tmp_path / "a.pth"), str(tmp_path / "b.pth"), 1, tmp_path / "c.pth")
    assert torch.equal(read_checkpoint(str(tmp_path / "c.pth"))["model"]["0.weight"], second[0].weight)


def test_an_average_takes_what_is_new_from_the_later_one(tmp_path):
    for name, content in (("a", {}), ("b", {"bias": torch.ones(2)})):
        torch.save({"model": content}, tmp_path / f"{name}.pth")
    average_checkpoints(str(tmp_path / "a.pth"), str(tmp_path / "b.pth"), 0.1, tmp_path / "c.pth")
    assert read_checkpoint(str(tmp_path / "c.pth"))["model"]["bias"].tolist() == [1, 1]
    average_checkpoints(str(tmp_path / "a.pth"), str(tmp_path / "a.pth"), 0.1, tmp_path / "d.pth")
    assert read_checkpoint(str(tmp_path / "d.pth"))["model"] == {}


def test_the_model_zoo_of_caffe2(tmp_path):
    """Its names are matched, its momenta left out."""
    content = {"blobs": {"conv1_w": np.ones(3, np.float32), "conv1_w_momentum": np.ones(3, np.float32)}}
    (tmp_path / "r50.pkl").write_bytes(pickle.dumps(content))
    found = read_checkpoint(str(tmp_path / "r50.pkl"))
    assert set(found["model"]) == {"conv1_w"} and found["matching_heuristics"] is True


def test_the_average_of_two(tmp_path):
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    SafeCheckpointer(first, str(tmp_path), header={"note": 1}).save("a")
    SafeCheckpointer(second, str(tmp_path), header={"note": 2}).save("b")
    average_checkpoints(str(tmp_path / "a.pth"), str(tmp_path / "b.pth"), 0.75, tmp_path / "c.pth")
    found = read_checkpoint(str(tmp_path / "c.pth"))
    assert found["ovdet"] == {"note": 2}
    SafeCheckpointer(first, str(tmp_path), header={"training_classes": ["cat", "dog"]}).save("cats")
    SafeCheckpointer(second, str(tmp_path), header={"training_classes": ["cow", "cat"]}).save("cows")
    average_checkpoints(str(tmp_path / "cats.pth"), str(tmp_path / "cows.pth"), 0.5, tmp_path / "both.pth")
    header = read_checkpoint(str(tmp_path / "both.pth"))["ovdet"]
    assert header == {"training_classes": ["cow", "cat"], "known_classes": ["cow", "cat", "dog"]}
    torch.testing.assert_close(found["model"]["weight"], 0.25 * first.weight.detach() + 0.75 * second.weight.detach())
    SafeCheckpointer(nn.Linear(4, 2), str(tmp_path)).save("d")
    with pytest.raises(InputError, match=r"d.pth has no weight of \(2, 3\)"):
        average_checkpoints(str(tmp_path / "a.pth"), str(tmp_path / "d.pth"), 0.5, tmp_path / "e.pth")
    SafeCheckpointer(first, str(tmp_path), header={"teacher": "conse"}).save("f")
    SafeCheckpointer(first, str(tmp_path), header={"teacher": "hf:other"}).save("g")
    with pytest.raises(InputError, match=r"two checkpoints of one detector, .*f.pth and .*g.pth differ in teacher"):
        average_checkpoints(str(tmp_path / "f.pth"), str(tmp_path / "g.pth"), 0.5, tmp_path / "e.pth")
    with pytest.raises(InputError, match=r"share between 0 and 1, got 1.5"):
        average_checkpoints(str(tmp_path / "a.pth"), str(tmp_path / "b.pth"), 1.5, tmp_path / "e.pth")
    assert not (tmp_path / "e.pth").exists()


def _bomb(kind: str) -> bytes:
    """Little files that ask for gigabytes."""
    stream = io.BytesIO()
    if kind == "memo.pkl":  # the C unpickler makes room for 2^28 entries
        return b"\x80\x02Nr\xff\xff\xff\x0f."
    if kind == "bytearray.pkl":
        return b"\x80\x05\x96" + (6 * 2**30).to_bytes(8, "little") + b"."
    if kind == "array.pkl":
        return b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L6000000000L\ntC\x01btR."
    if kind == "zipped.pth":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", pickle.dumps({"model": {}}, 2))
            archive.writestr("a/data/0", bytes(2**24))
    elif kind == "bytearray.pth":
        torch.save({"model": {}}, stream)
        with zipfile.ZipFile(io.BytesIO(stream.getvalue())) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, data in content.items():
                bomb = b"\x80\x02c__builtin__\nbytearray\nL6000000000L\n\x85R."
                archive.writestr(name, bomb if name.endswith("data.pkl") else data)
    else:
        torch.save({"model": {"a": torch.zeros(3)}}, stream, _use_new_zipfile_serialization=False)
        small, large = b"K\x03", b"J" + (2**31 - 1).to_bytes(4, "little")
        before, after = stream.getvalue().split(b"cpu", 1)
        return before + b"cpu" + after.replace(small, large, 1)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["memo.pkl", "bytearray.pkl", "array.pkl", "zipped.pth", "bytearray.pth", "old.pth"])
def test_a_little_file_takes_little_memory(tmp_path, kind):
    (tmp_path / kind).write_bytes(_bomb(kind))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError):
        read_checkpoint(str(tmp_path / kind))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_checkpoints_of_before_torch_1_6_are_read(tmp_path):
    content = {"model": {"a": torch.randn(40, 3), "b": torch.zeros(5, dtype=torch.uint8)}, "iteration": 10**9}
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(str(tmp_path / "old.pth"))["model"]["a"], content["model"]["a"])


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_arrays_of_the_model_zoo_s_pickles(tmp_path, protocol):
    arrays = {
        "f4": np.arange(6, dtype=np.float32).reshape(2, 3), "f8": np.float64([[1.5]]), "u1": np.uint8([7]),
        "fortran": np.asfortranarray(np.eye(3)), "big": np.arange(3, dtype=">i4"), "bool": np.array([True, False]),
        "scalar": np.float32(2.5),
    }  # fmt: skip
    shared = {**arrays, "again": arrays["f4"]}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": shared, "__author__": "x"}, protocol))
    found = read_checkpoint(str(tmp_path / "w.pkl"))["model"]
    assert found.keys() == shared.keys()
    assert all(np.array_equal(found[key], value) and found[key].dtype == value.dtype for key, value in shared.items())


def test_a_type_that_would_crash_numpy(tmp_path):
    content = pickle.dumps({"model": {"w": np.ones(3)}}, 2)
    order = b"X\x01\x00\x00\x00<"
    assert content.count(order) == 1
    (tmp_path / "w.pkl").write_bytes(content.replace(order, order[:-1] + b"N"))  # a state of five for one of eight
    try:
        read_checkpoint(str(tmp_path / "w.pkl"))
    except InputError as error:
        assert "\n" not in str(error)


def test_a_checkpoint_of_something_else(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"named tensors, .*m\.pth holds a list"):
        read_checkpoint(str(tmp_path / "m.pth"))
    for odd in ({"model": [torch.zeros(1)]}, {3: torch.zeros(1)}):
        torch.save(odd, tmp_path / "m.pth")
        with pytest.raises(InputError, match=r"named tensors, .*m\.pth holds others"):
            read_checkpoint(str(tmp_path / "m.pth"))


def test_a_process_that_does_not_write_writes_nothing(tmp_path):
    SafeCheckpointer(nn.Linear(3, 2), str(tmp_path), save_to_disk=False).save("m")
    SafeCheckpointer(nn.Linear(3, 2), "").save("m")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_while_tensors_are_written(tmp_path):
    """torch.save makes an error of its own of it."""
    refused = pytest.raises(InputError, match=r"expected a place to write to, got .*m\.pth: File too large")
    with refused, full_disk():
        SafeCheckpointer(nn.Linear(300, 200), str(tmp_path)).save("m")
    assert list(tmp_path.iterdir()) == []


def test_other_faults_of_a_write_are_no_full_disk(tmp_path, monkeypatch):
    def fail(*given):
        raise RuntimeError("a tensor without storage")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="without storage"):
        SafeCheckpointer(nn.Linear(3, 2), str(tmp_path)).save("m")
