"""Make the embedded tiny CLIP: distill a pretrained EfficientNet-Lite2 into a small ViT, on a CPU or a GPU.

    pip install --no-deps -r scripts/tiny_clip/requirements.txt
    python scripts/tiny_clip/distill.py --photos PHOTOS --state STATE --output src/anople_hf/assets/tiny_clip

One command from scratch to the asset: it goes on from STATE if that was begun, deterministic from a seed.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from features import learn_features
from measure import measure, student_features
from photos import PhotoPool, class_names
from student import SIDE, make_student, make_tokenizer, patches_of
from supply import CHUNK, Supply, Views, answer
from teacher import Teacher
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from views import make_view
from words import learn_words


def make_teacher(photos: Path, device: str, file: Path | None = None) -> Teacher:
    """The teacher, its channels standardized on 512 views, or as `file` says."""
    teacher = Teacher(device)
    if file is not None and file.exists():
        teacher.load_state_dict(torch.load(file, weights_only=True), strict=False)
        return teacher
    pool = PhotoPool(photos)
    clean = ([make_view(pool, 10**9 + i, 0).clean for i in range(part, part + CHUNK)] for part in range(0, 512, CHUNK))
    teacher.standardize_on(torch.stack([torch.from_numpy(v).permute(2, 0, 1) for v in part]) for part in clean)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"mean": teacher.mean.cpu(), "std": teacher.std.cpu()}, file)
    return teacher


def held_back_views(photos: Path, teacher: Teacher, count: int) -> Views:
    """Views of photos that are never trained on."""
    pool = PhotoPool(photos, held_back=True)
    parts = [answer([make_view(pool, at + i, 1) for i in range(CHUNK)], teacher) for at in range(0, count, CHUNK)]
    return Views(*(torch.cat([getattr(part, name) for part in parts]) for name in Views.__dataclass_fields__))


def export(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a folder that `CLIPModel.from_pretrained` reads, in float16, whole or not at all."""
    work = folder.with_name(folder.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    half = CLIPModel(clip.config)
    half.load_state_dict({name: value.detach().cpu() for name, value in clip.state_dict().items()})
    half.half().save_pretrained(work)
    tokenizer.save_pretrained(work)
    CLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False).save_pretrained(work)
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos, see photos.py")
    parser.add_argument("--state", type=Path, required=True, help="folder that a training is resumed from")
    parser.add_argument("--output", type=Path, required=True, help="folder of the finished backbone")
    parser.add_argument("--start-from", type=Path, help="a finished backbone to go on from, where STATE holds nothing")
    parser.add_argument("--views", type=int, default=1_000_000, help="views that the patch features learn from")
    parser.add_argument("--word-views", type=int, default=100_000, help="views that the text branch learns from")
    parser.add_argument("--batch", type=int, default=16, help="views a step")
    parser.add_argument("--capacity", type=int, default=6000, help="views that are kept in memory")
    parser.add_argument(
        "--measure", type=Path, nargs="*", default=[], help="folders in MVTec-AD layout, only reported"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    """Learn the features, then the words, and write the asset."""
    args = parse()
    torch.set_num_threads(args.threads)
    stats = args.state / "teacher.pt"
    teacher = make_teacher(args.photos, args.device, stats)
    held_back = held_back_views(args.photos, teacher, 64)
    pool = PhotoPool(args.photos)
    photos = torch.stack([torch.from_numpy(make_view(pool, 10**9 + i, 0).clean).permute(2, 0, 1) for i in range(64)])
    tokenizer = make_tokenizer()
    clip = make_student(tokenizer, patches_of(photos), args.seed).to(args.device)
    if args.start_from is not None:
        clip.load_state_dict(CLIPModel.from_pretrained(args.start_from, dtype=torch.float32).state_dict())

    def supply(step: int) -> Supply:
        return Supply(args.photos, stats, seed=args.seed, step=step, batch=args.batch, capacity=args.capacity,
                      device=args.device)  # fmt: skip

    def report(views: int, hours: float) -> None:
        for folder in args.measure:
            found = {name: round(value, 3) for name, value in measure(student_features(clip), folder).items()}
            print(f"{folder.name} at {views:,} views: {found}", flush=True)
            with (args.state / "curve.jsonl").open("a") as file:
                file.write(json.dumps({"views": views, "hours": round(hours, 2), "data": folder.name} | found) + "\n")

    learn_features(clip, supply, held_back, total=args.views, batch=args.batch, state=args.state, device=args.device,
                   seed=args.seed, report=report, compiled=args.compile)  # fmt: skip
    export(clip, tokenizer, args.output)
    learn_words(clip, tokenizer, class_names(args.photos), supply, held_back, total=args.word_views, batch=args.batch,
                state=args.state, seed=args.seed)  # fmt: skip
    export(clip, tokenizer, args.output)


if __name__ == "__main__":
    main()
