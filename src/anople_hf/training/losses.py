"""The training losses of AnoPLe: dice, focal, contrastive and alignment, as pure functions.

Where in the paper: sec. 3.3 (eq. 8-13), with eq. 9 for the softmax over the two text vectors.

All are computed in float32 whatever the model's dtype: dice sums thousands of pixels and the logarithms sit near 0.
Masks are 1 on anomalous pixels; they may be soft (a cell's anomalous share), which dice and focal take as they come.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

ALIGN_CHANNELS = ("abnormal", "label")
LOSS_TERMS = ("pixel_dice", "pixel_focal", "image", "image_latent", "align")
ALIGN_MODES = ("weighted", "mean")
CHANCE = {"image": math.log(2), "image_latent": math.log(2)}
"""What a term costs whose probabilities are one half everywhere. Dice and focal have no such level: a map that marks
nothing may cost more or less, as the anomalies are large or small."""
TINY = 1e-7  # the smallest probability whose complement is still below 1 in float32
FAINTEST = 1e-30  # the peak of a map below which it counts as empty


def equal_shares(chosen: Tensor, photos: Tensor) -> Tensor:
    """Weights of the chosen views, so that every photo counts alike however many of its views are chosen. Ours.

    A mean over the chosen views of a batch would depend on how the batch is split over processes; a sum with these
    weights, averaged over equal parts of the batch, does not.

    Args:
        chosen: (B,) bool, the views that count.
        photos: (B,) which photo each view shows; any numbers.

    Returns:
        (B,) float32, 0 where not chosen; a photo's chosen views sum to 1 / number of photos.

    Example:
        >>> equal_shares(torch.tensor([True, True, False, True]), torch.tensor([7, 7, 8, 8]))
        tensor([0.2500, 0.2500, 0.0000, 0.5000])
    """
    names, owner = photos.unique(return_inverse=True)
    counts = torch.zeros(len(names), device=chosen.device).index_add_(0, owner, chosen.float())
    return chosen.float() / counts[owner].clamp_min(1) / len(names)


def dice_loss(
    abnormal_probability: Tensor, masks: Tensor, smooth: float = 1.0, shares: Tensor | None = None
) -> Tensor:
    """L_dice of eq. 8: one minus the overlap of map and mask, per image, then the mean.

    Args:
        abnormal_probability: M̂, (B, h, w) in [0, 1].
        masks: M, (B, h, w) in [0, 1].
        smooth: Added to overlap and sum, in pixels; an empty map on an empty mask then costs 0.
        shares: (B,) weights of the images; None for the plain mean.

    Returns:
        Scalar in [0, 1).

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> round(dice_loss(torch.zeros(1, 10, 10), torch.ones(1, 10, 10)).item(), 6)  # 1 - 1 / 101
        0.990099
    """
    probability, target = _pixels(abnormal_probability, masks)
    overlap = (probability * target).flatten(1).sum(dim=1)
    total = probability.flatten(1).sum(dim=1) + target.flatten(1).sum(dim=1)
    return _mean(1 - (2 * overlap + smooth) / (total + smooth), shares)


def focal_loss(abnormal_probability: Tensor, masks: Tensor, gamma: float = 2.0) -> Tensor:
    """L_focal of eq. 8 on the two channels {normal, abnormal}, mean over all pixels, without class weights.

    Args:
        abnormal_probability: M̂, (B, h, w) in [0, 1]; the normal channel is its complement.
        masks: M, (B, h, w) in [0, 1].
        gamma: How much easy pixels are played down; 0 gives cross-entropy.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> round(focal_loss(torch.full((1, 4, 4), 0.5), torch.zeros(1, 4, 4)).item(), 6)  # 0.5^2 ln 2
        0.173287
    """
    probability, target = _pixels(abnormal_probability, masks)
    abnormal = probability.clamp(TINY, 1 - TINY)
    normal = 1 - abnormal
    on_abnormal = normal**gamma * abnormal.log()
    on_normal = abnormal**gamma * normal.log()
    return -(target * on_abnormal + (1 - target) * on_normal).mean()


def contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    labels: Tensor,
    temperature: Tensor | float,
    shares: Tensor | None = None,
) -> Tensor:
    """L_ce of eq. 10: cross-entropy of the softmax in eq. 9, mean over views.

    Args:
        image_features: z_0, (B, d), L2-normalized.
        text_features: w, (2, d), L2-normalized; row 0 normal, row 1 abnormal.
        labels: (B,), 0 or False for a normal view, 1 or True for one that shows an anomaly.
        temperature: tau, > 0.
        shares: (B,) weights of the views; None for the plain mean.

    Returns:
        Scalar >= 0; ln 2 where both logits are equal.

    Raises:
        ValueError: If `text_features` does not have two rows or the batch sizes differ.
    """
    if text_features.shape != (2, image_features.shape[-1]) or labels.shape != image_features.shape[:1]:
        raise ValueError(
            "expected image features (B, d), text features (2, d), rows (normal, abnormal), and labels (B,), "
            f"got {tuple(image_features.shape)}, {tuple(text_features.shape)} and {tuple(labels.shape)}"
        )
    logits = image_features.float() @ text_features.float().T / temperature
    return _mean(F.cross_entropy(logits, labels.long(), reduction="none"), shares)


def image_loss(
    image_features: Tensor,
    text_features: Tensor,
    labels: Tensor,
    temperature: Tensor | float,
    latent_features: Tensor,
    photos: Tensor | None = None,
    latent_photos: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The two terms of L_img in eq. 10: against pixel-space and against latent-space anomalies.

    Each term holds the normal views z+ once and its own kind of anomaly. In the second, normal views and anomalies
    weigh the same; that photos do, whatever number of their views is normal, is ours.

    Args:
        image_features: z_0 of all views, (B, d), L2-normalized.
        text_features: w, (2, d), L2-normalized; row 0 normal, row 1 abnormal.
        labels: (B,), 1 where the view shows an anomaly.
        temperature: tau, > 0.
        latent_features: z_latent, (L, d), L2-normalized, all of them anomalies; L may be 0.
        photos: (B,) which photo a view shows: the second term then counts photos alike. None: it counts views alike.
        latent_photos: (L,) which photo an anomaly was made of; None: of the normal views, one each.

    Returns:
        L_ce(z+, z-, w) and L_ce(z+, z_latent, w), scalars; their sum is L_img.

    Raises:
        ValueError: If shapes do not fit together.

    Example:
        >>> z, w = F.normalize(torch.ones(3, 4), dim=1), F.normalize(torch.ones(2, 4), dim=1)
        >>> pixel, latent = image_loss(z, w, torch.tensor([0, 1, 0]), 0.07, z[:2])
        >>> round((pixel + latent).item(), 6)  # equal logits: 2 ln 2
        1.386294
    """
    pixel = contrastive_loss(image_features, text_features, labels, temperature)
    if not len(latent_features):  # the term is left out, or a batch of anomalies alone has nothing to perturb
        return pixel, pixel.new_zeros(())
    features = torch.cat([image_features[labels == 0].float(), latent_features.float()])
    targets = torch.ones(len(features), dtype=torch.long, device=features.device)
    targets[: len(features) - len(latent_features)] = 0
    shares = None
    if photos is not None:
        latent_photos = photos[labels == 0] if latent_photos is None else latent_photos
        owners = torch.cat([photos, latent_photos])  # also photos of which nothing was made
        made = equal_shares(torch.arange(len(owners), device=owners.device) >= len(photos), owners)[len(photos) :]
        shares = torch.cat([equal_shares(labels == 0, photos)[labels == 0], made]) / 2
    return pixel, contrastive_loss(features, text_features, targets, temperature, shares)


