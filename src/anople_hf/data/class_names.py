"""The word for each category in the text prompts.

These words are [class] in eq. 1. Those for MVTec-AD and most of VisA are PromptAD's, whose conventions the authors
follow; those for Real-IAD and BMAD are ours, as a person would write them.
"""

from collections.abc import Iterable, Mapping

PUBLISHED_NAMES = {
    # VisA
    "chewinggum": "chewing gum",
    "macaroni1": "macaroni",
    "macaroni2": "macaroni",
    "pcb1": "printed circuit board",
    "pcb2": "printed circuit board",
    "pcb3": "printed circuit board",
    "pcb4": "printed circuit board",
    # Real-IAD
    "audiojack": "audio jack",
    "mounts": "mount",
    "pcb": "printed circuit board",
    "sim_card_set": "SIM card set",
    "terminalblock": "terminal block",
    "transistor1": "transistor",
    "u_block": "U-shaped block",
    "usb": "USB connector",
    "usb_adaptor": "USB adapter",
    "vcpill": "vitamin C pill",
    "woodstick": "wooden stick",
    # BMAD
    "Brain": "brain MRI",
    "Liver": "liver CT",
    "Retina_RESC": "retinal OCT",
    "Retina": "retinal OCT",
    "brain": "brain MRI",
    "liver": "liver CT",
    "retinal": "retinal OCT",
}
"""Categories whose folder name is not a good word. Names that occur twice count twice in the mean over classes."""


def class_names_for(categories: Iterable[str], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The word for each category: the given one, else the published one, else the folder's name with spaces.

    Args:
        categories: Folder names.
        given: The user's own words, by category.

    Raises:
        ValueError: `given` names an unknown category.

    Example:
        >>> class_names_for(["metal_nut", "pcb1", "x17"], {"x17": "gear wheel"})
        {'metal_nut': 'metal nut', 'pcb1': 'printed circuit board', 'x17': 'gear wheel'}
    """
    categories, given = list(categories), dict(given or {})
    if unknown := sorted(set(given) - set(categories)):
        raise ValueError(f"class names for {unknown}, which are not among the categories {categories}.")
    return {c: given.get(c) or PUBLISHED_NAMES.get(c) or c.replace("_", " ") for c in categories}
