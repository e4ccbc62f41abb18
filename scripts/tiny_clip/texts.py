"""What is said of a view: the name of what it shows, and whether that is damaged."""

import numpy as np
import torch
from supply import KINDS
from torch import Tensor
from transformers import CLIPTokenizer

TEMPLATES = ("{}.", "{}.", "{}.", "a photo of a {}.", "a photo of the {}.", "a close-up photo of a {}.", "{}")
ABNORMAL = ("abnormal", "abnormal", "abnormal", "damaged", "defective", "broken")
"""Words before a name that say it is damaged; the first is the abnormality token of eq. 1."""
THINGS = ("object", "product", "part", "item", "surface", "texture", "material", "piece")
"""Names that fit any view, as the teacher's often do not fit a texture."""


def name_texts(names: list[str], generator: np.random.Generator) -> list[str]:
    """Each name in a template of its own."""
    return [str(generator.choice(TEMPLATES)).format(name) for name in names]


def state_texts(names: list[str], kinds: Tensor, generator: np.random.Generator) -> list[str]:
    """Two texts for each view, in two blocks: sound and damaged, in the same template and with the same name.

    Args:
        names: What each view most likely shows.
        kinds: (B,) kind of damage, place in `KINDS`; a sound view's is 0.
        generator: Of the choices.
    """
    sound, damaged = [], []
    for name, kind in zip(names, kinds.tolist(), strict=True):
        word = str(generator.choice(ABNORMAL)) if not kind or generator.random() < 0.7 else KINDS[kind]
        thing = name if generator.random() < 0.6 else str(generator.choice(THINGS))
        template = str(generator.choice(TEMPLATES))
        sound.append(template.format(thing))
        damaged.append(template.format(f"{word} {thing}"))
    return sound + damaged


def encode(tokenizer: CLIPTokenizer, texts: list[str], slots: int = 0) -> Tensor:
    """(N, T) token ids, with `slots` places behind the start for prompts, padded with the end."""
    first, last = (tokenizer.convert_tokens_to_ids(t) for t in ("<|startoftext|>", "<|endoftext|>"))
    rows = [[first, *[0] * slots, *tokenizer(text, add_special_tokens=False)["input_ids"], last] for text in texts]
    longest = max(map(len, rows))
    return torch.tensor([row + [last] * (longest - len(row)) for row in rows])
