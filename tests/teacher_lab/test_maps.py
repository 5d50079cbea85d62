"""Maps: the projection beside scikit-learn's, the picture, and a page that asks no network."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.decomposition import PCA

from ovdet.errors import InputError
from ovdet.teacher_lab.labeled import LabeledPhoto, LabeledSet, read_class_folders
from ovdet.teacher_lab.maps import make_map, map_page, project_pca, project_tsne, thumbnails
from ovdet.teacher_lab.plots import draw_map


def blobs(number: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(number) % 3
    return F.normalize(F.one_hot(labels, 10) + 0.1 * torch.randn(number, 10, generator=generator), dim=1), labels


def test_principal_components_are_scikit_learns():
    points, _ = blobs()
    expected = PCA(2).fit_transform(points.double().numpy())
    actual = project_pca(points).numpy()
    for axis in range(2):
        assert abs(actual[:, axis]) == pytest.approx(abs(expected[:, axis]), abs=1e-5)


@pytest.mark.parametrize("project", [project_pca, project_tsne])
def test_texts_lie_among_their_regions_though_images_have_a_cone_of_their_own(project):
    regions, labels = blobs()
    far = torch.zeros(10)
    far[9] = 2.0  # the modality gap
    drawn = make_map("abc", torch.eye(10)[:3], F.normalize(regions + far, dim=1), labels, project)
    centers = torch.stack([drawn.regions[labels == label].mean(0) for label in range(3)])
    assert torch.cdist(drawn.texts, centers).argmin(1).tolist() == [0, 1, 2]
    assert torch.equal(drawn.nearest, labels) and drawn.regions.shape == (30, 2)
    again = make_map("abc", torch.eye(10)[:3], F.normalize(regions + far, dim=1), labels, project)
    assert torch.equal(drawn.texts, again.texts)


def test_few_points(made_set):
    drawn = make_map("abc", torch.eye(10)[:3], torch.zeros(0, 10), torch.zeros(0, dtype=torch.long))
    assert drawn.texts.shape == (3, 2) and drawn.texts.isfinite().all() and len(drawn.nearest) == 0
    assert draw_map(drawn, "names").startswith(b"\x89PNG")
    with pytest.raises(InputError, match="3 names and regions or more for a map, got 2"):
        make_map("a", torch.eye(10)[:1], torch.eye(10)[:1], torch.tensor([0]))
    same = make_map("abcd", torch.eye(10)[[0, 0, 0, 0]], torch.eye(10)[[1, 1]], torch.tensor([0, 1]))
    assert same.texts.isfinite().all()


def test_the_picture_can_be_read():
    regions, labels = blobs()
    drawn = make_map(("a$b", "c_d", "鳥"), torch.eye(10)[:3], regions, labels, project_pca)
    image = Image.open(io.BytesIO(draw_map(drawn, "a title")))
    assert image.size == (1430, 990) and len(image.convert("RGB").getcolors(1 << 24)) > 50


class Links(HTMLParser):
    found = ()

    def handle_starttag(self, tag, attributes):
        self.found = (*self.found, *(value for key, value in attributes if key in ("src", "href")))


def test_the_page_is_whole_and_holds_any_name():
    regions, labels = blobs()
    names = ("</script><b>x</b>", 'it\'s "a" __VALUES__', "d")
    drawn = make_map(names, torch.eye(10)[:3], regions, labels, project_pca)
    page = map_page(drawn, "maps & <more>", ["data:,"] * 30)
    parser = Links()
    parser.feed(page)
    assert not parser.found and not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "default-src 'none'" in page and page.count("</script>") == 2
    values = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)[1])
    assert values["names"] == ["</script><b>x</b>", 'it\'s "a"   VALUES  ', "d"] and values["title"] == "maps & <more>"
    assert len(values["regions"]) == len(values["pictures"]) == len(values["cosines"]) == 30


def test_a_picture_of_each_object(tmp_path):
    (tmp_path / "set/red").mkdir(parents=True)
    Image.new("RGB", (200, 100), "red").save(tmp_path / "set/red/photo.png")
    (whole,) = thumbnails(read_class_folders(tmp_path / "set"))
    boxes = torch.tensor([[10.0, 10, 40, 90], [-5, -5, 0.2, 0.2], [195, 95, 300, 300]])
    photo = LabeledPhoto(tmp_path / "set/red/photo.png", torch.tensor([0, 0, 0]), boxes, (100, 200))
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(each.removeprefix("data:image/jpeg;base64,")))).size
        for each in (whole, *thumbnails(LabeledSet("boxes", ("red",), (photo,), has_boxes=True)))
    ]
    assert sizes[0] == (88, 44) and sizes[1] == (30, 80) and sizes[2] == (1, 1)
