"""The teacher's embeddings out of a region store, and by the teacher itself while training goes on: the same."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from ovdet.modeling.region_sources import OnlineRegions
from ovdet.teachers.crops import RegionEmbedder


@pytest.mark.slow
def test_stored_embeddings_are_the_online_ones(write_store, conse_teacher):
    photos = pytest.importorskip("skimage.data")
    photos = [torch.from_numpy(image).permute(2, 0, 1)[:, :90, :120] for image in (photos.chelsea(), photos.coffee())]
    generator = torch.Generator().manual_seed(0)
    inputs, proposals = [], []
    for _ in photos:
        corners = torch.rand(6, 2, 2, generator=generator) * torch.tensor([120.0, 90.0])
        boxes = torch.cat([corners.amin(1), corners.amax(1) + 1], dim=1)
        truth, found = Instances((90, 120)), Instances((90, 120))
        truth.gt_boxes, found.proposal_boxes, found.objectness_logits = (
            Boxes(boxes[:2]),
            Boxes(boxes[2:]),
            torch.zeros(4),
        )
        inputs.append({"instances": truth})
        proposals.append(found)
    embedder = RegionEmbedder(conse_teacher)
    online = OnlineRegions(embedder, max_regions=4)(inputs, photos, proposals)
    boxes = [regions.proposal_boxes.tensor for regions in online]
    entries = [
        (number, of_photo, rows, torch.ones(len(of_photo)))
        for number, (of_photo, rows) in enumerate(zip(boxes, embedder.embed_batch(photos, boxes), strict=True))
    ]
    store = write_store(entries, width=conse_teacher.width)
    for number, regions in enumerate(online):
        stored_boxes, stored, _ = store.regions(number)
        assert len(stored_boxes) and torch.equal(stored_boxes, boxes[number])
        torch.testing.assert_close(stored, regions.teacher_embeddings, rtol=0, atol=1e-3)
