"""The tokenizer of the embedded tiny CLIP: byte-level BPE that knows some object words whole and spells all others.

Where in the paper: it belongs to the backbone of sec. 4.1; vocabulary and size are ours.
"""

from collections import Counter

from drawn_world import COLOURS, DEFECTS, MATERIALS, SHAPES, SURFACE
from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

CONTEXT = 77
WORDS = """a an of the with photo close up view object part product item abnormal normal damaged broken perfect
intact flawless good defective anomalous bottle cable capsule carpet grid hazelnut leather metal nut
pill screw tile toothbrush transistor wood zipper candle cashew chewing gum fryum macaroni printed
circuit board pipe magnetic brain liver retinal oct switch tape toy brick usb washer bolt spring wheel
plate bearing fabric cloth glass plastic ceramic steel brass rubber paper label connector tube bracket
cap box chip coin battery button lens lid wire coil biscuit gasket valve gear surface ring"""


def make_tokenizer() -> CLIPTokenizer:
    """Learn the merges; always the same ones, so that a resumed training and its export agree on every id."""
    words = dict.fromkeys([*WORDS.split(), *MATERIALS, *SHAPES, *DEFECTS, *COLOURS, SURFACE])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(list(words))
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(pieces))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Join the commonest pair of pieces until every word is one piece.

    `tokenizers.trainers.BpeTrainer` breaks ties between equally common pairs in another order in every process; here
    the alphabet decides.

    Example:
        >>> learn_merges(["nut", "nuts"])
        [('n', 'u'), ('nu', 't</w>'), ('nu', 't'), ('nut', 's</w>')]
    """
    spelt = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges = []
    while pairs := Counter(pair for pieces in spelt for pair in zip(pieces, pieces[1:], strict=False)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for pieces in spelt:
            at = 0
            while at < len(pieces) - 1:
                if (pieces[at], pieces[at + 1]) == best:
                    pieces[at : at + 2] = ["".join(best)]
                at += 1
    return merges
