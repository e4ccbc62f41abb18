"""Tables in every format hold the same numbers, to the last digit."""

import csv
import json
import sys

import pytest
from pyarrow import parquet

from anople_hf.inspection.tables import COLUMNS, check_formats, read_lines, write_table

ROWS = [
    {
        "path": "a, b/ä.png",
        "category": "gear",
        "score": 0.1 + 0.2,
        "threshold": 1 / 3,
        "ratio": (0.1 + 0.2) * 3,
        "label": "defective",
        "regions": [{"box": [1, 2, 3, 4], "peak": 2 / 3, "area": 4}],
        "heat_map": "heat_maps/a.png",
        "mask": "masks/a.png",
        "time": "2026-01-02T03:04:05+00:00",
    },
    {**dict.fromkeys(COLUMNS, ""), "path": "b.png", "score": 1e-9, "threshold": None, "ratio": None, "regions": []},
]


def test_csv_keeps_every_digit(tmp_path):
    with open(write_table(ROWS, tmp_path / "t.csv"), newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == COLUMNS
    assert [float(row["score"]) for row in read] == [row["score"] for row in ROWS]
    assert float(read[0]["ratio"]) == ROWS[0]["ratio"] and read[1]["ratio"] == ""
    assert read[1]["threshold"] == "" and json.loads(read[0]["regions"]) == ROWS[0]["regions"]
    assert read[0]["path"] == "a, b/ä.png"


def test_json_lines_and_parquet_give_the_rows_back(tmp_path):
    assert read_lines(write_table(ROWS, tmp_path / "t.jsonl")) == ROWS
    assert parquet.read_table(write_table(ROWS, tmp_path / "t.parquet")).to_pylist() == ROWS
    bare = parquet.read_table(write_table(ROWS[1:], tmp_path / "bare.parquet"))  # types do not hang on the values
    assert bare.schema == parquet.read_schema(tmp_path / "t.parquet")


def test_a_line_cut_off_is_left_out_and_a_broken_one_named(tmp_path):
    path = write_table(ROWS, tmp_path / "t.jsonl")
    whole = path.read_bytes()
    for cut in (1, 20, len(whole.splitlines()[1])):
        path.write_bytes(whole[:-cut])
        assert read_lines(path) == ROWS[:1]
    path.write_bytes(b"{broken\n" + whole)
    with pytest.raises(ValueError, match="line 1 is no JSON"):
        read_lines(path)


def test_formats_are_checked_before_work(monkeypatch, tmp_path):
    check_formats(["csv", "parquet", "jsonl"])
    with pytest.raises(ValueError, match=r"'xlsx'; expected csv, parquet, jsonl"):
        write_table(ROWS, tmp_path / "t.xlsx")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"pip install 'anople-hf\[train\]'"):
        check_formats(["parquet"])
    check_formats(["csv"])
    assert not list(tmp_path.iterdir())
