"""The memory bank: closed-form distances, editing, invariances, and its file."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from anople_hf.memory import MemoryBank


def features(seed, photos=1, layers=2, patches=5, width=8):
    return torch.randn(photos, layers, patches, width, generator=torch.Generator().manual_seed(seed))


def filled():
    bank = MemoryBank([1, 3])
    bank.add("gear", features(0, photos=2), names=["a", "b"], digests=["da", "db"])
    bank.add("nut", features(1), names=["c"], digests=["dc"])
    return bank


def test_closed_form_distances():
    """Eq. 14: identical 0, orthogonal 1/2, opposite 1; two layers are averaged."""
    bank = MemoryBank([0, 1])
    bank.add("x", torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]]]]))
    tokens = torch.tensor([[[[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 0.0]], [[1.0, 0], [0, 1], [-1, 0], [-1, 0]]]])
    assert torch.allclose(bank.match(tokens), torch.tensor([[0.0, 0.5, 1.0, 0.5]]))


def test_routing_is_never_closer_than_the_shared_bank():
    bank, tokens = filled(), features(9, photos=3)
    shared, gear, nut = bank.match(tokens), bank.match(tokens, "gear"), bank.match(tokens, "nut")
    assert torch.allclose(shared, torch.minimum(gear, nut)) or (shared <= torch.minimum(gear, nut) + 1e-6).all()
    mixed = bank.match(tokens, ["nut", "gear", "nut"])
    assert torch.equal(mixed[0], nut[0]) and torch.equal(mixed[1], gear[1])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.integers(1, 4))
def test_order_of_rows_and_of_images_changes_no_distance(seed, shift):
    rows, tokens = features(seed), features(seed + 1, photos=3)
    one, other = MemoryBank([0, 1]), MemoryBank([0, 1])
    one.add("x", rows)
    other.add("x", rows.roll(shift, dims=2))
    assert torch.allclose(one.match(tokens), other.match(tokens), atol=1e-6)
    assert torch.allclose(one.match(tokens).flip(0), one.match(tokens.flip(0)), atol=1e-6)


def test_a_longer_bank_never_raises_a_distance():
    bank, tokens = MemoryBank([1, 3]), features(5, photos=2)
    bank.add("x", features(1))
    before = bank.match(tokens)
    bank.add("x", features(2))
    assert (bank.match(tokens) <= before + 1e-6).all()


def test_remove_photo_and_category():
    bank = filled()
    bank.remove("gear", "a")
    assert [r.name for r in bank.references("gear")] == ["b"] and len(bank) == 2
    bank.remove("gear", "b")
    assert bank.categories == ["nut"]
    with pytest.raises(KeyError, match="unknown category 'gear'; known: nut"):
        bank.remove("gear")
    with pytest.raises(KeyError, match="'zz'"):
        bank.remove("nut", "zz")
    bank.add("cap", features(3), names=["same.png"], digests=["d1"])
    bank.add("cap", features(4), names=["same.png"], digests=["d2"])
    bank.remove("cap", "d1")  # two photos may have one name
    assert [r.digest for r in bank.references("cap")] == ["d2"]


def test_removing_restores_the_distances():
    bank, tokens = filled(), features(7)
    before = bank.match(tokens)
    bank.add("cap", features(7))
    assert bank.match(tokens).max() < 1e-6 < before.min()
    bank.remove("cap")
    assert torch.equal(bank.match(tokens), before)


def test_without_leaves_the_bank_itself_alone():
    bank = filled()
    assert bank.without(["dc"]).categories == ["gear"] and len(bank.without(["da"])) == 2 and len(bank) == 3


def test_merge_takes_only_what_is_new():
    bank, other = filled(), filled()
    other.add("cap", features(3), digests=["dd"])
    bank.merge(other)
    assert len(bank) == 4 and bank.categories == ["gear", "nut", "cap"]
    with pytest.raises(ValueError, match="layers"):
        bank.merge(MemoryBank([0]))


def test_file_round_trip_is_bit_identical(tmp_path):
    bank, tokens = filled(), features(4, photos=3)
    bank.save(tmp_path / "bank.safetensors", fingerprint="f" * 64, backbone="b")
    again = MemoryBank.load(tmp_path / "bank.safetensors", fingerprint="f" * 64)
    assert again.layers == [1, 3] and again.categories == ["gear", "nut"]
    assert [(r.name, r.digest) for r in again.references("gear")] == [("a", "da"), ("b", "db")]
    assert torch.equal(again.match(tokens), bank.match(tokens))
    assert torch.equal(again.match(tokens, "nut"), bank.match(tokens, "nut"))
    assert [p.name for p in tmp_path.iterdir()] == ["bank.safetensors"]


def test_thresholds_of_other_settings_are_left_out(tmp_path, caplog):
    path, calibration = tmp_path / "bank.safetensors", {"gear": {"threshold": 0.2}}
    filled().save(path, calibration=calibration, scoring={"memory_search": "product", "temperature": 0.02})
    for scoring in (None, {"temperature": 0.02, "memory_search": "product"}):
        assert MemoryBank.load(path, scoring=scoring).calibration == calibration
    assert not caplog.records
    bank = MemoryBank.load(path, scoring={"memory_search": "all", "temperature": 0.02})
    assert bank.calibration == {} and len(bank) == 3 and "calibrate again" in caplog.text


def test_what_is_prepared_stays_while_nothing_moves():
    bank, tokens = filled(), features(2)
    bank.match(tokens)
    matcher, photo = bank._matcher, bank.references("gear")[0]
    assert bank.to("cpu")._matcher is matcher and bank.references("gear")[0] is photo
    assert bank.double()._matcher is not matcher and bank.references("gear")[0].features.dtype == torch.float64


@pytest.mark.parametrize("coarse", [False, True])
def test_how_a_bank_is_searched_holds_for_what_comes_from_it(coarse):
    bank = MemoryBank([1, 3], coarse=coarse)
    bank.merge(filled())

    def searched(bank):
        bank.prepare([None])
        return bank._matcher._search(None)[0]._coarse is not None

    assert searched(bank) == searched(bank.without(["da"])) == searched(bank.renamed(str.upper)) == coarse
    assert not searched(bank.searched_exactly()) and not searched(bank.searched_exactly().without(["da"]))
    with pytest.raises(KeyError, match="known: gear, nut"):
        bank.prepare(["bolt"])


def test_foreign_files_are_refused(tmp_path):
    filled().save(tmp_path / "bank.safetensors", fingerprint="a" * 64, backbone="clip-a")
    with pytest.raises(ValueError, match="clip-a"):
        MemoryBank.load(tmp_path / "bank.safetensors", fingerprint="b" * 64)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not a memory bank"):
        MemoryBank.load(tmp_path / "other.safetensors")


def test_bad_features_are_refused_and_nothing_is_added():
    bank = filled()
    for wrong in (features(0)[0], features(0, layers=3), features(0, width=9), features(0) * float("nan")):
        with pytest.raises(ValueError):
            bank.add("gear", wrong)
    with pytest.raises(ValueError, match="'/'"):
        bank.add("a/b", features(0))
    assert len(bank) == 3


def test_empty_and_unknown():
    with pytest.raises(ValueError, match="empty"):
        MemoryBank([0, 1]).match(features(0))
    with pytest.raises(KeyError, match="known: gear, nut"):
        filled().match(features(0), "bolt")
    with pytest.raises(ValueError, match="2 categories for 1 images"):
        filled().match(features(0), ["gear", "nut"])


def test_follows_the_model_to_another_dtype_and_survives_deepcopy():
    bank, tokens = filled(), features(2)
    half = copy.deepcopy(bank).to(torch.bfloat16)
    assert half.references("gear")[0].features.dtype == torch.bfloat16
    assert torch.allclose(half.match(tokens), bank.match(tokens), atol=2e-2)
