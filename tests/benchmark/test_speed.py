"""Images per second: what is timed is preprocessing and scoring, nothing else, and after a warm-up."""

import time

from anople_hf.benchmark import speed
from anople_hf.data import load_inspection_data


def test_scoring_alone_is_timed_and_warmed_up(make_model, processor, drawn, photos, monkeypatch):
    model = make_model()
    model.memorize(photos[:1], "gear")
    sizes, read = [], []

    class Slow:
        config, memory, device, dtype = model.config, model.memory, model.device, model.dtype

        def __call__(self, pixel_values, **how):
            sizes.append(len(pixel_values))
            time.sleep(0.5 if len(sizes) in (1, speed.ROUNDS + 2) else 0.02)  # the first of each size is slow
            return model(pixel_values, **how)

    monkeypatch.setattr(speed, "read_image", lambda image: read.append(1) or image)
    test = load_inspection_data(drawn)["test"]
    found = speed.time_scoring("AnoPLe", Slow(), processor, test, branch="memory")
    assert list(found) == ["AnoPLe", "AnoPLe, batches of 16"]
    assert sizes == [1] * (speed.ROUNDS + 1) + [16] * (speed.ROUNDS + 1)
    assert len(read) == min(16, len(test))  # each once, before anything is timed
    assert found["AnoPLe"] <= 1 / 0.02
