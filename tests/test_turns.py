"""Turned copies: right where the part would lie, exact at right angles; remembered and forgotten with their photo."""

import pytest
import torch
from sizes import SIDE
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from anople_hf import AnoPLeModel
from anople_hf.calibration import vary
from anople_hf.memory import MemoryBank
from anople_hf.turns import COPIES, draw_degrees, named_turns, turned, turned_copies


@pytest.mark.parametrize("quarters", [0, 1, 2, 3, 5])
def test_right_angles_of_square_photos_move_pixels_and_change_none(photos, quarters):
    found = turned(photos[:2], torch.tensor([90.0 * quarters, 0.0]), (30, 30))
    assert torch.equal(found[0], photos[0].rot90(quarters, (1, 2))) and torch.equal(found[1], photos[1])


def test_a_part_keeps_its_shape_on_a_photo_that_is_not_square():
    """A bar of 60 x 20 pixels on a photo of 160 x 80, squeezed to 80 x 80 as the model sees it, turned by 90."""
    photo, wanted = torch.zeros(1, 3, 80, 160), torch.zeros(1, 3, 80, 160)
    photo[..., 30:50, 50:110] = 1
    wanted[..., 10:70, 70:90] = 1
    squeezed, right = (torch.nn.functional.avg_pool2d(image, (1, 2)) for image in (photo, wanted))
    found = turned(squeezed, torch.tensor([90.0]), (160, 80))
    assert (found - right).abs().mean() < 0.01 < (squeezed.rot90(1, (2, 3)) - right).abs().mean()
    assert torch.equal(turned(squeezed, torch.tensor([180.0]), (160, 80)), squeezed.flip(2, 3))
    assert (turned(photo, torch.tensor([90.0]), (160, 80)) - wanted).abs().mean() < 0.01  # not squeezed at all


def test_other_angles_turn_counterclockwise_and_fill_with_the_border():
    photo = torch.zeros(1, 3, 81, 81)
    photo[..., 38:43, 70:75] = 1  # on the right
    found = turned(photo, torch.tensor([45.0]))[0, 0]
    top, left = divmod(int(found.argmax()), 81)
    assert abs(top - (40 - 32 * 0.7071)) < 3 and abs(left - (40 + 32 * 0.7071)) < 3
    assert turned(torch.full((1, 3, 9, 9), 0.7), torch.tensor([30.0])).sub(0.7).abs().max() < 1e-6


def test_copies_stand_at_equal_angles_and_those_of_fewer_turns_are_among_them(photos):
    few, more, most = (turned_copies(photos[0], {"turns": turns}) for turns in ("4", "8", "free"))
    assert torch.equal(few, more[::2]) and torch.equal(more, most[::2]) and torch.equal(most[0], photos[0])
    assert torch.equal(turned_copies(photos[0], {}), photos[:1])


def test_angles_are_drawn_out_of_those_that_occur():
    drawn = {turns: draw_degrees(turns, 200, torch.Generator().manual_seed(0)) for turns in COPIES}
    assert set(drawn["4"].tolist()) == {0, 90, 180, 270} and set(drawn["none"].tolist()) == {0}
    assert len(set(drawn["8"].tolist())) == 8 and len(set(drawn["free"].tolist())) > 150
    assert named_turns(4) == "4"
    with pytest.raises(ValueError, match="turns=5: expected 4"):
        named_turns(5)


def test_good_photos_are_judged_in_the_positions_of_their_product(photos):
    generator = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    plain = vary(photos[0], 6, generator())
    assert torch.equal(vary(photos[0], 6, generator(), {"turns": "none"}), plain)
    views = vary(photos[0], 6, generator(), {"turns": "4"})
    assert torch.equal(views[0], photos[0])
    nearest = [min(range(4), key=lambda k: (view - photos[0].rot90(k, (1, 2))).abs().mean()) for view in views[1:]]
    assert len(set(nearest)) > 1


@pytest.fixture(scope="module")
def untaught(tiny_clip):
    return AnoPLeModel.from_backbone(tiny_clip)


