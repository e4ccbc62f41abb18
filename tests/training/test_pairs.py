"""What the model learns from: one defect shared by all views, the same sample for the same number."""

import numpy as np
import pytest
import torch

from anople_hf.data import load_inspection_data
from anople_hf.training.pairs import AnomalyPairs, collate_pairs
from anople_hf.training.synthesis import AnomalySynthesizer


@pytest.fixture
def pairs(drawn, processor):
    shots = load_inspection_data(drawn, categories=["capsule"])["train"].select([0, 1, 2])

    def make(**options):
        return AnomalyPairs(shots, processor, AnomalySynthesizer(), length=12, **options)

    return make


def test_number_decides_the_sample(pairs):
    one, other = pairs(seed=1), pairs(seed=1)
    assert torch.equal(one[5]["pixel_values"], other[5]["pixel_values"]) and one[5]["name"] == other[5]["name"]
    assert not torch.equal(one[5]["pixel_values"], pairs(seed=2)[5]["pixel_values"])
    assert {one[i]["name"] for i in range(3)} == {one[i]["name"] for i in range(3, 6)} == set(one.names)


def test_views_share_one_defect(pairs):
    sample = pairs()[0]
    assert sample["pixel_values"].shape == (10, 3, 48, 48) and sample["views"].tolist() == [4, 0, 1, 2, 3] * 2
    masks = sample["masks"].numpy()
    assert not masks[:5].any() and masks[5:].any()
    crops = np.block([[masks[6], masks[7]], [masks[8], masks[9]]])
    assert (masks[5] == (crops.reshape(48, 2, 48, 2).sum(axis=(1, 3)) >= 2)).all()
    assert sample["labels"].tolist() == sample["masks"].flatten(1).any(dim=1).long().tolist()
    good, bad = sample["pixel_values"][1:5], sample["pixel_values"][6:]
    changed = (good - bad).abs().amax(dim=1) > 1e-6
    assert (changed <= sample["masks"][6:]).all() and changed.any()


def test_single_scale_has_the_global_view_alone(pairs):
    sample = pairs(multi_scale=False)[0]
    assert sample["pixel_values"].shape[0] == 2 and sample["views"].tolist() == [4, 4]


def test_collate_stacks_views(pairs):
    batch = collate_pairs([pairs()[0], pairs()[1]])
    assert batch["pixel_values"].shape[0] == batch["labels"].shape[0] == 20 and len(batch["names"]) == 2
