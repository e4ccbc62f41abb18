"""Photo counts of the published data sets, per category, to check a download against.

They were counted in the split files published with the data sets.
"""

Counts = tuple[int, int, int]
"""Good photos to train, good ones to test, defective ones to test."""

PUBLISHED: dict[str, dict[str, Counts]] = {
    "MVTec-AD": {
        "bottle": (209, 20, 63),
        "cable": (224, 58, 92),
        "capsule": (219, 23, 109),
        "carpet": (280, 28, 89),
        "grid": (264, 21, 57),
        "hazelnut": (391, 40, 70),
        "leather": (245, 32, 92),
        "metal_nut": (220, 22, 93),
        "pill": (267, 26, 141),
        "screw": (320, 41, 119),
        "tile": (230, 33, 84),
        "toothbrush": (60, 12, 30),
        "transistor": (213, 60, 40),
        "wood": (247, 19, 60),
        "zipper": (240, 32, 119),
    },
    "VisA": {
        "candle": (900, 100, 100),
        "capsules": (542, 60, 100),
        "cashew": (450, 50, 100),
        "chewinggum": (453, 50, 100),
        "fryum": (450, 50, 100),
        "macaroni1": (900, 100, 100),
        "macaroni2": (900, 100, 100),
        "pcb1": (904, 100, 100),
        "pcb2": (901, 100, 100),
        "pcb3": (905, 101, 100),
        "pcb4": (904, 101, 100),
        "pipe_fryum": (450, 50, 100),
    },
    "MPDD": {
        "bracket_black": (289, 32, 47),
        "bracket_brown": (185, 26, 51),
        "bracket_white": (110, 30, 30),
        "connector": (128, 30, 14),
        "metal_plate": (54, 26, 71),
        "tubes": (122, 32, 69),
    },
    "BTAD": {"01": (400, 21, 49), "02": (399, 30, 200), "03": (1000, 400, 41)},
}

REAL_IAD = [
    "audiojack",
    "bottle_cap",
    "button_battery",
    "end_cap",
    "eraser",
    "fire_hood",
    "mint",
    "mounts",
    "pcb",
    "phone_battery",
    "plastic_nut",
    "plastic_plug",
    "porcelain_doll",
    "regulator",
    "rolled_strip_base",
    "sim_card_set",
    "switch",
    "tape",
    "terminalblock",
    "toothbrush",
    "toy",
    "toy_brick",
    "transistor1",
    "u_block",
    "usb",
    "usb_adaptor",
    "vcpill",
    "wooden_beads",
    "woodstick",
    "zipper",
]
TOTALS: dict[str, tuple[Counts, ...]] = {
    "Real-IAD": ((36465, 114585 - 51329, 51329), (10408, 19802 - 9415, 9415)),
}
"""Only sums are published for Real-IAD: multi-view, and the first view alone."""


def recognize(categories: list[str]) -> str | None:
    """The published data set that has all these categories, or None.

    Example:
        >>> recognize(["bottle", "zipper"]), recognize(["bottle", "mug"])
        ('MVTec-AD', None)
    """
    known = {**{name: set(counts) for name, counts in PUBLISHED.items()}, "Real-IAD": set(REAL_IAD)}
    fitting = [name for name, theirs in known.items() if categories and set(categories) <= theirs]
    return fitting[0] if fitting else None


__all__ = ["PUBLISHED", "REAL_IAD", "TOTALS", "Counts", "recognize"]