@pytest.fixture
def model(untaught):
    return untaught.with_memory(MemoryBank(untaught.memory_layers))


def test_turned_copies_are_parts_of_their_photo(model, photos, tmp_path):
    report = model.teach(photos[:3], "nut", names=["a.png", "b.png", "c.png"], turns=4, views=1)
    bank = model.memory
    plain, copies = model.encode_memory(photos[:1])[0], bank.references("nut")[0]
    assert len(bank) == 3 and copies.copies == 4 and copies.features.shape[1] == 4 * plain.shape[1]
    assert "turns 4: each photo is remembered at 4 angles, 108 patches a layer" in str(report)
    assert model(photos[1:2].rot90(1, (2, 3)), category="nut", branch="memory").memory_maps.max() < 1e-5
    model.save_memory(tmp_path)
    bank.save(tmp_path / "bank.safetensors")
    again = MemoryBank.load(tmp_path / "bank.safetensors")
    assert [(p.name, p.copies) for p in again.references("nut")] == [("a.png", 4), ("b.png", 4), ("c.png", 4)]
    left = model.memory.without([copies.digest])
    assert left.references("nut")[0].features.shape == copies.features.shape and len(left) == 2
    assert left.match(model.encode_memory(photos[:1].rot90(2, (2, 3)))).max() > 1e-3  # all copies of it are gone
    model.remove("nut", "b.png")
    assert model(photos[1:2].rot90(1, (2, 3)), category="nut", branch="memory").memory_maps.max() > 1e-3


def test_photos_taught_later_are_turned_as_those_before(model, photos):
    model.teach(photos[:2], "nut", turns="free", views=1)
    model.teach(photos[2:3], "nut", views=1)
    assert [photo.copies for photo in model.memory.references("nut")] == [16] * 3
    assert model.memory.product("nut").reading == {"turns": "free"}
    model.memorize(photos[3:4], "nut")
    assert model.memory.references("nut")[-1].copies == 16


def test_turns_told_later_hold_for_the_photos_before(model):
    """The same as if they had been told at once; back to none is the same as never turned."""
    levels = torch.randint(0, 256, (2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(2))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    photos = (levels / 255 - mean) / std
    plain = model.teach(photos, "nut", views=2).after
    report = model.teach(photos[:1], "nut", turns=4, views=2)
    later = model.memory.references("nut")
    assert report.added == [] and report.after.threshold != plain.threshold and "judged anew" in report.why
    model.remove("nut")
    at_once = model.teach(photos, "nut", turns=4, views=2).after
    assert at_once.threshold == pytest.approx(report.after.threshold, rel=1e-4)
    for before, now in zip(later, model.memory.references("nut"), strict=True):
        assert torch.allclose(before.features, now.features, atol=1e-5) and before.copies == now.copies == 4
    back = model.teach(photos[:1], "nut", turns="none", views=2)
    assert back.after.threshold == pytest.approx(plain.threshold, rel=1e-4) and "no longer turned" in str(back)


def test_photos_of_which_only_tokens_are_here_cannot_be_turned(model, photos):
    model.teach(photos[:2], "nut", names=["a", "b"], views=1)
    before, model.memory.views = model.memory, {}
    with pytest.raises(ValueError, match=r"2 photos of 'nut' cannot be turned \(a\): only their tokens are here"):
        model.teach(photos[2:3], "nut", turns=4, views=1)
    assert model.memory is before and len(before) == 2


def test_banks_with_other_turns_are_not_mixed(model, photos):
    mine, theirs = model, model.with_memory(MemoryBank(model.memory_layers))
    mine.teach(photos[:2], "nut", views=1)
    theirs.teach(photos[2:4], "nut", turns=4, views=1)
    with pytest.raises(ValueError, match="'nut' is remembered with turns=none here, with turns=4 there"):
        mine.memory.merge(theirs.memory, thresholds="mine")
    mine.memory.rename("nut", "other")
    mine.memory.merge(theirs.memory)
    assert [photo.copies for photo in mine.memory.references("nut")] == [4, 4]
