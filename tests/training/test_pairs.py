"""What the model learns from: one defect shared by all views, the same sample for the same number."""

import numpy as np
import pytest
import torch
from PIL import Image

from anople_hf.data import load_inspection_data
from anople_hf.framing import Framing, store_region
from anople_hf.training.pairs import EXPOSURE, AnomalyPairs, collate_pairs, vary
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


def test_masks_lie_where_the_twins_were_painted(pairs):
    """A mask that is mirrored or turned against its image would cover other pixels than those that changed."""
    for number in range(4):
        sample = pairs(changes=["shift", "exposure", "turn"])[number]
        changed = (sample["pixel_values"][:5] - sample["pixel_values"][5:]).abs().amax(dim=1) > 1e-6
        masks = sample["masks"][5:]
        assert (changed <= masks)[1:].all() and changed[1:].sum() > 0.6 * masks[1:].sum()
        assert not (masks == masks.flip(2)).all() and not (masks == masks.flip(1)).all()
        overlap = (changed[0] & masks[0]).sum() / masks[0].sum()
        assert overlap > 0.6, number


def test_good_photos_are_varied_and_the_twin_is_made_of_the_varied_one(pairs):
    plain, varied = pairs(), pairs(changes=["shift", "exposure"])
    seen = [varied.draw(number)[0] for number in range(0, 12)]
    for number, photo in enumerate(seen):
        assert photo.shape == plain.draw(number)[0].shape and photo.dtype == np.uint8
        assert not np.array_equal(photo, plain.draw(number)[0])
        _, defective, mask, _ = varied.draw(number)
        assert np.array_equal(defective[~mask], photo[~mask])
    names = [varied.draw(number)[3] for number in range(12)]
    first, again = [number for number in range(12) if names[number] == names[0]][:2]
    assert not np.array_equal(seen[first], seen[again])
    assert np.array_equal(seen[5], pairs(changes=["shift", "exposure"]).draw(5)[0])


def test_what_each_change_does():
    rng = np.random.default_rng
    photo = rng(0).integers(60, 180, (120, 120, 3), dtype=np.uint8)
    assert np.array_equal(vary(photo, [], rng(1)), photo)
    moved = {vary(photo, ["shift"], rng(seed))[10:-10, 10:-10].tobytes() for seed in range(40)}
    places = {photo[y : y + 100, x : x + 100].tobytes() for y in range(8, 13) for x in range(8, 13)}  # 120 / 60 = 2
    assert len(moved) > 1 and moved <= places
    turned = {vary(photo, ["turn"], rng(seed)).tobytes() for seed in range(20)}
    assert turned == {np.rot90(photo, times).tobytes() for times in range(4)}
    for seed in range(10):
        exposed = vary(photo, ["exposure"], rng(seed)).astype(float)
        assert abs(exposed.mean() / photo.mean() - 1) < EXPOSURE + 0.01
        assert abs(exposed.std() / photo.std() - 1) < EXPOSURE + 0.01
    assert np.array_equal(photo, rng(0).integers(60, 180, (120, 120, 3), dtype=np.uint8))  # left as it was


def test_photos_are_turned_as_their_parts_lie_if_that_is_asked_for(pairs):
    plain, other = pairs(), pairs(turns={"capsule": "4"}, changes=[])
    told, free = (pairs(turns={"capsule": turns}, changes=["turn"]) for turns in ("4", "free"))
    seen = [told.draw(number) for number in range(12)]
    kinds = set()
    for number, (photo, defective, mask, _) in enumerate(seen):
        upright = plain.draw(number)[0]
        kinds |= {times for times in range(4) if np.array_equal(photo, np.rot90(upright, times))}
        assert np.array_equal(defective[~mask], photo[~mask]) and np.array_equal(other.draw(number)[0], upright)
    assert kinds == {0, 1, 2, 3}
    assert np.array_equal(free.draw(3)[0], free.draw(3)[0]) and not np.array_equal(free.draw(3)[0], seen[3][0])


def test_single_scale_has_the_global_view_alone(pairs):
    sample = pairs(multi_scale=False)[0]
    assert sample["pixel_values"].shape[0] == 2 and sample["views"].tolist() == [4, 4]


