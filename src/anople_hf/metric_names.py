"""`METRIC_NAMES`: what each metric is called wherever people read it, on cards, in tables and in charts.

How each is computed is in `evaluation/metrics.py`. The names stand here because cards travel with the model.
"""

METRIC_NAMES = {
    "image_auroc": "image AUROC",
    "image_aupr": "image AUPR",
    "image_aupr_trapezoid": "image AUPR, trapezoids",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_aupr": "pixel AUPR",
    "pixel_f1_max": "pixel F1-max",
    "aupro": "AUPRO",
    "aupro_5": "AUPRO up to 0.05",
    "aupro_200": "AUPRO, 200 steps",
    "images_per_second": "images/s",
}


__all__ = ["METRIC_NAMES"]
