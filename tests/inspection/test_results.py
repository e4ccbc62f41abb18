"""Results that grow: whole rows only, resumed where they stopped, never mixed, never in the way."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from anople_hf.inspection.parts import Grouping
from anople_hf.inspection.predict import Prediction
from anople_hf.inspection.results import ROWS, check_results, fingerprint, growing_results, partial_of
from anople_hf.inspection.tables import read_lines, write_table

JOB = {"detector": "abc", "category": None}
SCALE = (0.0, 1.0)


def judged(path, score=0.9, label="defective", size=(30, 20)):
    heat = np.zeros((20, 30), np.float32)
    heat[5:9, 5:9] = 0.8
    mask = heat > 0.5 if label == "defective" else heat > 1
    result = {"score": score, "threshold": 0.5, "pixel_threshold": 0.5, "label": label, "heat_map": heat, "mask": mask}
    result["ratio"] = score / 0.5
    regions = [{"box": (5, 5, 9, 9), "peak": 0.8, "area": 16}] if label == "defective" else []
    more = {"regions": regions, "mask_level": 0.5 if regions else None}
    return Prediction(path, Image.new("RGB", (30, 20), "gray"), size, None, result | more)


def fill(results, paths):
    for path in paths:
        results.add(judged(path), SCALE)


@pytest.fixture
def paths(tmp_path):
    return [tmp_path / folder / name for folder in "ab" for name in ("1.png", "2.png")]


def test_parts_have_a_table_of_their_own(paths, tmp_path):
    out, grouping, formats = tmp_path / "out", Grouping(r"([0-9])\.png"), ["csv", "jsonl", "parquet"]
    with growing_results(out, JOB, formats=formats, grouping=grouping) as results:
        fill(results, paths[:1])
        results.add(judged(paths[1], 0.1, "normal"), SCALE)
        results.write_parts(formats)
        assert results.part_of(results.rows[1])["views"] == 1
        for path in paths[2:]:
            row = results.add(judged(path, 0.2, "normal"), SCALE)
        results.write_parts(formats, unless_costly=True)  # written just now: left as it was
        assert [part["views"] for part in read_lines(partial_of(out) / "parts.jsonl")] == [1, 1]
        assert results.part_of(row)["views"] == 2 and row["part"] == "2"
        results.write_tables(formats, SCALE, 0.5)
    parts = read_lines(out / "parts.jsonl")
    assert [(part["part"], part["views"], part["label"], part["ratio"]) for part in parts] == [
        ("1", 2, "defective", 1.8), ("2", 2, "normal", 0.4)]  # fmt: skip
    assert {name: count for name, count in results.part_counts.items() if count} == {"normal": 1, "defective": 1}
    with open(out / "parts.csv", newline="") as file:
        assert [row["worst"] for row in csv.DictReader(file)] == [part["worst"] for part in parts]
    with open(out / "scores.csv", newline="") as file:
        assert [row["part"] for row in csv.DictReader(file)] == ["1", "2", "1", "2"]
    assert parquet.read_table(out / "parts.parquet").to_pylist() == parts
    assert parquet.read_table(out / "scores.parquet").column("part").to_pylist() == ["1", "2", "1", "2"]
    with growing_results(out, JOB, resume=True, formats=formats, grouping=grouping) as again:
        assert again.part_of(again.rows[0])["views"] == 2
        again.write_tables(formats, SCALE, 0.5)
    assert read_lines(out / "parts.jsonl") == parts


def test_rows_pictures_and_tables(paths, tmp_path):
    out = tmp_path / "out"
    with growing_results(out, JOB) as results:
        fill(results, paths[:3])
        results.add(judged(paths[3], 0.1, "normal"), SCALE)
        assert not out.exists() and partial_of(out).exists()
        results.write_tables(["csv", "jsonl"], SCALE, 0.5)
    assert {name: count for name, count in results.counts.items() if count} == {"normal": 1, "defective": 3}
    assert list(results.counts) == ["normal", "defective", "unknown_product", "uncertain", "without_threshold"]
    assert [row["ratio"] for row in results.rows] == [1.8] * 3 + [0.2]
    names = {path.name for path in out.iterdir()}
    assert {"scores.csv", "scores.jsonl", "heat_maps", "masks", "heat_maps.png"} <= names
    rows = read_lines(out / "scores.jsonl")
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert len({row["heat_map"] for row in rows}) == 4  # photos of the same name in two folders
    for row in rows:
        assert Image.open(out / row["heat_map"]).size == Image.open(out / row["mask"]).size == (30, 20)
        assert np.asarray(Image.open(out / row["mask"])).any() == (row["label"] == "defective")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def interrupt(out, paths, error=KeyboardInterrupt, **options):
    with pytest.raises(error), growing_results(out, JOB, **options) as results:
        fill(results, paths)
        raise error


def test_an_interruption_keeps_the_rows_and_resuming_adds_the_rest(paths, tmp_path):
    out = tmp_path / "out"
    interrupt(out, paths[:2])
    assert not out.exists()
    with open(partial_of(out) / ROWS, "a") as file:
        file.write('{"path": "cut o')
    with pytest.raises(FileExistsError, match="go on with --resume"), growing_results(out, JOB):
        pass
    with growing_results(out, JOB, resume=True) as results:
        assert results.taken_over == 2 and results.done == {str(path) for path in paths[:2]}
        fill(results, paths[2:])
        results.write_tables(["csv"], SCALE, None)
    assert [row["path"] for row in read_lines(out / ROWS)] == [str(path) for path in paths]
    assert len({row["heat_map"] for row in results.rows}) == 4
    assert not partial_of(out).exists()


def test_tables_grow_row_by_row_and_a_crash_leaves_whole_rows(paths, tmp_path):
    out = tmp_path / "out"

    def read(folder):
        with open(folder / "scores.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        return [row["path"] for row in rows], [row["path"] for row in read_lines(folder / "scores.jsonl")]

    with pytest.raises(KeyboardInterrupt), growing_results(out, JOB, formats=["csv", "jsonl", "parquet"]) as results:
        assert read(results.folder) == ([], [])  # the header is there
        for number, path in enumerate(paths[:3], start=1):
            results.add(judged(path), SCALE)
            assert read(results.folder) == ([str(path) for path in paths[:number]],) * 2
        raise KeyboardInterrupt
    work = partial_of(out)
    table = work / "scores.csv"
    table.write_bytes(table.read_bytes()[:-40])  # as a power cut may leave it
    (work / "scores.jsonl").unlink()
    with growing_results(out, JOB, resume=True, formats=["csv", "jsonl"]) as results:
        assert read(work) == ([str(path) for path in paths[:3]],) * 2
        fill(results, paths[3:])
        results.write_tables(["csv", "jsonl"], SCALE, None)
    assert read(out) == ([str(path) for path in paths],) * 2
    write_table(results.rows, tmp_path / "at_once.csv")
    assert (out / "scores.csv").read_bytes() == (tmp_path / "at_once.csv").read_bytes()


def test_a_row_says_when_its_photo_was_written(tmp_path):
    photo = tmp_path / "1.png"
    photo.touch()
    os.utime(photo, (0, 1_700_000_000))
    with growing_results(tmp_path / "out", JOB) as results:
        fill(results, [photo, tmp_path / "gone.png"])
    assert [row["time"] for row in results.rows] == ["2023-11-14T22:13:20+00:00", ""]
    old = json.loads((tmp_path / "out" / ROWS).read_text().splitlines()[0])
    del old["time"]
    (tmp_path / "out" / ROWS).write_text(json.dumps(old) + "\n")
    assert read_lines(tmp_path / "out" / ROWS)[0]["time"] == ""  # from before rows had one


def test_nothing_judged_leaves_nothing(tmp_path):
    interrupt(tmp_path / "out", [], ValueError)
    assert not list(tmp_path.iterdir())


def test_a_whole_output_grows_and_its_other_tables_keep_up(paths, tmp_path):
    out = tmp_path / "out"
    with growing_results(out, JOB, resume=True) as results:  # nothing there yet: a first run like any other
        fill(results, paths[:2])
        results.write_tables(["csv", "jsonl"], SCALE, None)
    interrupt(out, [], ValueError, resume=True)
    assert out.exists() and not partial_of(out).exists()  # whole it was, whole it stays
    with growing_results(out, JOB, resume=True) as results:
        fill(results, paths[2:])
        results.write_tables(["csv"], SCALE, None)
    assert len(read_lines(out / "scores.jsonl")) == 4


def test_another_detector_is_not_mixed_in(paths, tmp_path):
    out = tmp_path / "out"
    interrupt(out, paths[:1])
    with (
        pytest.raises(ValueError, match="another category and detector"),
        growing_results(out, {"detector": "xyz", "category": "gear"}, resume=True),
    ):
        pass
    assert len(read_lines(partial_of(out) / ROWS)) == 1


def test_overwriting_keeps_the_old_until_the_new_is_whole(paths, tmp_path):
    out = tmp_path / "out"
    with growing_results(out, JOB) as results:
        fill(results, paths[:1])
    with pytest.raises(FileExistsError, match="--overwrite"):
        check_results(out)
    interrupt(out, paths[1:2], overwrite=True)
    assert [row["path"] for row in read_lines(out / ROWS)] == [str(paths[0])]
    with growing_results(out, JOB, overwrite=True, resume=True) as results:
        fill(results, paths[2:3])
    assert [row["path"] for row in read_lines(out / ROWS)] == [str(path) for path in paths[1:3]]
    with growing_results(out, JOB, overwrite=True) as results:
        fill(results, paths[3:])
    assert [row["path"] for row in read_lines(out / ROWS)] == [str(paths[3])]


def test_what_we_did_not_write_stays(tmp_path):
    foreign = tmp_path / "out.partial"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("x")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(FileExistsError, match="not written by anople"):
            check_results(tmp_path / "out", **options)
    assert (foreign / "thesis.tex").exists()


def test_fingerprint_sees_thresholds_weights_and_memory(tmp_path):
    seen = set()
    for name in ("config.json", "model.safetensors", "memory_bank.safetensors"):
        (tmp_path / name).write_text(json.dumps(name))
        seen.add(fingerprint(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert len(seen | {fingerprint(tmp_path)}) == 4


def test_masks_are_in_photo_pixels_and_names_that_are_no_text_are_written(tmp_path):
    strange = Path(os.fsdecode(b"caf\xe9.png"))
    with growing_results(tmp_path / "out", JOB) as results:
        results.add(judged(strange, size=(300, 200)), SCALE)  # its maps are ten times smaller
        assert results.done == {"caf\\xe9.png"}
        results.write_tables(["csv", "jsonl"], SCALE, 0.5)
    (row,) = read_lines(tmp_path / "out" / "scores.jsonl")
    assert row["path"] == "caf\\xe9.png" and "caf\\xe9.png" in (tmp_path / "out" / "scores.csv").read_text("utf-8")
    mask = np.asarray(Image.open(tmp_path / "out" / row["mask"]))
    assert mask.shape == (200, 300) and Image.open(tmp_path / "out" / row["heat_map"]).size == (30, 20)
    assert np.argwhere(mask).min(axis=0).tolist() == [50, 50] and np.argwhere(mask).max(axis=0).tolist() == [89, 89]