def alignment_loss(
    image_features: Tensor, patch_features: Tensor, abnormal_probability: Tensor, mode: str = "weighted"
) -> Tensor:
    """L_align of eq. 11-12: the global feature follows the local evidence, 1 - cos(z_0, s), mean over views.

    Args:
        image_features: z_0, (B, d).
        patch_features: D(z), (B, d, h, w).
        abnormal_probability: M̂, (B, h, w) in [0, 1].
        mode: "weighted" for s = sum of M̂ * D(z) (eq. 11), "mean" for the plain mean (ablation of table 4b).

    Returns:
        Scalar in [0, 2]; a view without evidence (s = 0) costs 1 and gives no gradient.

    Raises:
        ValueError: If `mode` is unknown or shapes do not fit together.

    Example:
        >>> z = torch.tensor([[3.0, 4.0]])
        >>> alignment_loss(z, 2 * z[..., None, None].expand(1, 2, 5, 5), torch.full((1, 5, 5), 0.1)).item() < 1e-6
        True
    """
    if mode not in ALIGN_MODES:
        raise ValueError(f"mode is {mode!r}, expected one of {ALIGN_MODES}; leave the term out for no alignment")
    batch, width, *cells = patch_features.shape
    if image_features.shape != (batch, width) or abnormal_probability.shape != (batch, *cells):
        raise ValueError(
            f"expected (B, d), (B, d, h, w) and (B, h, w), got {tuple(image_features.shape)}, "
            f"{tuple(patch_features.shape)} and {tuple(abnormal_probability.shape)}"
        )
    patches = patch_features.float()
    if mode == "mean":
        evidence = patches.mean(dim=(2, 3))
    else:
        # The cosine knows no scale, so maps are brought to a peak of 1 first: faint ones keep their direction.
        weights = abnormal_probability.float()
        weights = weights / weights.detach().amax(dim=(1, 2), keepdim=True).clamp_min(FAINTEST)
        evidence = torch.einsum("bdhw,bhw->bd", patches, weights) / weights[0].numel()
    # At s = 0 the cosine's gradient is 1 / epsilon; such a view is left out of the graph and counts as unaligned.
    seen = evidence.detach().norm(dim=1) > 0
    cosine = F.cosine_similarity(image_features.float(), evidence.where(seen[:, None], 1.0), dim=1)
    return (1 - cosine.where(seen, 0.0)).clamp(0, 2).mean()


