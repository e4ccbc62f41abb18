"""The service's API as its clients meet it: verdicts, teaching, thresholds, errors, token, limits, metrics."""

import base64
import io

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.inspection.predict import predict
from anople_hf.service import Limits, ServedDetector, build
from anople_hf.teaching import set_threshold


@pytest.fixture
def start(run):
    """Start the service of `run` in this process."""
    started = []

    def begin(**options):
        model, processor = AnoPLeModel.from_pretrained(run), AnoPLeProcessor.from_pretrained(run)
        client = TestClient(build(ServedDetector(model, processor, run), **options), raise_server_exceptions=False)
        started.append(client.__enter__())
        return client

    yield begin
    for client in started:
        client.__exit__(None, None, None)


def files(paths):
    return [("photos", (path.name, path.read_bytes())) for path in paths]


def png(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "gray").save(buffer, "PNG")
    return buffer.getvalue()


def test_verdicts_are_those_of_predict(start, run, drawn):
    model, processor = AnoPLeModel.from_pretrained(run).eval(), AnoPLeProcessor.from_pretrained(run)
    learned = model.memory.product("capsule").thresholds
    set_threshold(model, "capsule", learned.threshold / 4)  # an untrained backbone finds nothing at its own
    model.save_pretrained(run)
    client = start()
    paths = sorted((drawn / "capsule/test").rglob("*.png"))
    for product in (None, "capsule"):
        expected = list(predict(model, processor, paths, category=product, progress=False))
        told = {"product": product} if product else {}
        got = client.post("/score", files=files(paths), data=told).json()["results"]
        assert [verdict["name"] for verdict in got] == [path.name for path in paths]
        for verdict, wanted in zip(got, expected, strict=True):
            result = wanted.result
            assert verdict["score"] == pytest.approx(result["score"], rel=1e-5)
            assert verdict["ratio"] == pytest.approx(result["score"] / result["threshold"], rel=1e-5)
            assert (verdict["label"], verdict["product"]) == (result["label"], wanted.category)
            boxes = [tuple(region["box"].values()) for region in verdict["boxes"]]
            assert boxes == [region["box"] for region in result["regions"]]
        assert any(verdict["boxes"] for verdict in got)
    picture = client.post("/score", files=files(paths[:1]), data={"heat_map": "true"}).json()["results"][0]["heat_map"]
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == Image.open(paths[0]).size


def test_views_of_a_part_get_one_verdict(start, drawn):
    client = start()
    paths = sorted((drawn / "capsule/test").rglob("*.png"))[:4]
    alone = client.post("/score", files=files(paths)).json()
    assert alone["parts"] == []
    told = {"product": "capsule", "part": ["7", "8", "7", ""]}
    answer = client.post("/score", files=files(paths), data=told).json()
    ratios = [verdict["ratio"] for verdict in answer["results"]]
    assert [(part["part"], part["views"], part["product"]) for part in answer["parts"]] == [
        ("7", 2, "capsule"), ("8", 1, "capsule")]  # fmt: skip
    assert answer["parts"][0]["ratio"] == max(ratios[0], ratios[2]) and answer["parts"][1]["worst"] == 1
    (one,) = client.post("/score", files=files(paths), data={"part": "7"}).json()["parts"]
    assert one["views"] == 4
    wrong = client.post("/score", files=files(paths), data={"part": ["7", "8"]})
    assert wrong.status_code == 422 and "2 for 4 photos" in wrong.json()["error"]


