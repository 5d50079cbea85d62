"""Zero-shot detectors of transformers, on small untrained models: equal to the library's own, and by command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ovdet import OpenVocabPredictor
from ovdet.errors import InputError
from ovdet.hub.zero_shot import ZeroShotDetector, text_chunks
from ovdet.text.vocabulary import Vocabulary

WORDS = ["cat", "dog", "red", "kite", "car", "wheel", "tree", "a", "photo", "of", "st", "bernard", "person", "boat"]
NAMES = ["cat", "red kite", "car wheel", "St. Bernard"]
FAMILIES = ("owlvit", "owlv2", "grounding-dino", "mm-grounding-dino")
SHOW_ALL = dict(threshold=0.0, class_agnostic_iou=1.0, max_containment=1.0)


def make_tokenizer(begin: str, end: str, last: int):
    """BERT's places of "[CLS]", "[SEP]", "." and "?", which Grounding DINO takes for granted; OWL's end is the last."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", *(f"[unused{place}]" for place in range(1, 1100))]
    for place, word in {100: "[UNK]", 101: begin, last: end, 1012: ".", 1029: "?"}.items():
        words[place] = word
    words[1040 : 1040 + len(WORDS)] = WORDS
    vocabulary = {word: place for place, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, 101), (end, last)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": begin, "sep_token": end, "eos_token": end}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def make_owl(family: str):
    import transformers

    letters = "Owlv2" if family == "owlv2" else "OwlViT"
    text = dict(vocab_size=1100, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    vision = dict(image_size=64, patch_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=2)
    config = getattr(transformers, f"{letters}Config")(
        text_config={**text, "max_position_embeddings": 16, "eos_token_id": 1099},
        vision_config={**vision, "num_attention_heads": 2},
        projection_dim=16,
    )
    image_processor = getattr(transformers, f"{letters}ImageProcessor")(size={"height": 64, "width": 64})
    processor = getattr(transformers, f"{letters}Processor")(image_processor, make_tokenizer("<s>", "</s>", 1099))
    return getattr(transformers, f"{letters}ForObjectDetection")(config), processor


def make_grounding(family: str):
    import transformers

    letters = "GroundingDino" if family == "grounding-dino" else "MMGroundingDino"
    config = getattr(transformers, f"{letters}Config")(
        backbone_config=transformers.SwinConfig(
            image_size=64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[2, 2, 2, 2], out_indices=[2, 3, 4]
        ),
        text_config=transformers.BertConfig(
            vocab_size=1100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        ),
        **dict(num_queries=20, encoder_layers=1, decoder_layers=2, d_model=32, max_text_len=16),
        **dict(encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16),
    )
    image_processor = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    processor = transformers.GroundingDinoProcessor(image_processor, make_tokenizer("[CLS]", "[SEP]", 102))
    return getattr(transformers, f"{letters}ForObjectDetection")(config), processor


@pytest.fixture(scope="session")
def zero_shot_folder(tmp_path_factory):
    """A family's name -> the folder of its small model, made once."""
    made = {}

    def folder(family: str) -> str:
        if family not in made:
            made[family] = str(tmp_path_factory.mktemp(family))
            torch.manual_seed(0)
            model, processor = (make_owl if family.startswith("owl") else make_grounding)(family)
            for parameter in model.parameters():  # as they are made they score nearly the same everywhere
                if parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, std=0.3)
            model.save_pretrained(made[family])
            processor.save_pretrained(made[family])
        return made[family]

    return folder


@pytest.fixture
def photo() -> np.ndarray:
    """(50, 70, 3) RGB."""
    return np.random.default_rng(3).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def by_the_library(folder: str, photo: np.ndarray, prompts: list[str]):
    """The library's own model -> its own post-processing of what the model says, to be called with thresholds."""
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    model = AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    length = dict(max_length=16, truncation=True) if "owl" in model.config.model_type else {}
    inputs = processor(images=Image.fromarray(photo), text=[prompts], return_tensors="pt", **length)
    with torch.inference_mode():
        outputs = model(**inputs)
    post_process = processor.post_process_grounded_object_detection
    return lambda **options: post_process(outputs, threshold=0.0, target_sizes=[photo.shape[:2]], **options)[0]


def clipped(boxes: torch.Tensor, photo: np.ndarray) -> torch.Tensor:
    height, width = photo.shape[:2]
    return boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]))


def predictor_of(folder: str) -> OpenVocabPredictor:
    return OpenVocabPredictor.from_pretrained(f"hf:{folder}", device="cpu")


