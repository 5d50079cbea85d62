"""Converting published weights: the result is an ordinary model folder; what does not fit is refused in one line."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest
import torch

from ovdet.engine.config import load_config
from ovdet.errors import InputError
from ovdet.hub.find import find_model, open_config, weights_file
from ovdet.hub.load import load_detector
from ovdet.hub.published import convert as converting
from ovdet.hub.published.convert import convert
from ovdet.hub.published.families import FAMILIES
from ovdet.hub.published.variant import Origin, Space, Variant
from ovdet.hub.published.weights import ALIASES, PREFIXES, PUBLISHED, PublishedWeights
from ovdet.text.embedder import NameEmbedder
from ovdet.text.embeddings import TextEmbeddings

VARIANTS = [variant for variants in FAMILIES.values() for variant in variants]


@pytest.fixture(scope="module")
def tiny(tiny_files) -> Variant:
    """The tiny detector as if somebody else had published it, in a space that nobody has here."""
    return Variant(
        name="tiny",
        title="A tiny detector",
        build_model=lambda: load_config(tiny_files.arguments[1], tiny_files.overrides).model,
        renames=((r"^roi_heads\.", "heads."), (r"\.projection\.linear\.", ".embed.")),
        unused=r"zs_weight$|text_encoder\.",
        constants={"roi_heads.box_predictor.classifier.background": 0.0},
        space=Space("open_clip:ViT-B-32-quickgelu/openai", width=384),
        origin=Origin("Tiny", "https://example.org", "MIT", "arXiv:0000.00000"),
    )


@pytest.fixture
def published(tiny, tmp_path, monkeypatch):
    """A checkpoint of it, and a family that holds it."""
    monkeypatch.setitem(FAMILIES, "tiny", (tiny,))
    generator = torch.Generator().manual_seed(0)
    stored = {source: torch.randn(tiny.shapes[key], generator=generator).abs() for key, source in tiny.sources.items()}
    stored |= {"zs_weight": torch.zeros(2, 3), "text_encoder.a": torch.zeros(1)}
    torch.save({"model": stored, "iteration": 3, "optimizer": {"state": {}}}, tmp_path / "weights.pth")
    return stored


def test_the_place_is_looked_at_before_the_weights(tmp_path):
    """They may be gigabytes."""
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/README.md").write_text("# something else\n")
    for name, message in (("notes", "is a file"), ("mine", "README.md of its own")):
        with pytest.raises(InputError, match=message):
            convert(tmp_path / "gone.pth", tmp_path / name)


def test_a_converted_model_opens_without_its_text_encoder(published, tiny, tmp_path):
    variant = convert(tmp_path / "weights.pth", tmp_path / "model", family="tiny")

    files = find_model(tmp_path / "model")
    model, embed_names, header = load_detector(open_config(files.config_file, ["train.device=cpu"]), files.weights)
    assert variant is tiny and header["teacher"] == embed_names.teacher_name == tiny.space.name
    for key, value in model.state_dict().items():  # in float32, to the bit
        source = tiny.sources.get(key)
        assert torch.equal(value, published[source] if source in published else torch.zeros_like(value)), key
    card = (tmp_path / "model/README.md").read_text()
    assert all(text in card for text in ("https://example.org", "MIT", "arXiv:0000.00000", tiny.space.name))


def test_half_precision_is_half_as_large(published, tmp_path):
    for name, half in (("whole", False), ("half", True)):
        convert(tmp_path / "weights.pth", tmp_path / name, family="tiny", half=half)
    whole, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half"))
    assert 0.45 < half / whole < 0.6


@pytest.mark.slow
def test_checkpoints_of_mmcv(published, tmp_path):
    torch.save({"meta": {"epoch": 20, "CLASSES": ("cat",)}, "state_dict": published}, tmp_path / "mmcv.pth")
    assert convert(tmp_path / "mmcv.pth", tmp_path / "model").name == "tiny"


@pytest.mark.parametrize("change", ["lacks", "shape", "too"])
def test_other_weights_are_refused_by_what_differs(published, tmp_path, change):
    key = "heads.box_predictor.embed.weight"
    if change == "lacks":
        del published[key]
    elif change == "shape":
        published[key] = published[key][:7]
    else:
        key = "heads.third_stage.weight"
        published[key] = torch.zeros(5)
    torch.save({"model": published}, tmp_path / "weights.pth")
    expected = {
        "lacks": f"lacks {key} (384, 32)",
        "shape": f"{key} (7, 32) instead of (384, 32)",
        "too": f"has {key} (5)",
    }
    with pytest.raises(InputError) as error:
        convert(tmp_path / "weights.pth", tmp_path / "model", family="tiny")
    assert expected[change] in str(error.value) and not (tmp_path / "model").exists()


def test_bad_files_are_refused_and_not_run(run_tool, published, tmp_path):
    class Code:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_run"), "w"))

    (tmp_path / "code.pth").write_bytes(pickle.dumps({"model": Code()}))
    torch.save({"model": {"w": torch.zeros(2)}, "meta": Code()}, tmp_path / "code_zip.pth")
    whole = (tmp_path / "weights.pth").read_bytes()
    (tmp_path / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    torch.save({"model": {}}, tmp_path / "empty.pth")
    for name in ("code.pth", "code_zip.pth", "truncated.pth", "empty.pth", "absent.pth"):
        code, _, err = run_tool("convert.py", "--weights", tmp_path / name, "--output", tmp_path / "model")
        assert code == 2 and name in err and len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "was_run").exists() and not (tmp_path / "model").exists()


def test_the_command(run_tool, published, tmp_path):
    code, out, _ = run_tool("convert.py", "--weights", tmp_path / "weights.pth", "--output", tmp_path / "model")
    assert code == 0 and "A tiny detector" in out
    assert json.loads((tmp_path / "model/config.json").read_text())["teacher"]["width"] == 384
    code, _, err = run_tool(
        "convert.py", "--weights", tmp_path / "weights.pth", "--family", "detic-vild", "--output", tmp_path / "other"
    )
    assert code == 2 and "detic-vild" in err and "backbone" in err and not (tmp_path / "other").exists()
    (tmp_path / "own").mkdir()
    (tmp_path / "own/config.json").write_text("{}")
    code, _, err = run_tool("convert.py", "--weights", tmp_path / "weights.pth", "--output", tmp_path / "own")
    assert code == 2 and (tmp_path / "own/config.json").read_text() == "{}"


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_each_published_weight_goes_to_one_place(variant):
    assert len(set(variant.sources.values())) == len(variant.sources)
    assert not [source for source in variant.sources.values() if variant.is_unused(source) and "tracked" not in source]
    assert variant.constants.keys() <= variant.shapes.keys()
    stored = {source: variant.shapes[key] for key, source in variant.sources.items()}
    stored |= {source: () for sources, _ in variant.computed.values() for source in sources}
    assert converting.find_variant(stored, "a file") is variant


def test_an_unknown_fingerprint_loads_no_teacher():
    embed = NameEmbedder("open_clip:nobody/knows", width=3, fingerprint=None)
    assert embed.fingerprint == ""
    matrix = torch.eye(3)
    embed.check(TextEmbeddings(matrix, ("a", "b", "c"), ("{}",), "open_clip:nobody/knows", "0123456789abcdef"))
    with pytest.raises(InputError, match="other"):
        embed.check(TextEmbeddings(matrix, ("a", "b", "c"), ("{}",), "open_clip:other", ""))
    with pytest.raises(InputError, match="nobody"):
        embed(["cat"])


def test_proposals_from_a_file_of_their_own(published, tmp_path):
    """As RegionCLIP publishes them; other parts of that network are left out."""
    own = {key: value for key, value in published.items() if not key.startswith("proposal_generator.")}
    other = {key: value for key, value in published.items() if key.startswith(("proposal_generator.", "backbone."))}
    torch.save({"model": own}, tmp_path / "weights.pth")
    torch.save({"model": other | {"roi_heads.x": torch.zeros(1)}}, tmp_path / "rpn.pth")
    tiny = FAMILIES["tiny"][0]
    renames = [*tiny.renames, ("^proposal_generator", "offline_proposal_generator")]
    moved = replace(tiny, renames=renames, unused=rf"{tiny.unused}|offline_backbone\.")
    FAMILIES["tiny"] = (moved,)
    assert convert(tmp_path / "weights.pth", tmp_path / "model", family="tiny", proposals=tmp_path / "rpn.pth") is moved
    with pytest.raises(InputError, match="lacks offline_proposal_generator"):
        convert(tmp_path / "weights.pth", tmp_path / "other", family="tiny")


def test_a_family_that_is_none(published, tmp_path):
    with pytest.raises(InputError, match="detic-r50.*'fasterer'"):
        convert(tmp_path / "weights.pth", tmp_path / "model", family="fasterer")


def test_all_published_detic_models_are_known(rules):
    """By the weights of 22 configs of Detic; two with Deformable DETR are not among them."""
    known = {}
    for name, told in json.loads((rules.folder / "detic_variants.json").read_text()).items():
        stored = rules.shapes(told["base"].split()[0])
        if "bottom_up_and_fpn_lateral" in told:
            others = ("backbone.bottom_up.", "backbone.fpn_lateral")
            stored = {key: shape for key, shape in stored.items() if not key.startswith(others)}
        for changes in ("bottom_up_and_fpn_lateral", "added"):
            stored |= {key: tuple(shape) for key, shape in told.get(changes, {}).items()}
        stored |= {key: tuple(shapes["here"]) for key, shapes in told.get("shape_changed", {}).items()}
        assert len(stored) == told["keys"]
        known[name] = converting.find_variant(stored, name, family="detic").name
    assert len(known) == 22
    for name, variant in known.items():
        backbone = {"SwinB": "swin-b", "CXT": "convnext-t", "R18": "r18", "OVCOCO": "ov-coco"}
        expected = next((told for part, told in backbone.items() if part in name), "r50")
        assert variant == f"detic-{expected}", name


def test_published_weights_by_name(published, tmp_path, monkeypatch):
    """Fetched and converted once; the file itself does not stay."""
    known = PublishedWeights((tmp_path / "weights.pth").as_uri(), "tiny", "none")
    monkeypatch.setitem(PUBLISHED, "detic:tiny", known)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = find_model("detic:tiny")
    monkeypatch.setitem(PUBLISHED, "detic:tiny", known._replace(url="file:///gone/weights.pth"))
    assert find_model("detic:tiny") == files and files.weights.startswith(str(tmp_path / "cache"))
    assert weights_file("detic:tiny") == files.weights
    assert [path.name for path in (tmp_path / "cache/ovdet/published").iterdir()] == ["weights"]


def test_names_and_files_that_are_not_there(published, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="detic:swin-b.*'detic:fasterer'"):
        find_model("detic:fasterer")
    monkeypatch.setitem(PUBLISHED, "detic:tiny", PublishedWeights("file:///gone/weights.pth", "tiny", "none"))
    with pytest.raises(InputError, match="/gone/weights.pth.*ovdet convert"):
        find_model("detic:tiny")
    monkeypatch.setitem(
        PUBLISHED, "detic:tiny", PublishedWeights((tmp_path / "weights.pth").as_uri(), "tiny", "", "ff")
    )
    with pytest.raises(InputError, match="sha256 ff"):
        find_model("detic:tiny")
    assert not [path for path in (tmp_path / "cache/ovdet/published").iterdir() if path.is_dir()]


def test_the_table_names_variants_that_exist():
    assert set(ALIASES.values()) <= PUBLISHED.keys() and len(PUBLISHED) == 20
    assert {known.variant for known in PUBLISHED.values()} <= {variant.name for variant in VARIANTS}
    assert all(name.startswith(PREFIXES) for name in [*PUBLISHED, *ALIASES])


def test_regionclip_s_masks_are_among_its_weights(rules):
    stored = rules.shapes("regionclip_ft_lvis866")
    variant = converting.find_variant(stored, "a file", family="regionclip")
    assert variant.name == "regionclip-ov-lvis"
    assert {source for source in stored if "mask_head" in source and "offline" not in source} == {
        f"roi_heads.mask_head.{part}.{kind}" for part in ("deconv", "predictor") for kind in ("weight", "bias")
    } <= set(variant.sources.values())  # fmt: skip