def test_what_is_taught_is_saved_and_counts_at_once(start, run, drawn):
    client = start()
    old = client.get("/version").json()["fingerprint"]
    photos = sorted((drawn / "brass_gear/train/good").iterdir())
    told = {"product": "gear", "false_alarm_rate": 0.2, "turns": "4"}
    change = client.post("/teach", files=files(photos[:3]), data=told).json()
    assert change["added"] == [path.name for path in photos[:3]] and change["before"] is None and change["why"]
    again = client.post("/teach", files=files(photos[2:4]), data={"product": "gear"}).json()
    assert again["known"] == [photos[2].name] and again["before"] == change["after"]
    assert again["after"]["false_alarm_rate"] == 0.2
    saved = AnoPLeModel.from_pretrained(run).memory
    assert saved.product("gear").thresholds.threshold == again["after"]["threshold"]
    assert {photo.copies for photo in saved.references("gear")} == {4}
    shown = {entry["product"]: entry for entry in client.get("/products").json()}
    assert shown["gear"]["photos"] == 4 and set(shown) == {"capsule", "woven_cloth", "gear"}
    verdict = client.post("/score", files=files(photos[:1]), data={"product": "gear"}).json()["results"][0]
    assert verdict["threshold"] == pytest.approx(again["after"]["threshold"]) and verdict["label"] == "normal"
    assert client.get("/version").json()["fingerprint"] != old
    nothing = client.post("/teach", files=files(photos[:1]), data={"product": "a/b"})
    assert nothing.status_code == 422 and "'a/b'" in nothing.json()["error"]


def test_a_product_is_taught_with_region_and_tiles(start, run, drawn):
    client = start()
    photos = sorted((drawn / "brass_gear/train/good").iterdir())[:2]
    told = {"product": "gear", "region": "0,0,48,96", "tiles": "1x2"}
    read = client.post("/teach", files=files(photos), data=told)
    assert read.status_code == 200 and "gear" in AnoPLeModel.from_pretrained(run).memory.framings
    results = client.post("/score", files=files([*photos, drawn / "capsule/train/good/000.png"])).json()["results"]
    assert [result["product"] for result in results] == ["gear", "gear", "capsule"]
    for wrong, said in (({"region": "/etc/passwd"}, "expected x,y,w,h"), ({"tiles": "2by3"}, "rows x columns"),
                        ({"tiles": "auto"}, "smallest")):  # fmt: skip
        answer = client.post("/teach", files=files(photos), data={"product": "other", **wrong})
        assert answer.status_code == 422 and said in answer.json()["error"]


def test_what_another_process_changed_is_kept(start, run, drawn):
    client = start()
    other = AnoPLeModel.from_pretrained(run)
    other.memory.rename("capsule", "pill")
    other.save_memory(run)
    client.post("/teach", files=files(sorted((drawn / "brass_gear/train/good").iterdir())[:2]), data={"product": "g"})
    assert AnoPLeModel.from_pretrained(run).memory.categories == ["pill", "woven_cloth", "g"]


def test_thresholds_are_set_and_given_back(start, run, drawn):
    client = start()
    learned = client.get("/thresholds").json()["capsule"]["threshold"]
    change = client.put("/thresholds", json={"product": "capsule", "threshold": 0}).json()
    assert change["before"]["threshold"] == learned and change["after"]["promise"] == "set by hand"
    photo = files(sorted((drawn / "capsule/train/good").iterdir())[:1])
    assert client.post("/score", files=photo, data={"product": "capsule"}).json()["results"][0]["label"] == "defective"
    assert AnoPLeModel.from_pretrained(run).memory.product("capsule").thresholds.threshold == 0
    back = client.put("/thresholds", json={"product": "capsule", "threshold": "learned"}).json()
    assert back["after"]["threshold"] == pytest.approx(learned)
    for wrong, status in (({"product": "nut", "threshold": 1}, 404), ({"product": "capsule", "threshold": "x"}, 422),
                          ({"product": "capsule", "threshold": -1}, 422), ({"product": "capsule"}, 422)):  # fmt: skip
        answer = client.put("/thresholds", json=wrong)
        assert answer.status_code == status and answer.json()["error"].count("\n") == 0


def test_errors_are_one_sentence_of_json(start, drawn):
    client = start(limits=Limits(megabytes=1, photos=2, megapixels=1))
    good = ("photos", ("good.png", png(64, 64)))
    for status, word, request in (
        (422, "photo (1).png is truncated or not an image; ", {"files": [("photos", ("C:\\x\\photo (1).png", b""))]}),
        (422, "half.png", {"files": [("photos", ("half.png", png(300, 300)[:-40]))]}),
        (422, "smaller than a patch", {"files": [("photos", ("small.png", png(8, 8)))]}),
        (422, "photos: Field required", {}),
        (404, "known: capsule, woven_cloth", {"files": [good], "data": {"product": "nut"}}),
        (413, "at most 2", {"files": [good] * 3}),
        (413, "at most 2", {"files": [good] * 200}),  # more than may wait, but no reason to send them again
        (413, "more than 1 million pixels", {"files": [("photos", ("big.png", png(1001, 1000)))]}),
        (413, "more than 1 MB", {"files": [("photos", ("long.bmp", bytes(2**20 + 1)))]}),
    ):  # fmt: skip
        answer = client.post("/score", **request)
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
        assert word in answer.json()["error"] and "\n" not in answer.json()["error"]
    assert client.get("/nowhere").json()["error"].startswith("GET /nowhere is not offered")
    assert client.get("/score").status_code == 405
    assert client.post("/score", files=[good]).status_code == 200  # it goes on


