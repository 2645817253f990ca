"""The guide: where each joint lies on the grid of the crop's features."""

import math

import pytest
import torch

from haptic.losses.keypoints import joint_cell_loss, joint_depth_loss
from haptic.models.backbone import BackboneConfig
from haptic.models.decoder import DecoderConfig
from haptic.models.haptic import Haptic, HapticConfig
from haptic.models.joints import GuidedJoints, JointGuide, JointReader
from haptic.training.objective import LossWeights, ObjectiveConfig

GRID = (4, 6)


def crop_places(grid, width=1.0):
    rows, columns = grid
    return torch.tensor([
        [width * ((column + 0.5) / columns - 0.5), (row + 0.5) / rows - 0.5]
        for row in range(rows) for column in range(columns)
    ])  # fmt: skip


def test_who_knows_nothing_pays_the_logarithm_of_the_cells():
    target = torch.rand(3, 21, 2) - 0.5
    loss = joint_cell_loss(torch.zeros(3, 21, 24), target, torch.ones(3, 21), grid=GRID)
    torch.testing.assert_close(loss, torch.tensor(math.log(24)))


@pytest.mark.parametrize("cell", [0, 5, 13, 23])
def test_a_joint_in_the_middle_of_a_cell_belongs_to_it_alone(cell):
    target = crop_places(GRID, 0.75)[cell].expand(1, 21, 2)
    logits = torch.full((1, 21, 24), -20.0)
    logits[..., cell] = 20.0
    ones = torch.ones(1, 21)
    assert joint_cell_loss(logits, target, ones, grid=GRID, width=0.75) < 1e-4
    assert joint_cell_loss(logits.roll(1, -1), target, ones, grid=GRID, width=0.75) > 30


def test_joints_outside_the_grid_do_not_count():
    target = torch.zeros(1, 2, 2)
    target[0, 1] = torch.tensor([0.45, 0.0])  # within the crop, outside the columns that the backbone sees
    logits = torch.randn(1, 2, 24)
    both = joint_cell_loss(logits, target, torch.ones(1, 2), grid=GRID, width=0.75)
    first = joint_cell_loss(logits[:, :1], target[:, :1], torch.ones(1, 1), grid=GRID, width=0.75)
    torch.testing.assert_close(both, first)


def test_depths_are_compared_about_the_wrist_and_only_where_it_is_known():
    target = torch.randn(2, 21, 3)
    depth_m = target[..., 2] - target[..., :1, 2]
    weight = torch.ones(2, 21)
    assert joint_depth_loss(depth_m, target + 5.0, weight) < 1e-5
    weight[0, 0] = 0
    wrong = depth_m.clone()
    wrong[0] += 1.0
    assert joint_depth_loss(wrong, target, weight) < 1e-5


@pytest.mark.parametrize(("backbone", "keep_width"), [
    (BackboneConfig(dim=16, depth=1, heads=2), 0.75),
    (BackboneConfig(timm_name="resnet10t", maps=(-2, -1), map_dim=16, drop_path=0.0), 1.0),
])  # fmt: skip
def test_every_token_has_the_place_of_its_part_of_the_crop(backbone, keep_width):
    decoder = DecoderConfig(dim=16, depth=1, heads=2, head_dim=8, mlp_dim=16)
    network = Haptic(HapticConfig(backbone, decoder, crop_side_px=128, frame_side_px=128, keep_width=keep_width))
    places, grids = network.token_places(), network.backbone.grids()
    with torch.no_grad():
        assert len(places) == network.encode(torch.zeros(1, 3, 128, 128)).shape[1]
    torch.testing.assert_close(places, torch.cat([crop_places(grid, keep_width) for grid in grids]))


def test_features_that_tell_where_joints_are_teach_the_guide_in_a_moment():
    torch.manual_seed(0)
    places = crop_places(GRID)
    cells = torch.randint(0, 24, (64, 1, 21))
    features = torch.nn.functional.one_hot(cells, 24).float().transpose(2, 3)  # a cell's features name its joints
    guide = JointGuide(21, [GRID], places)
    optimiser = torch.optim.Adam(guide.parameters(), lr=0.1)
    target = places[cells]
    for _step in range(150):
        (found,) = guide(features)
        loss = joint_cell_loss(found.logits, target, torch.ones(64, 1, 21), grid=GRID)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    (found,) = guide(features)
    assert (found.joints_crop - target).abs().mean() < 0.02
    assert found.depth_m[..., 0].abs().max() == 0


def test_the_reader_tells_where_a_joint_is_what_is_seen_there_and_how_sure_that_is():
    torch.manual_seed(0)
    guide = JointGuide(24, [GRID], crop_places(GRID))
    reader = JointReader(24, 8, guide)
    torch.nn.init.normal_(reader.contract.weight)
    features = torch.randn(1, 3, 24, 24)

    def found(cell, sharpness):
        logits = torch.zeros(1, 3, 21, 24)
        logits[..., cell] = sharpness
        share = logits.softmax(-1)
        place = share @ crop_places(GRID)
        spread = (share * (crop_places(GRID) - place[..., None, :]).square().sum(-1)).sum(-1).sqrt()
        return [GuidedJoints(GRID, logits, place, spread, torch.zeros(1, 3, 21))]

    sure = reader(features, found(3, 50.0))
    assert sure.shape == (1, 3, 8)
    elsewhere = features.clone()
    elsewhere[:, :, 4:] += 1.0
    torch.testing.assert_close(reader(elsewhere, found(3, 50.0)), sure)  # only what lies under the joint is looked at
    there = features.clone()
    there[:, :, 3] += 1.0
    for other in (reader(there, found(3, 50.0)), reader(features, found(4, 50.0)), reader(features, found(3, 1.0))):
        assert (other - sure).abs().max() > 1e-2


def test_a_guide_that_is_quite_sure_still_has_a_slope():
    guide = JointGuide(24, [GRID], crop_places(GRID))
    features = (1e4 * torch.eye(24)).expand(1, 1, 24, 24).clone().requires_grad_()
    (found,) = guide(features)
    assert found.spread.min() < 1e-3
    (found.spread.sum() + found.joints_crop.sum()).backward()
    assert torch.isfinite(features.grad).all()


def test_steps_of_the_guide_alone_without_a_guide_are_refused():
    with pytest.raises(ValueError, match="guide_only_steps is 5, but the guide is off"):
        ObjectiveConfig(guide_only_steps=5)
    assert ObjectiveConfig(weights=LossWeights(guide_depth=1.0), guide_only_steps=5).has_guide
