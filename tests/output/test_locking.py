"""One writer at a time: four processes that change one bank lose nothing, a second maker of one folder is refused."""

import logging
import multiprocessing
import threading

import pytest
import torch

from anople_hf.memory import BANK_FILE, MemoryBank
from anople_hf.output.locking import LOCK, changing, making

EACH = 5


def add_products(run, worker):
    torch.set_num_threads(1)
    for number in range(EACH):
        with changing(run):
            bank = MemoryBank.load(run / BANK_FILE) if (run / BANK_FILE).exists() else MemoryBank([0])
            bank.add(f"{worker}-{number}", torch.randn(1, 1, 4, 8))
            bank.save(run / BANK_FILE)


def test_nothing_is_lost_between_processes(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=add_products, args=(tmp_path, worker)) for worker in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    known = MemoryBank.load(tmp_path / BANK_FILE).categories
    assert sorted(known) == sorted(f"{worker}-{number}" for worker in range(4) for number in range(EACH))
    assert {path.name for path in tmp_path.iterdir()} <= {BANK_FILE, LOCK}


def test_a_second_writer_waits_and_says_so(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("anople_hf.output.locking.SOON", 0.05)
    held, done, order = threading.Event(), threading.Event(), []

    def first():
        with changing(tmp_path):
            held.set()
            done.wait(20)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    held.wait(20)
    with pytest.raises(OSError, match="still being changed by another process"), changing(tmp_path, patience=0.1):
        pass
    assert "is being changed by another process; waiting" in caplog.text
    done.set()
    with caplog.at_level(logging.ERROR), changing(tmp_path):
        order.append("second")
    thread.join(20)
    assert order == ["first", "second"]


def test_a_second_maker_is_refused_and_leaves_no_trace(tmp_path):
    with making(tmp_path / "run"):
        with pytest.raises(FileExistsError, match=r"another process is writing .*run"), making(tmp_path / "run"):
            pass
        with making(tmp_path / "other"):
            pass
    with making(tmp_path / "run"):
        pass
    assert list(tmp_path.iterdir()) == []
