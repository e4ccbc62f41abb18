"""`ABLATIONS`: what each row of Table 4 changes; the paper's rows, then our own.

Where in the paper: Table 4.
"""

from typing import Any

ABLATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full model": ({}, {}),
    "a: text prompts alone": ({}, {"coupling": "text"}),
    "a: visual prompts alone": ({}, {"coupling": "visual"}),
    "a: both, independent": ({}, {"coupling": "independent"}),
    "a: text to vision": ({}, {"coupling": "t2v"}),
    "a: vision to text": ({}, {"coupling": "v2t"}),
    "b: no alignment": ({"alignment": "none"}, {}),
    "b: mean alignment": ({"alignment": "mean"}, {}),
    "c: global view alone": ({"multi_scale": False}, {"scale_prefix": False}),
    "c: crops without prefix": ({}, {"scale_prefix": False}),
    "c: prefix without crops": ({"multi_scale": False}, {}),
    "d: object prompts": ({}, {"prompt_type": "object"}),
    "ours: latent noise in the middle": ({"latent_noise": "middle"}, {}),
    "ours: latent noise on the image vector": ({"latent_noise": "image"}, {}),
    "ours: latent noise with a mean": ({"latent_mean": 0.5}, {}),
    "ours: latent noise half as strong": ({"latent_sigma": 0.5}, {}),
    "ours: latent noise as large as IIPAD's": ({"latent_noise": "image", "latent_sigma": 2.0}, {}),
    "ours: no latent anomalies": ({"latent_noise": "none"}, {}),
    "ours: temperature 0.01": ({}, {"temperature": 0.01}),
    "ours: judged with temperature 1": ({}, {"score_temperature": 1.0}),
    "ours: longer text vectors weigh more": ({}, {"text_aggregation": "mean"}),
    "ours: decoder reads the values": ({}, {"decoder_tokens": "value"}),
    "ours: decoder reads the last tokens": ({}, {"decoder_tokens": "last"}),
    "ours: decoder's projection learns": ({"project_rate": 0.1}, {}),
    "ours: normal views not varied": ({"normal_views": []}, {}),
    "ours: anomalies on the product": ({"anomalies_on_product": True}, {}),
    "ours: cut-paste and scars": ({"anomaly_kinds": ["cutpaste", "scar"]}, {}),
    "ours: LoRA of rank 4": ({}, {"lora_rank": 4}),
}
"""Changes of `TrainingConfig` and of `AnoPLeConfig` for each row of Table 4. A row that is a backbone's own setting
anyway changes nothing; a plan leaves it out and says so."""

__all__ = ["ABLATIONS"]
