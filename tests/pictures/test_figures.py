"""Features in the plane and pictures of attention, on a small drawn data set."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA

from anople_hf.data import load_inspection_data
from anople_hf.pictures.figures import draw_attention, draw_features, image_features, to_plane, write_figures


@pytest.fixture
def test_split(drawn):
    return load_inspection_data(drawn)["test"]


def test_pca_is_scikit_learns_up_to_sign():
    features = np.random.default_rng(0).normal(size=(20, 6)) * [5, 3, 1, 1, 1, 1]
    expected = PCA(2).fit_transform(features)
    np.testing.assert_allclose(np.abs(to_plane(features)), np.abs(expected), atol=1e-8)


def test_tsne_keeps_two_heaps_apart_and_repeats():
    rng = np.random.default_rng(1)
    features = np.concatenate([rng.normal(size=(15, 8)), rng.normal(size=(15, 8)) + 20])
    points = to_plane(features, "tsne")
    heaps = points[:15].mean(axis=0), points[15:].mean(axis=0)
    own = max(
        np.linalg.norm(points[:15] - heaps[0], axis=1).max(), np.linalg.norm(points[15:] - heaps[1], axis=1).max()
    )
    assert np.linalg.norm(heaps[0] - heaps[1]) > own
    np.testing.assert_array_equal(points, to_plane(features, "tsne"))


def test_too_few_points_and_other_methods_are_refused():
    with pytest.raises(ValueError, match="2 features"):
        to_plane(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="pca or tsne"):
        to_plane(np.zeros((9, 4)), "umap")


def test_features_are_the_models(make_model, processor, test_split):
    model = make_model()
    features = image_features(model, processor, test_split.select(range(3)), batch_size=2)
    pixels = processor(images=test_split[2]["image"])["pixel_values"]
    with torch.inference_mode():
        np.testing.assert_allclose(features[2], model.encode_image(pixels)[0][0].numpy(), atol=1e-5)


def test_every_group_is_drawn_once():
    features = np.random.default_rng(0).normal(size=(8, 5))
    figure = draw_features(features, ["a"] * 4 + ["b"] * 4, [0, 0, 1, 1] * 2, methods=("pca",))
    (axis,) = figure.axes
    counts = [len(points.get_offsets()) for points in axis.collections]
    assert counts == [2, 2, 2, 2]


def test_text_vectors_stand_in_the_plane_of_one_category():
    features, words = np.random.default_rng(0).normal(size=(6, 5)), np.eye(2, 5) * 9
    figure = draw_features(features, ["a"] * 6, [0, 1] * 3, methods=("pca",), text_features=words)
    stars = {group.get_label(): group.get_offsets()[0] for group in figure.axes[0].collections}
    points = to_plane(np.concatenate([features, words]))
    np.testing.assert_allclose([stars["w+, normal text"], stars["w-, abnormal text"]], points[6:])


def test_pictures_are_written(make_model, processor, test_split, tmp_path):
    paths = write_figures(make_model(), processor, test_split, tmp_path / "out", methods=("pca",))
    assert [path.name for path in paths] == ["features.png", "category_features.png", "attention.png"]
    for path in paths:
        with Image.open(path) as picture:
            assert min(picture.size) > 200
    plain = write_figures(make_model(scale_prefix=False), processor, test_split, tmp_path / "plain", methods=("pca",))
    assert [path.name for path in plain] == ["features.png", "category_features.png"]
    with pytest.raises(ValueError, match="without a scale prefix"):
        draw_attention(make_model(scale_prefix=False), processor, test_split, [0])