@pytest.mark.parametrize("family", [pytest.param("owlvit", marks=pytest.mark.slow), "owlv2"])
def test_owl_is_the_librarys_own(family, zero_shot_folder, photo):
    folder = zero_shot_folder(family)
    found = predictor_of(folder)(photo, NAMES, channel_order="RGB", **SHOW_ALL)
    prompts = [f"a photo of a {name.lower()}" for name in ("cat", "red kite", "car wheel", "st. bernard")]
    expected = by_the_library(folder, photo, prompts)(text_labels=[NAMES])
    order = expected["scores"].argsort(descending=True, stable=True)
    boxes = clipped(expected["boxes"], photo)[order]
    order = order[((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)]
    assert len(found) == len(order) > 5
    np.testing.assert_allclose(found.scores, expected["scores"][order], rtol=1e-4)
    np.testing.assert_allclose(found.boxes, clipped(expected["boxes"], photo)[order], rtol=1e-3, atol=1e-2)
    assert list(found.labels) == [expected["text_labels"][place] for place in order]
    assert len(set(found.labels)) > 1


@pytest.mark.parametrize("family", ["grounding-dino", pytest.param("mm-grounding-dino", marks=pytest.mark.slow)])
def test_grounding_dino_is_the_librarys_own(family, zero_shot_folder, photo):
    """Its score is the highest of all tokens; where that one is of a name, score, box and label are the same here."""
    folder = zero_shot_folder(family)
    found = predictor_of(folder)(photo, NAMES[:3], channel_order="RGB", **SHOW_ALL)
    post_process = by_the_library(folder, photo, NAMES[:3])
    expected = post_process(text_threshold=0.0)
    tops = [
        post_process(text_threshold=float(score) - 1e-6)["text_labels"][place]
        for place, score in enumerate(expected["scores"])
    ]
    boxes = clipped(expected["boxes"], photo)
    compared = set()
    for box, score, top in zip(boxes, expected["scores"].tolist(), tops, strict=True):
        if top in ("", ".") or (box[2:] <= box[:2]).any():
            continue
        place = np.abs(found.boxes - box.numpy()).max(1).argmin()
        np.testing.assert_allclose(found.boxes[place], box, rtol=1e-3, atol=1e-2)
        assert found.scores[place] == pytest.approx(score, rel=1e-4)
        assert top.split()[0] in found.labels[place]
        compared.add(found.labels[place])
    assert compared


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_names_hang_on_no_others(family, zero_shot_folder, photo):
    """Names in other texts and in other places: OWL's scores are the same, Grounding DINO's of the same text too."""
    predictor = predictor_of(zero_shot_folder(family))
    names = [*NAMES, "tree", "boat", "person", "car", "dog", "wheel", "kite"]
    found = predictor(photo, names, channel_order="RGB", **SHOW_ALL)
    if family.startswith("owl"):
        alone = {name: predictor(photo, [name], channel_order="RGB", **SHOW_ALL) for name in names}
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            same = np.abs(alone[label].boxes - box).max(1) < 1e-2
            assert np.abs(alone[label].scores[same] - score).min() < 1e-5
    else:
        model = predictor.model
        lengths = [len(model._processor.tokenizer.tokenize(name.replace(".", ""))) + 1 for name in names]
        chunks = list(text_chunks(lengths, range(len(names)), 14))
        assert len(chunks) == 2
        parts = [predictor(photo, [names[row] for row in c], channel_order="RGB", **SHOW_ALL) for c in chunks]
        expected = sorted((label, float(s)) for p in parts for s, label in zip(p.scores, p.labels, strict=True))
        actual = sorted(zip(found.labels, found.scores.tolist(), strict=True))
        assert [label for label, _ in actual] == [label for label, _ in expected]
        np.testing.assert_allclose([s for _, s in actual], [s for _, s in expected], rtol=1e-5)


def test_owl_in_parts_of_a_vocabulary(zero_shot_folder, photo, monkeypatch):
    predictor = predictor_of(zero_shot_folder("owlv2"))
    whole = predictor(photo, NAMES, channel_order="RGB", **SHOW_ALL)
    monkeypatch.setattr("ovdet.hub.zero_shot._ROWS_AT_ONCE", 3)
    monkeypatch.setattr("ovdet.hub.zero_shot._TEXTS_AT_ONCE", 2)
    predictor.model._read._known = ((), None)
    parts = predictor(photo, NAMES, channel_order="RGB", **SHOW_ALL)
    np.testing.assert_allclose(parts.scores, whole.scores, rtol=1e-5)
    assert parts.labels == whole.labels


def test_synonyms_negatives_and_thresholds(zero_shot_folder, photo):
    predictor = predictor_of(zero_shot_folder("owlv2"))
    shown = dict(SHOW_ALL, channel_order="RGB")
    one, other = sorted(set(predictor(photo, NAMES, **shown).labels))[:2]
    plain = predictor(photo, [one, other], **shown)
    assert set(plain.labels) == {one, other}
    without = predictor(photo, [one], negatives=[other], **shown)
    assert set(without.labels) == {one} and len(without) == plain.labels.count(one)
    joined = predictor(photo, Vocabulary((one,), {one: (other,)}), **shown)
    np.testing.assert_allclose(joined.scores, plain.scores, rtol=1e-5)
    assert predictor.embed(["cat"]).thresholds.tolist() == pytest.approx([0.1])


def test_chunks_of_names():
    assert list(text_chunks([2, 3, 2, 4], [0, 1, 2, 3], 5)) == [[0, 1], [2], [3]]
    assert list(text_chunks([2, 3, 2, 2], [0, 1, -1, 2], 7)) == [[0, 1, 2], [3, 2]]
    with pytest.raises(InputError, match="5 tokens at most"):
        list(text_chunks([2, 6], [0, 1], 5))


@pytest.mark.parametrize("family", ["owlv2", pytest.param("grounding-dino", marks=pytest.mark.slow)])
def test_commands(family, zero_shot_folder, photo, tmp_path, ovdet):
    model = f"hf:{zero_shot_folder(family)}"
    (tmp_path / "photos").mkdir()
    for number in range(2):
        Image.fromarray(np.roll(photo, number * 9, axis=1)).save(tmp_path / f"photos/{number}.png")
    names = ["--names", "cat, red kite; wheel", "--threshold", "0"]
    common = ["--model", model, "--device", "cpu"]
    assert ovdet("detect", f"{tmp_path}/photos", *names, *common, "--output", f"{tmp_path}/found")[0] == 0
    rows = json.loads((tmp_path / "found/detections.json").read_text())
    assert len(rows) == 2 and rows[0]["detections"]
    arguments = [f"{tmp_path}/photos", *names, *common, "--format", "coco", "--output", f"{tmp_path}/labels"]
    assert ovdet("label", *arguments)[0] == 0
    labels = next((tmp_path / "labels").glob("*.json"))
    assert json.loads(labels.read_text())["annotations"]
    arguments = ["--annotations", str(labels), "--images", f"{tmp_path}/photos", "--output", f"{tmp_path}/scored"]
    workers = "dataloader.test.num_workers=0"
    code, out, _ = ovdet("evaluate", *arguments, *common, "--json", "--max-detections", "7", workers)
    assert code == 0
    figures = json.loads(out)
    assert figures["bbox"]["AP50"] > 0  # pseudo-labels of the same detector
    assert len(json.loads((tmp_path / "scored/detections.json").read_text())) <= 14


def test_what_is_refused_in_one_line(zero_shot_folder, photo, tmp_path, ovdet):
    model, card = f"hf:{zero_shot_folder('owlv2')}", tmp_path / "card.md"
    card.write_text("a card")
    for command in (
        ["pack", "--model", model, "--output", f"{tmp_path}/folder", "--card", str(card)],
        ["export", "--model", model, "--output", f"{tmp_path}/x.onnx"],
        ["detect", "--names", "cat", "--model", model, "--compile"],
        ["detect", "--names", "cat", "--model", "hf:nobody/nothing"],
        ["detect", "--names", "cat", "--model", f"hf:{tmp_path}"],
        ["detect", "--names", "cat", "--model", model, "--teacher", "conse"],
    ):
        code, _, error = ovdet(*command)
        assert code == 2 and len(error.strip().splitlines()) == 1, error
        assert "expected" in error or "no option" in error
    with pytest.raises(InputError, match="to learn with, got ZeroShotDetector"):
        predictor_of(zero_shot_folder("owlv2")).learn("cat", [(photo, [[0, 0, 9, 9]])])
    with pytest.raises(InputError, match=r"words for, got '\?'"):
        predictor_of(zero_shot_folder("grounding-dino"))(photo, ["?"])


def test_another_family_is_refused(zero_shot_folder, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="owlv2, .* is one of bert"):
        ZeroShotDetector(str(tmp_path))