def test_a_token_is_asked_for_where_it_matters(start):
    client = start(token="säcret")
    assert client.get("/health").json() == {"status": "ok"} and client.get("/ready").status_code == 200
    assert client.get("/openapi.json").status_code == 200
    for headers in ({}, {"Authorization": "Bearer secret"}, {"Authorization": "Basic säcret".encode()}):
        for method, path in (("GET", "/products"), ("POST", "/score"), ("POST", "/teach"), ("PUT", "/thresholds"),
                             ("GET", "/metrics"), ("GET", "/version")):  # fmt: skip
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 401 and "token" in answer.json()["error"], path
    assert client.get("/products", headers={"Authorization": "Bearer säcret".encode()}).status_code == 200


def test_a_page_of_another_site_is_refused(start):
    """A browser would send a form of any page to a service on this machine, and teach it."""
    client = start()
    assert client.post("/teach", headers={"Origin": "https://elsewhere.example"}).status_code == 403
    assert client.get("/products", headers={"Origin": "http://testserver"}).status_code == 200


def test_the_page_describes_all_without_a_network(start, drawn):
    client = start()
    page = client.get("/docs").text
    assert "https://" not in page.split("<body>")[0] + page.split("<script src=")[1].split(">")[0]
    assert len(client.get("/static-offline-docs/swagger-ui-bundle.js").content) > 10**6
    described = client.get("/openapi.json").json()
    paths = described["paths"]
    assert next(iter(paths["/score"]["post"]["tags"])) == described["tags"][0]["name"] == "photos"
    for verb in ("score", "teach"):  # the page asks for files, not for text, and sends no sample value unasked
        fields = described["components"]["schemas"][f"Body_{verb}_{verb}_post"]["properties"]
        assert fields["photos"]["items"]["format"] == "binary"
    sent = client.post("/score", files=files([drawn / "capsule/train/good/000.png"]), data={"product": "", "part": ""})
    assert sent.status_code == 200 and sent.json()["parts"] == []
    assert set(paths) == {"/score", "/products", "/teach", "/thresholds", "/health", "/ready", "/version", "/metrics"}
    assert set(paths["/thresholds"]) == {"get", "put"}


def test_metrics_count_what_happened(start, drawn):
    client = start()
    photos = files(sorted((drawn / "capsule/train/good").iterdir())[:2])
    client.post("/score", files=photos, data={"product": "capsule"})
    client.get("/anything")
    text = client.get("/metrics").text
    assert 'anople_photos_total{label="normal",product="capsule"} 2.0' in text
    assert 'anople_requests_total{method="POST",path="/score",status="200"} 1.0' in text
    assert 'anople_requests_total{method="GET",path="other",status="404"} 1.0' in text
    assert "anople_batch_photos_sum 2.0" in text and "anople_waiting_photos 0.0" in text
    learned = client.get("/thresholds").json()["woven_cloth"]["threshold"]
    assert f'anople_threshold{{product="woven_cloth"}} {learned}' in text


def test_a_detector_that_knows_nothing_is_not_ready(start, run, drawn):
    (run / "memory_bank.safetensors").unlink()
    client = start()
    assert client.get("/health").status_code == 200 and client.get("/ready").status_code == 503
    photos = files(sorted((drawn / "capsule/train/good").iterdir())[:2])
    assert client.post("/score", files=photos).status_code == 503
    assert client.post("/teach", files=photos, data={"product": "capsule"}).status_code == 200
    assert client.get("/ready").status_code == 200
    assert client.post("/score", files=photos).json()["results"][0]["label"] == "normal"
