"""What a page that is loaded again finds: its own, for a while, and nobody else's."""

from types import SimpleNamespace

from anople_hf.app import sessions as module
from anople_hf.app.sessions import Sessions

KEYS = ["a" * 48, "b" * 48, "c" * 48]


def test_a_key_finds_its_own_for_a_while(monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: 100.0)
    monkeypatch.setattr(module, "time", clock)
    closed = []
    judging = SimpleNamespace(review=SimpleNamespace(seen=0.0, close=lambda: closed.append(1)))
    sessions = Sessions(60)
    sessions.keep(KEYS[0], "mine", judging)
    sessions.keep(KEYS[1], "theirs", None)
    sessions.keep("guess", "nobody's", None)
    assert sessions.get(KEYS[0]).visitor == "mine" and sessions.get(KEYS[1]).visitor == "theirs"
    assert sessions.get("guess") is None and sessions.get(None) is None and judging.review.seen == 100
    clock.monotonic = lambda: 150.0
    sessions.keep(KEYS[1], "theirs", None)
    clock.monotonic = lambda: 170.0
    assert sessions.get(KEYS[0]) is None and closed == [1] and sessions.get(KEYS[1]).visitor == "theirs"


def test_the_oldest_goes_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(module, "MOST", 2)
    sessions = Sessions(60)
    for key in KEYS:
        sessions.keep(key, key, None)
    assert sessions.get(KEYS[0]) is None and sessions.get(KEYS[2]).visitor == KEYS[2]
