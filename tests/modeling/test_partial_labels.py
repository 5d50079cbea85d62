"""What a photo's set does not speak of is not held against the photo."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage

from ovdet.modeling.box_predictor import BACKGROUND, OpenVocabBoxPredictor
from ovdet.modeling.partial_labels import (
    IGNORED,
    PartialLabelBoxPredictor,
    PartialLabelRPN,
    PartialLabels,
    SetLabels,
    rival_names,
    sets_of,
)

# dog, cat, rabbit, coat: the first set speaks of dogs and cats, the second of rabbits, the third of dogs and coats
LABELS = SetLabels(
    torch.tensor([[True, True, False, False], [False, False, True, False], [True, False, False, True]]),
    is_exhaustive=torch.tensor([True, False, False]),
    is_dense=torch.tensor([True, False, False]),
    are_parts=torch.tensor([False, False, True]),
)
NAMES = torch.eye(4)


def apply(logits, classes, sets, **options):
    labels = PartialLabels(lambda: LABELS, **options)
    return labels.apply(torch.as_tensor(logits, dtype=torch.float), torch.tensor(classes), torch.tensor(sets), NAMES)


def counted(masked):
    return torch.isfinite(masked).tolist()


def test_rivals_are_far_in_meaning_and_no_parts():
    near = NAMES.clone()
    near[1] = torch.tensor([0.8, 0.6, 0, 0])
    rivals = rival_names(near, LABELS, near=0.4)
    assert rivals.tolist() == [
        [False, False, True, False],  # a dog may be called what is near; it is no rabbit; it may wear a coat
        [False, False, True, False],
        [True, True, False, False],
        [False, False, False, False],
    ]


def test_objects_count_against_their_sets_names_and_rivals():
    masked, classes = apply(torch.zeros(3, 5), [0, 2, 3], [0, 1, 2])
    assert counted(masked) == [
        [True, True, True, False, True],
        [True, True, True, False, True],
        [True, False, False, True, True],  # of a set of parts: its own names alone
    ]
    assert classes.tolist() == [0, 2, 3]


def test_background_counts_against_its_sets_names():
    masked, classes = apply([[0.0, 0, 0, 0, 9]] * 2, [4, 4], [0, 1])
    assert counted(masked) == [[True, True, False, False, True], [False, False, True, False, True]]
    assert classes.tolist() == [4, 4]


def test_what_looks_like_an_object_nobody_had_to_box_is_left_out():
    dog, rabbit = [9.0, 0, 0, 0, 0], [0.0, 0, 9, 0, 0]
    _, classes = apply([dog, rabbit, dog, rabbit], [4, 4, 4, 4], [0, 0, 1, 1])
    # on photos whose dogs are all boxed what looks like a dog is none; rabbits are boxed on no photo exhaustively
    assert classes.tolist() == [4, IGNORED, IGNORED, IGNORED]
    _, classes = apply([dog], [0], [-1])
    assert classes.tolist() == [IGNORED]


def make_proposals(classes, number_of_set):
    proposals = Instances((100, 120))
    corners = torch.arange(len(classes))[:, None].repeat(1, 2) * 5.0
    proposals.proposal_boxes = proposals.gt_boxes = Boxes(torch.cat([corners, corners + 30], dim=1))
    proposals.gt_classes = torch.tensor(classes)
    if number_of_set is not None:
        proposals.gt_set = torch.full((len(classes),), number_of_set)
    return proposals


def make_predictor(labels=None):
    torch.manual_seed(0)
    options = dict(width=4, box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)))
    if labels is None:
        return OpenVocabBoxPredictor(ShapeSpec(channels=8), **options)
    return PartialLabelBoxPredictor(ShapeSpec(channels=8), partial_labels=PartialLabels(lambda: labels), **options)


def test_one_set_of_all_names_is_the_plain_loss():
    everything = SetLabels(torch.ones(1, 4, dtype=torch.bool), *(torch.tensor([flag]) for flag in (True, True, False)))
    features, proposals = torch.randn(5, 8), [make_proposals([0, 1, BACKGROUND, BACKGROUND, 3], 0)]
    with EventStorage(0):
        plain, masked = (
            predictor.losses(predictor(features, NAMES), proposals)
            for predictor in (make_predictor(), make_predictor(everything))
        )
    for key in plain:
        assert torch.allclose(plain[key], masked[key]), key


def test_losses_are_finite_and_reach_the_weights():
    predictor = make_predictor(LABELS)
    proposals = [
        make_proposals([0, BACKGROUND], 0),
        make_proposals([2, BACKGROUND], 1),
        make_proposals([BACKGROUND], None),
    ]
    with EventStorage(0):
        losses = predictor.losses(predictor(torch.randn(5, 8), NAMES), proposals)
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert predictor.projection.linear.weight.grad.isfinite().all()
        nothing = predictor.losses(predictor(torch.randn(1, 8), NAMES), proposals[2:])
    assert nothing["loss_cls"] == 0 and nothing["loss_cls"].requires_grad
    assert sets_of(proposals).tolist() == [0, 0, 1, 1, -1]


def make_rpn(kind, **options):
    torch.manual_seed(0)
    return kind(
        in_features=["p3"],
        head=StandardRPNHead(in_channels=4, num_anchors=1),
        anchor_generator=DefaultAnchorGenerator(sizes=[[16]], aspect_ratios=[1.0], strides=[8]),
        anchor_matcher=Matcher(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=64,
        positive_fraction=0.5,
        pre_nms_topk=(20, 20),
        post_nms_topk=(10, 10),
        **options,
    )


def test_proposals_learn_no_background_where_boxes_may_be_missing():
    images = ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)])
    features = {"p3": torch.randn(1, 4, 8, 8)}

    def loss(number_of_set, **options):
        rpn = make_rpn(PartialLabelRPN, labels=lambda: LABELS, **options)
        objects = make_proposals([0], number_of_set)
        with EventStorage(0):
            return rpn(images, features, [objects])[1]["loss_rpn_cls"]

    with EventStorage(0):
        plain = make_rpn(RPN)(images, features, [make_proposals([0], 0)])[1]["loss_rpn_cls"]
    assert torch.equal(loss(0, doubt=0.0), plain)  # dense: as detectron2's
    assert torch.equal(loss(1, doubt=1.0), plain)
    assert 0 < loss(1, doubt=0.0) < plain / 4  # only the object itself is left


def test_a_pseudo_label_counts_where_its_set_does_not_speak_of_it():
    masked, classes = apply(torch.zeros(1, 5), [3], [0])  # a coat on a photo of dogs and cats
    assert counted(masked)[0][3] and classes.tolist() == [3]


def test_soft_labels_weigh_as_much_as_their_scores():
    torch.manual_seed(0)

    def loss(scores, soft):
        torch.manual_seed(0)
        predictor = PartialLabelBoxPredictor(
            ShapeSpec(channels=8), width=4, box2box_transform=Box2BoxTransform((10, 10, 5, 5)),
            partial_labels=PartialLabels(lambda: LABELS), soft_labels=soft,
        )  # fmt: skip
        proposals = Instances((50, 50))
        proposals.proposal_boxes = proposals.gt_boxes = Boxes(torch.tensor([[0.0, 0, 9, 9], [20, 20, 40, 40]]))
        proposals.gt_classes = torch.tensor([0, 1])
        proposals.set("gt_set", torch.tensor([0, 0]))
        if scores is not None:
            proposals.set("gt_scores", torch.tensor(scores))
        features = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
        with EventStorage():
            return predictor.losses(predictor(features, NAMES), [proposals])["loss_cls"]

    whole = loss(None, True)
    assert torch.equal(loss([0.5, 0.5], False), whole) and torch.equal(loss([1.0, 1.0], True), whole)
    assert torch.allclose(loss([0.5, 0.5], True), whole / 2)
    parts = loss([1.0, 0.0], True) + loss([0.0, 1.0], True)
    assert torch.allclose(parts, whole)
