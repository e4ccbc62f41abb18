"""Small trees in the published layouts, with few tiny photos: what the table commands are run on."""

import json

import numpy as np
import pytest
from PIL import Image

SIZE = 48


def draw(path, seed, *, defect=False, mask=None, value=255):
    """A noisy photo; a defect is a bright square, whose mask is written, too."""
    rng = np.random.default_rng(seed)
    photo = rng.integers(60, 120, (SIZE, SIZE, 3), np.uint8)
    if defect:
        photo[10:26, 12:30] = 250
        truth = np.zeros((SIZE, SIZE), np.uint8)
        truth[10:26, 12:30] = value
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(truth).save(mask)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo).save(path)


def mvtec(root, categories=("bottle", "screw", "tile")):
    for place, category in enumerate(categories):
        for index in range(2):
            draw(root / category / "train/good" / f"{index}.png", [place, index])
            draw(root / category / "test/good" / f"{index}.png", [place, 10 + index])
            draw(
                root / category / "test/broken" / f"{index}.png",
                [place, 20 + index],
                defect=True,
                mask=root / category / "ground_truth/broken" / f"{index}_mask.png",
            )
    return root


def visa(root, categories=("macaroni2", "pcb4")):
    lines = ["object,split,label,image,mask"]
    for place, category in enumerate(categories):
        images = f"{category}/Data/Images"
        for index in range(3):
            draw(root / images / "Normal" / f"{index}.JPG", [place, index])
            lines.append(f"{category},{'test' if index else 'train'},normal,{images}/Normal/{index}.JPG,")
        truth = f"{category}/Data/Masks/Anomaly/0.png"
        draw(root / images / "Anomaly/0.JPG", [place, 9], defect=True, mask=root / truth, value=2)
        lines.append(f"{category},test,anomaly,{images}/Anomaly/0.JPG,{truth}")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(lines) + "\n")
    return root


def real_iad(root, categories=("mint", "toy")):
    (root / "realiad_jsons").mkdir(parents=True)
    for place, category in enumerate(categories):
        photos = root / "realiad_256" / category

        def sample(name, kind="OK", mask=None, category=category):
            return {"category": category, "anomaly_class": kind, "image_path": name, "mask_path": mask}

        draw(photos / "OK/S1/a.jpg", [place, 1])
        draw(photos / "OK/S2/b.jpg", [place, 2])
        draw(photos / "NG/QS/S3/c.jpg", [place, 3], defect=True, mask=photos / "NG/QS/S3/c.png")
        draw(photos / "NG/QS/S3/d.jpg", [place, 4])  # under NG, but nothing to be seen
        content = {
            "meta": {"prefix": f"{category}/", "normal_class": "OK"},
            "train": [sample("OK/S1/a.jpg")],
            "test": [
                sample("OK/S2/b.jpg"),
                sample("NG/QS/S3/c.jpg", "QS", "NG/QS/S3/c.png"),
                sample("NG/QS/S3/d.jpg"),
            ],
        }
        (root / "realiad_jsons" / f"{category}.json").write_text(json.dumps(content))
    return root


def bmad(root, categories=("Brain_AD", "Liver_AD", "Retina_RESC_AD")):
    for place, category in enumerate(categories):
        for index in range(4):
            draw(root / category / "train/good/img" / f"{index}.png", [place, index])
        draw(root / category / "test/good/img/0.png", [place, 10])
        folder = root / category / "test/Ungood"
        draw(folder / "img/1.png", [place, 11], defect=True, mask=folder / "anomaly_mask/1.png")
    return root


@pytest.fixture(scope="session")
def trees(tmp_path_factory):
    """Roots by layout."""
    root = tmp_path_factory.mktemp("trees")
    makers = {"mvtec": mvtec, "visa": visa, "real_iad": real_iad, "bmad": bmad}
    return {name: str(make(root / name)) for name, make in makers.items()}