def total_loss(
    *,
    image_features: Tensor,
    patch_features: Tensor,
    abnormal_probability: Tensor,
    text_features: Tensor,
    masks: Tensor,
    labels: Tensor,
    latent_features: Tensor,
    temperature: Tensor | float,
    photos: Tensor | None = None,
    latent_photos: Tensor | None = None,
    align_mode: str = "weighted",
    align_channel: str = "abnormal",
    weights: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """L of eq. 13, with its terms.

    Args:
        image_features: z_0 of all views, (B, d), L2-normalized.
        patch_features: D(z), (B, d, h, w).
        abnormal_probability: M̂, (B, h, w) in [0, 1].
        text_features: w, (2, d), L2-normalized; row 0 normal, row 1 abnormal.
        masks: M, (B, h, w) in [0, 1].
        labels: (B,), 1 where the view shows an anomaly.
        latent_features: z_latent, (L, d), L2-normalized.
        temperature: tau, > 0.
        photos: (B,) which photo each view shows, so that photos count alike in the terms that leave views out; None
            counts views alike. Ours, as eq. 8 does not say how views and photos are averaged.
        latent_photos: (L,) which photo each latent anomaly was made of.
        align_mode: See `alignment_loss`.
        align_channel: Which probability weighs the patches of a normal view: the "abnormal" one, eq. 11 to the
            letter, or that of its "label", the normal one.
        weights: Weight of a term by its name in `LOSS_TERMS`; 1 where not named. A weight of 0 leaves the term out of
            the total (table 4b's "no align").

    Returns:
        Unweighted scalars `pixel_dice` (over the views that show an anomaly, ours), `pixel_focal`, `image`,
        `image_latent`, `align`, and `total`, their weighted sum.

    Raises:
        ValueError: If a weight names no term, or shapes do not fit together.
    """
    weights = dict(weights or {})
    if unknown := sorted(set(weights) - set(LOSS_TERMS)):
        raise ValueError(f"weights name {unknown}, expected names out of {LOSS_TERMS}")
    if align_channel not in ALIGN_CHANNELS:
        raise ValueError(f"align_channel is {align_channel!r}, expected one of {ALIGN_CHANNELS}")
    evidence = abnormal_probability
    if align_channel == "label":
        evidence = torch.where(labels[:, None, None] == 1, abnormal_probability, 1 - abnormal_probability)
    image, image_latent = image_loss(
        image_features, text_features, labels, temperature, latent_features, photos, latent_photos
    )
    terms = {
        "pixel_dice": _dice_where_shown(abnormal_probability, masks, photos),
        "pixel_focal": focal_loss(abnormal_probability, masks),
        "image": image,
        "image_latent": image_latent,
        "align": alignment_loss(image_features, patch_features, evidence, align_mode),
    }
    used = [weights.get(name, 1.0) * term for name, term in terms.items() if weights.get(name, 1.0)]
    return {**terms, "total": torch.stack(used).sum() if used else torch.zeros_like(image)}


def _dice_where_shown(probability: Tensor, masks: Tensor, photos: Tensor | None) -> Tensor:
    """Dice over the views that show an anomaly; 0 without any.

    On an empty mask dice is close to 1 whatever the map says, and most views are empty: averaged in, they drown the
    others. Ours; focal still covers every view.
    """
    shown = masks.flatten(1).any(dim=1)
    if not shown.any():
        return probability.float().sum() * 0
    shares = None if photos is None else equal_shares(shown, photos)[shown]
    return dice_loss(probability[shown], masks[shown], shares=shares)


def _mean(values: Tensor, shares: Tensor | None) -> Tensor:
    return values.mean() if shares is None else (values * shares).sum()


def _pixels(probability: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float32 (B, h, w) on one device; bool and integer masks become 0 and 1."""
    if probability.shape != masks.shape or probability.ndim != 3:
        raise ValueError(
            f"expected map and mask of one shape (B, h, w), got {tuple(probability.shape)} and {tuple(masks.shape)}; "
            "resize the masks to the decoder's map"
        )
    return probability.float(), masks.to(device=probability.device, dtype=torch.float32)
