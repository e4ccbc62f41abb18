"""SPADE: nearest photos by their image feature, then patches of these alone."""

import pytest
import torch

from anople_hf.baselines import Spade


@pytest.fixture
def taught(tiny_clip, photos):
    detector = Spade.from_backbone(tiny_clip)
    detector.memorize(photos[:2], "gear")
    detector.memorize(photos[2:4], "nut")
    return detector


def test_a_known_photo_is_at_distance_zero(tiny_clip, photos):
    detector = Spade.from_backbone(tiny_clip, neighbors=1)
    detector.memorize(photos[:3], "gear")
    output = detector(photos[:3])
    torch.testing.assert_close(output.scores, torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(output.memory_maps, torch.zeros_like(output.memory_maps), atol=2e-3, rtol=0)


def test_score_is_the_mean_distance_to_the_nearest_photos(taught, photos):
    gallery, query = taught.encode(photos[:4])["image"], taught.encode(photos[4:])["image"]
    far = (query[:, None] - gallery[None]).norm(dim=2).sort(dim=1).values
    torch.testing.assert_close(taught(photos[4:]).scores, far[:, :2].mean(dim=1), atol=1e-5, rtol=1e-4)
    taught.neighbors = 3
    torch.testing.assert_close(taught(photos[4:]).scores, far[:, :3].mean(dim=1), atol=1e-5, rtol=1e-4)


def test_patches_are_only_looked_for_in_the_nearest_photos(taught, photos):
    taught.neighbors = 1
    query = taught.encode(photos[4:5])
    gallery = taught.encode(photos[:4])
    best = (query["image"] - gallery["image"]).norm(dim=1).argmin()
    expected = torch.cdist(query["patches"][0], gallery["patches"][best]).amin(dim=1)
    torch.testing.assert_close(taught(photos[4:5]).memory_maps.flatten(), expected, atol=1e-4, rtol=1e-3)


def test_no_neighbors_are_refused(tiny_clip):
    with pytest.raises(ValueError, match="neighbors=0"):
        Spade.from_backbone(tiny_clip, neighbors=0)
