"""The memory bank: closed-form distances, editing, invariances, and its file."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from anople_hf.memory import MemoryBank
from anople_hf.products import Judged
from anople_hf.thresholds import Thresholds


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
    with pytest.raises(KeyError, match="unknown product 'gear'; known: nut"):
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
    judged = Judged((0.1, 0.2), (0.3, 0.4), (0.1, 0.1), (0.3, 0.3), (0.05, 0.04), "nut")
    bank.update("gear", word="gear wheel", thresholds=Thresholds(0.2, 0.4), judged={"da": judged},
                held_out={"dx": judged}, reading={"region": [0, 0, 4, 4]})  # fmt: skip
    bank.common = Thresholds(0.5, 0.6, method="set by hand")
    bank.save(tmp_path / "bank.safetensors", fingerprint="f" * 64, backbone="b")
    again = MemoryBank.load(tmp_path / "bank.safetensors", fingerprint="f" * 64)
    assert again.layers == [1, 3] and again.categories == ["gear", "nut"]
    assert [(r.name, r.digest) for r in again.references("gear")] == [("a", "da"), ("b", "db")]
    assert torch.equal(again.match(tokens), bank.match(tokens))
    assert torch.equal(again.match(tokens, "nut"), bank.match(tokens, "nut"))
    assert [p.name for p in tmp_path.iterdir()] == ["bank.safetensors"]
    before, after = bank.product("gear"), again.product("gear")
    assert all(getattr(before, name) == getattr(after, name) for name in
               ("word", "thresholds", "judged", "held_out", "reading"))  # fmt: skip
    assert [photo.added for photo in before.photos] == [photo.added for photo in after.photos]
    assert after.photos[0].added.startswith("2")
    assert again.common == bank.common and again.digests == {"da", "db", "dc", "dx"}


def test_all_that_is_known_of_a_product_is_renamed_merged_and_removed_together():
    bank, other = filled(), MemoryBank([1, 3])
    bank.update("gear", thresholds=Thresholds(0.2, 0.4), word="gear wheel")
    bank.rename("gear", "cog")
    assert bank.categories == ["cog", "nut"] and bank.product("cog").word == "gear wheel"
    for wrong in ("nut", "*", " ", "a/b"):
        with pytest.raises(ValueError):
            bank.rename("cog", wrong)
    other.merge(bank)
    assert other.thresholds_of("cog").threshold == 0.2 and other.product("cog").word == "gear wheel"
    other.remove("cog")
    assert other.thresholds_of("cog") is None and other.categories == ["nut"]
    assert bank.thresholds_of("cog").threshold == 0.2


def test_a_photo_that_goes_takes_the_promise_along():
    bank = filled()
    bank.update("gear", thresholds=Thresholds(0.2, 0.4, 0.05, 30, 30, guaranteed=True, method="calibrated"),
                judged={"da": Judged((0.1,), (0.1,)), "db": Judged((0.1,), (0.1,))})  # fmt: skip
    bank.remove("gear", "a")
    assert not bank.thresholds_of("gear").guaranteed and list(bank.product("gear").judged) == ["db"]
    bank.add("gear", features(5), names=["b"], digests=["dz"])
    with pytest.raises(ValueError, match="2 photos of 'gear' are called 'b'; give the digest: db, dz"):
        bank.remove("gear", "b")


@pytest.mark.parametrize("damage", ["a byte", "the last third", "what it says"])
def test_a_damaged_bank_is_refused_by_name(damage, tmp_path):
    path = tmp_path / "bank.safetensors"
    filled().save(path)
    content = bytearray(path.read_bytes())
    if damage == "a byte":
        content[-5] ^= 1
    elif damage == "the last third":
        content[-len(content) // 3 :] = bytes(len(content[-len(content) // 3 :]))
    else:
        content = content.replace(b'\\"a\\"', b'\\"z\\"')
    path.write_bytes(content)
    part = {"what it says": "what it says of its products"}.get(damage, "(gear|nut)/layer")
    with pytest.raises(ValueError, match=f"bank.safetensors is damaged: {part}"):
        MemoryBank.load(path)


def test_a_bank_of_format_1_becomes_one_of_format_2(tmp_path):
    bank, path = filled(), tmp_path / "bank.safetensors"
    entry = {"threshold": 0.2, "pixel_threshold": 0.3, "false_alarm_rate": 0.05, "num_photos": 2, "num_scores": 16,
             "guaranteed": False, "method": "leave-one-photo-out, 8 views a photo",
             "normal_quantiles": [0.1] * 20 + [0.2]}  # fmt: skip
    rows = {f"{name}/layer.{layer}": torch.cat([r.features[i] for r in bank.references(name)])
            for name in bank.categories for i, layer in enumerate(bank.layers)}  # fmt: skip
    about = {name: [{"name": r.name, "sha256": r.digest, "patches": 5} for r in bank.references(name)]
             for name in bank.categories}  # fmt: skip
    header = {"format": "anople-memory-bank/1", "layers": "[1, 3]", "fingerprint": "f", "backbone": "b",
              "references": json.dumps(about), "scoring": "{}",
              "calibration": json.dumps({"gear": entry, "*": entry | {"threshold": 0.4}})}  # fmt: skip
    save_file(rows, path, metadata=header)
    for _ in range(2):
        read = MemoryBank.load(path)
        assert torch.equal(read.match(features(4)), bank.match(features(4))) and read.categories == ["gear", "nut"]
        found = read.thresholds_of("gear")
        assert (found.threshold, found.how) == (0.2, "leave-one-photo-out, 8 views a photo")
        assert read.thresholds_of("nut") is None and read.thresholds_of().threshold == pytest.approx(0.2)
        read.save(path)  # the second time it is one of format 2


def test_the_common_threshold_is_derived_and_moves_with_a_product_set_by_hand():
    bank = filled()
    assert bank.thresholds_of() is None
    for name, score in (("gear", 0.2), ("nut", 0.4)):
        digest = bank.references(name)[0].digest
        judged = Judged((2 * score,), (score,), (score,), (score,))
        bank.update(name, judged={digest: judged}, thresholds=Thresholds(2 * score, score, 0.05, 1))
    assert bank.thresholds_of().threshold == 0.4 and bank.thresholds_of().num_photos == 2
    bank.update("nut", thresholds=Thresholds(0.6, 0.4, 0.05, 1, method="set by hand"))
    assert bank.thresholds_of().threshold == pytest.approx(0.3)  # 0.6 is three quarters of what the photo set
    bank.remove("nut")
    assert bank.thresholds_of().threshold == 0.2 and bank.thresholds_of("bolt") is None


def test_thresholds_of_other_settings_are_left_out(tmp_path, caplog):
    path, bank, entry = tmp_path / "bank.safetensors", filled(), Thresholds(0.2, 0.3)
    bank.update("gear", thresholds=entry)
    bank.save(path, scoring={"memory_search": "all", "temperature": 0.02})
    for scoring in (None, {"temperature": 0.02, "memory_search": "all"}):
        assert MemoryBank.load(path, scoring=scoring).thresholds_of("gear") == entry
    assert not caplog.records
    bank = MemoryBank.load(path, scoring={"memory_search": "product", "temperature": 0.02})
    assert bank.thresholds_of("gear") is None and len(bank) == 3 and "calibrate again" in caplog.text


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


def test_ranges_of_a_product_and_of_one_that_is_not_told():
    bank = MemoryBank([0])
    rows = torch.nn.functional.normalize(torch.randn(1, 1, 4, 8), dim=-1)
    assert bank.ranges() == bank.ranges("gear") == {} and bank.reading("gear") == {}
    bank.add("gear", rows)  # as banks are that are older than ranges: read by the container
    assert bank.ranges("gear") == {} and bank.reading("gear")["ranges"]["uint16"] == [0, 65535]
    bank.update("gear", reading={"ranges": {"uint16": [0, 4095]}})
    assert bank.ranges() == bank.ranges("gear") == {"uint16": [0, 4095]}
    bank.add("nut", rows)
    bank.update("nut", reading={"ranges": {"uint16": [0, 1023], "uint8": [0, 255]}})
    assert bank.ranges() == {"uint16": [0, 65535], "uint8": [0, 255]}