def test_collate_stacks_views(pairs):
    batch = collate_pairs([pairs()[0], pairs()[1]])
    assert batch["pixel_values"].shape[0] == batch["labels"].shape[0] == 20 and len(batch["names"]) == 2


def test_deep_shots_are_seen_in_their_products_range(processor, tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8)
    for kind, values in (("plain", gray), ("deep", np.rint(gray * (4095 / 255)).astype(np.uint16))):
        (tmp_path / kind).mkdir()
        Image.fromarray(values).save(tmp_path / kind / "0.png")
    ranges = {"deep": {"uint16": [0, 4095]}}
    seen = [
        AnomalyPairs(load_inspection_data(tmp_path / kind)["train"], processor, AnomalySynthesizer(), length=1,
                     ranges=ranges).photos[0]
        for kind in ("plain", "deep")
    ]  # fmt: skip
    assert np.abs(seen[0].astype(int) - seen[1]).max() <= 1


@pytest.mark.parametrize("cuts", [(1, 1), (2, 3)])
def test_anomalies_lie_in_the_region_and_the_rest_is_blank(pairs, cuts):
    region = store_region("20,30,50,40", (96, 96))
    framed, inside = pairs(framings={"capsule": Framing(region, *cuts)}), 0
    for number in range(12):
        photo, _, mask, _ = framed.draw(number)
        _, (top, left), counts = framed._place(number)
        assert photo.shape == (96, 96, 3) and mask.any() and not mask[~counts].any()
        pixels = framed[number]["pixel_values"]
        assert (pixels[1][:, ~torch.from_numpy(counts[:48, :48].copy())] == 0).all() and pixels.abs().sum() > 0
        inside += counts.any()
        canvas = framed.framings[0].mask(96)
        assert (counts == canvas[top : top + 96, left : left + 96]).all()
    assert inside == 12 and pairs().photos[0].shape == (96, 96, 3)
    assert framed.photos[0].shape == (*Framing("", *cuts).canvas(96), 3)


def test_shift_and_exposure_reach_their_whole_range_and_no_farther():
    rows, columns = np.indices((480, 480))
    numbered = np.stack([rows % 256, columns % 256, np.zeros_like(rows)], axis=2).astype(np.uint8)
    gray, ramp = (
        np.full((48, 48, 3), 100, np.uint8),
        np.tile(np.arange(80, 128, dtype=np.uint8)[:, None, None], (48, 3)),
    )
    found, levels, spreads = set(), [], []
    for seed in range(300):
        moved = vary(numbered, ["shift"], np.random.default_rng(seed))[240, 240].astype(int)
        found |= {("down", moved[0] - 240), ("right", moved[1] - 240)}
        levels.append(int(vary(gray, ["exposure"], np.random.default_rng(seed))[0, 0, 0]))
        spreads.append(vary(ramp, ["exposure"], np.random.default_rng(seed)).std() / ramp.std())
    assert found == {(way, step) for way in ("down", "right") for step in range(-8, 9)}
    assert 90 <= min(levels) <= 91 and 109 <= max(levels) <= 110
    assert 0.88 <= min(spreads) <= 0.92 and 1.08 <= max(spreads) <= 1.12
    assert not vary(np.zeros((48, 48, 3), np.uint8), ["exposure"], np.random.default_rng(0)).any()


def test_textures_come_from_the_other_photos(pairs):
    made = pairs()
    offered = []
    made.synthesizer = lambda photo, rng, others, within: (
        offered.append((photo, others)) or (photo, np.zeros(photo.shape[:2], bool))
    )
    for number in range(3):
        made.draw(number)
    for photo, others in offered:
        assert len(others) == 2 and not any(np.array_equal(photo, other) for other in others)


def test_parts_that_are_turned_are_varied_in_the_other_ways_as_well(pairs):
    turned = pairs(changes=["turn"], turns={"capsule": "4"})
    brighter = pairs(changes=["turn", "exposure"], turns={"capsule": "4"})
    for number in range(4):
        one, other = (made.draw(number)[0].astype(float) for made in (turned, brighter))
        assert not np.array_equal(one, other) and np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99
