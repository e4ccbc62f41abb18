"""`Webhook`: retries what may succeed, in order; gives up on what cannot; remembers what was delivered."""

import hashlib
import hmac
import socket

import pytest

from anople_hf.inspection.tables import COLUMNS
from anople_hf.inspection.webhook import SENT, Webhook, check_url


def row(name):
    values = {"path": name, "score": 0.7, "threshold": 0.5, "ratio": 1.4, "label": "defective", "regions": []}
    return dict.fromkeys(COLUMNS, "") | values


def tell(server, folder, names, earlier=(), **options):
    said = []
    url = server if isinstance(server, str) else f"http://127.0.0.1:{server.server_port}/"
    options = {"detector": "abc", "delays": (0.01, 0.01), "note": said.append} | options
    with Webhook(url, folder, [row(name) for name in earlier], **options) as webhook:
        for name in names:
            webhook.send(row(name))
    return webhook.undelivered, said


def test_what_may_succeed_is_tried_again_in_order(receiver, tmp_path):
    receiver.answers = [503, 0, 200, 429, 200]  # 0: hangs up without an answer
    assert tell(receiver, tmp_path, ["a", "b"]) == (0, [])
    assert receiver.asked == ["a", "a", "a", "b", "b"]


def test_what_cannot_succeed_is_not_and_the_next_one_is_sent(receiver, tmp_path):
    receiver.answers = [302, 503, 503, 503]
    undelivered, said = tell(receiver, tmp_path, ["moved", "down"])
    assert receiver.asked == ["moved", "down", "down", "down"]
    assert undelivered == 2 and "moved was not delivered (HTTP 302)" in said[0] and "HTTP 503" in said[1]
    receiver.asked.clear()
    assert tell(receiver, tmp_path, ["new"], earlier=["moved", "down"]) == (0, [])
    assert receiver.asked == ["moved", "down", "new"]  # what was not delivered first
    receiver.asked.clear()
    assert tell(receiver, tmp_path, [], earlier=["moved", "down", "new"]) == (0, []) and not receiver.asked


def test_rows_from_before_there_was_a_webhook_are_not_sent(receiver, tmp_path):
    tell(receiver, tmp_path, ["b"], earlier=["a"])
    assert receiver.asked == ["b"]


def test_a_note_that_was_cut_off_is_sent_again(receiver, tmp_path):
    tell(receiver, tmp_path, ["a", "b"])
    noted = (tmp_path / SENT).read_bytes()
    (tmp_path / SENT).write_bytes(noted[:-5])
    receiver.asked.clear()
    tell(receiver, tmp_path, [], earlier=["a", "b"])
    assert receiver.asked == ["b"]


def test_a_dead_receiver_does_not_hold_up_the_end(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    undelivered, said = tell(f"http://127.0.0.1:{port}/", tmp_path, [str(number) for number in range(50)])
    assert undelivered == 50 and "refused" in said[-1] and len(said) < 50


def test_an_interruption_does_not_wait(receiver, tmp_path):
    receiver.answers = [503] * 9
    with pytest.raises(KeyboardInterrupt), Webhook(
        f"http://127.0.0.1:{receiver.server_port}/", tmp_path, [], detector="abc", delays=(3600,)
    ) as webhook:  # fmt: skip
        webhook.send(row("a"))
        raise KeyboardInterrupt
    assert webhook.undelivered == 1


def test_the_signature_is_what_a_receiver_computes(receiver, tmp_path):
    tell(receiver, tmp_path, ["ä"], secret="kéy")
    body, headers = receiver.accepted[0]
    expected = hmac.new("kéy".encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Anople-Signature"] == f"sha256={expected}"
    tell(receiver, tmp_path, ["b"])
    assert "X-Anople-Signature" not in receiver.accepted[1][1]


@pytest.mark.parametrize("url", ["", "line.example", "ftp://line.example/x", "http:///x"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ValueError, match="expected an address"):
        check_url(url)
