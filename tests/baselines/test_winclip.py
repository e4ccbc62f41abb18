"""WinCLIP: the prompt ensemble, windows against a loop, and harmonic means."""

import pytest
import torch
from torch.nn import functional as F

from anople_hf.baselines import WinCLIP, WinCLIPZeroShot
from anople_hf.baselines.winclip import ABNORMAL, NORMAL, TEMPLATES, harmonic_mean, spread, window_cells


@pytest.fixture
def detector(tiny_clip):
    return WinCLIP.from_backbone(tiny_clip)


def test_the_ensemble_is_the_published_one():
    assert len(set(TEMPLATES)) == 22 and len(NORMAL) == 7 and len(ABNORMAL) == 4
    assert "a photo of the {} for visual inspection." in TEMPLATES


@torch.inference_mode()
def test_texts_are_averaged_within_each_label(detector):
    texts = detector.texts_for("metal_nut")
    for row, states in enumerate((NORMAL, ABNORMAL)):
        vectors = []
        for state in states:
            for template in TEMPLATES:
                text = template.format(state.format("metal nut"))
                tokens = detector.tokenizer(text, truncation=True, return_tensors="pt")
                vectors.append(F.normalize(detector.clip.get_text_features(**tokens).pooler_output[0], dim=0))
        expected = F.normalize(torch.stack(vectors).mean(dim=0), dim=0)
        torch.testing.assert_close(texts[row], expected, atol=1e-4, rtol=1e-3)


@torch.inference_mode()
def test_untold_category_means_all_known_ones_or_object(detector, photos):
    assert not torch.allclose(detector.texts_for("gear"), detector.texts_for("nut"))
    nothing = detector.texts_for(None)
    torch.testing.assert_close(nothing, detector.texts_for("object"))
    detector.memorize(photos[:1], "gear")
    torch.testing.assert_close(detector.texts_for(None), detector.texts_for("gear"))


@torch.inference_mode()
def test_windows_go_through_the_tower_by_themselves(detector, photos):
    vision = detector.clip.vision_model
    embedded = vision.pre_layrnorm(vision.embeddings(photos[:1]))
    grid = detector.config.grid_size
    found = detector.encode(photos[:1])["window2"][0]
    index = 0
    for top in range(grid - 1):
        for left in range(grid - 1):
            cells = [1 + (top + y) * grid + left + x for y in (0, 1) for x in (0, 1)]
            hidden = embedded[:, [0, *cells]]
            for layer in vision.encoder.layers:
                hidden = layer(hidden, None)
            feature = detector.clip.visual_projection(vision.post_layernorm(hidden[:, 0]))
            torch.testing.assert_close(found[index], F.normalize(feature[0], dim=0), atol=1e-5, rtol=1e-4)
            index += 1
    assert index == len(found)


def test_spread_is_the_harmonic_mean_over_covering_windows():
    values = torch.rand(2, 9, generator=torch.Generator().manual_seed(0)) + 0.1
    cells = window_cells(4, 2)
    maps = spread(values, cells, 4).flatten(1)
    for cell in range(16):
        covering = [window for window, own in enumerate(cells.tolist()) if cell in own]
        torch.testing.assert_close(maps[:, cell], harmonic_mean(values[:, covering].T))


def test_photos_help_where_the_view_is_known(detector, photos):
    detector.memorize(photos[:2], "gear")
    known, new = detector(photos[:1]), detector(photos[4:5])
    language = WinCLIPZeroShot.from_backbone(detector.config.backbone)
    language.memorize(photos[:2], "gear")
    zero = language(photos[:1])
    torch.testing.assert_close(known.scores, zero.scores / 2, atol=1e-4, rtol=1e-3)  # nothing to add: all is known
    assert new.scores > language(photos[4:5]).scores / 2 + 1e-3


def test_zero_shot_looks_at_no_photo(tiny_clip, photos):
    detector = WinCLIPZeroShot.from_backbone(tiny_clip)
    detector.memorize(photos[:1], "gear", names=["a.png"])
    before = detector(photos).scores
    detector.memorize(photos[1:3], "gear")
    torch.testing.assert_close(detector(photos).scores, before)
    assert detector.memory.references("gear") == ["a.png", "", ""]


def test_temperature_matters_and_is_checked(tiny_clip, photos):
    sharp, soft = (WinCLIPZeroShot.from_backbone(tiny_clip, temperature=value)(photos).scores for value in (0.01, 1.0))
    assert (sharp - 0.5).abs().mean() > (soft - 0.5).abs().mean()
    with pytest.raises(ValueError, match="temperature=0"):
        WinCLIP.from_backbone(tiny_clip, temperature=0)
