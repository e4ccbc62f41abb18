"""Model cards that fill themselves in from the model, its run, its measured tables and the facts only its owner knows.

A card holds only numbers that were measured here, and says how.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump

from .hub import is_hub_id, public_name
from .metric_names import METRIC_NAMES

METRICS = ("image_auroc", "image_aupr", "image_f1_max", "pixel_auroc", "pixel_aupr", "aupro")
"""What a card tells, of all that `anople evaluate` measures."""
SAME = ("branch", "category_known", "shots", "image_size", "mask_size", "images")
RESULTS_FILE = ".eval_results/anople.yaml"


TEMPLATE = """\
---
{{ card_data }}
---

# {{ title }}

A few-shot detector for defective parts: [AnoPLe](https://arxiv.org/abs/2408.13516) (CVPR 2026), packaged by `anople_hf`.
It knows {{ categories | length }} product{{ "" if categories | length == 1 else "s" }} ({{ categories.keys() | join(", ") or "none yet" }}) from {{ categories.values() | sum }} good photos. It was trained without photos of defects.
{%- if facts.note %}

{{ facts.note }}
{%- endif %}

## Use

```python
from PIL import Image
from anople_hf import AnoPLeModel, AnoPLeProcessor

model = AnoPLeModel.from_pretrained("{{ repo_id }}")
processor = AnoPLeProcessor.from_pretrained("{{ repo_id }}")
photo = Image.open("photo.png")
outputs = model(**processor(images=photo))  # category="..." if you know the product
result = processor.post_process(outputs, target_sizes=[photo.size[::-1]])[0]
score, label, regions = result["score"], result["label"], result["regions"]
```

As a pipeline, which can also learn new products from a few good photos:

```python
import anople_hf  # registers the task
from transformers import pipeline

detector = pipeline("image-anomaly-detection", model="{{ repo_id }}")
result = detector("photo.png")  # score, normal_probability, label, heat_map, mask, boxes
detector.teach(["photo.png"], category="my product")
```

Without `anople_hf`, with the code in this repository (read it first):

```python
from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{{ repo_id }}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{{ repo_id }}", trust_remote_code=True)
outputs = model(**processor(images=Image.open("photo.png")))
result = processor.post_process(outputs)[0]
```

## Measured
{% if table %}
{{ protocol.images }} test images, {{ seeds }} seed{{ "" if seeds == 1 else "s" }}{{ "" if seeds == 1 else " (mean ± standard deviation)" }}, category {{ "given" if protocol.category_known else "not given" }}, branch `{{ protocol.branch }}`, maps and masks at {{ protocol.mask_size }} pixels, AUPRO {{ protocol.aupro }}; in percent.
{%- if seeds > 1 and training %} The weights here are those of seed {{ training.seed }}.{% endif %}
{% set metrics = table["mean"].keys() | list %}
| category |{% for metric in metrics %} {{ names[metric] }} |{% endfor %}
|---|{{ "---|" * metrics | length }}
{% for row, values in table.items() -%}
| {{ row }} |{% for metric in metrics %} {% if metric in values %}{{ "%.1f" | format(values[metric][0]) }}{% if values[metric][1] is not none %} ± {{ "%.1f" | format(values[metric][1]) }}{% endif %}{% else %}-{% endif %} |{% endfor %}
{% endfor -%}
{% else %}
Nothing yet. What the paper reports was measured with other weights and is not quoted here.
{% endif %}
## Data

{% if facts.data -%}
{{ facts.data }}{% if facts.data_url %} ({{ facts.data_url }}){% endif %}, license: {{ facts.data_license or "not stated" }}.
{%- else -%}
The owner did not say where the photos come from or under which license.
{%- endif %}
{%- if shots.categories %} The training photos, chosen with seed {{ shots.seed }}, are listed in `shots.json`.{% endif %}

| product | good photos remembered | threshold | asked false-alarm rate | what it stands on |
|---|---|---|---|---|
{% for name, count in categories.items() -%}
{% set entry = thresholds[name] -%}
| {{ name }} | {{ count }} | {{ "%.4f" | format(entry.threshold) if entry else "none" }} | {{ entry.false_alarm_rate or "-" if entry else "-" }} | {{ entry.promise if entry else "-" }} |
{% endfor -%}
| any (not given) | {{ categories.values() | sum }} | {{ "%.4f" | format(common.threshold) if common else "none" }} | {{ common.false_alarm_rate or "-" if common else "-" }} | {{ common.promise if common else "-" }} |

Thresholds come from good photos alone. `normal_probability` is a conformal p-value: the share of good parts that are
expected to look at least as anomalous. It is not the probability that a part is good.

## Recipe

| | |
|---|---|
| backbone, frozen | {{ backbone }}{% if config.backbone_revision %} at `{{ config.backbone_revision }}`{% endif %}, license: {{ facts.backbone_license or "not stated" }} |
| parameters | {{ "{:,}".format(learned) }} learned, {{ "{:,}".format(frozen) }} frozen |
| prompts | {{ config.num_text_prompts }} textual and {{ config.num_visual_prompts }} visual per layer, {{ config.prompt_depth }} layers, coupling `{{ config.coupling }}` |
| memory layers | {{ config.memory_layers | join(", ") }} |
{%- if training %}
| shots, seed | {{ training.shots }} per category, seed {{ training.seed }} |
| steps, batch, rate | {{ training.max_steps }}, {{ training.batch_size }}, {{ training.learning_rate }} |
| pseudo anomalies | `{{ training.anomaly_source }}`, latent deviation {{ training.latent_sigma }} |
| versions | {% for name, version in training.versions.items() %}{{ name }} {{ version }}{{ "" if loop.last else ", " }}{% endfor %} |
{%- endif %}
{%- if facts.hardware %}
| hardware | {{ facts.hardware }} |
{%- endif %}
{%- if facts.minutes is not none %}
| time | {{ facts.minutes }} minutes |
{%- endif %}
{%- if facts.co2_grams is not none %}
| emitted | {{ facts.co2_grams }} g CO2eq |
{%- endif %}

## Limits

- The detector compares parts with the good photos it has seen. A few photos do not show how much good parts vary, so expect false alarms.
- The whole photo is resized to {{ config.image_size }} x {{ config.image_size }} pixels, so very small defects may be invisible. Crop to the part.
- Logical defects (the right part in the wrong place, a wrong count) are beyond a memory of patches.
- Do not use it where a missed defect can hurt somebody, unless you have measured it on your own line.

## Citation

```bibtex
@article{anople2024,
  title   = {Bidirectional Multimodal Prompt Learning with Scale-Aware Training for Few-Shot Multi-Class Anomaly Detection},
  journal = {arXiv preprint arXiv:2408.13516},
  year    = {2024}
}
```
"""
"""In Jinja, as text: a card can be filled wherever the code is, also without the package."""


@dataclass
class CardFacts:
    """Facts that a run does not know about itself. All are optional; the card leaves out what is not given.

    Attributes:
        data: Name of the data the shots were taken from.
        data_license: Its license.
        data_url: Address of its description.
        data_id: Its id on the Hub; without it there is nothing to link, so the card has no `model-index`.
        license: License of the detector.
        backbone_license: License of the CLIP.
        hardware: Hardware it was trained on.
        minutes: Training time.
        co2_grams: Measured emissions (for example by codecarbon).
        note: Anything else a user should know, in Markdown.
    """

    data: str | None = None
    data_license: str | None = None
    data_url: str | None = None
    data_id: str | None = None
    license: str = "apache-2.0"
    backbone_license: str | None = None
    hardware: str | None = None
    minutes: float | None = None
    co2_grams: float | None = None
    note: str | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CardFacts":
        """Make them from plain values, such as those of a YAML file.

        Raises:
            ValueError: An unknown key; lists the known ones.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"unknown facts {unknown}; known: {', '.join(known)}.")
        return cls(**values)


def fill_card(
    model: Any,
    repo_id: str,
    *,
    run: str | Path | None = None,
    evaluations: Sequence[Mapping[str, Any]] = (),
    facts: CardFacts | None = None,
    tags: Sequence[str] = (),
) -> ModelCard:
    """Fill in the model card of a detector.

    Args:
        model: The `AnoPLeModel`.
        repo_id: Its id on the Hub, used in the snippets.
        run: The run's folder, for `training_args.json` and `shots.json`.
        evaluations: `EvaluationResult.to_dict()` of one or more seeds, all with the same protocol.
        facts: Facts that only the owner knows.
        tags: Added to the usual ones.

    Raises:
        ValueError: Evaluations of different protocols, which must not be averaged.
    """
    facts = facts or CardFacts()
    training = _read(run, "training_args.json")
    table = summarize(evaluations)
    backbone = model.config.backbone
    public = backbone if is_hub_id(backbone) else None
    data = ModelCardData(
        license=facts.license,
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=["anomaly-detection", "few-shot", "anople", "clip", *tags],
        base_model=public,
        base_model_relation="adapter" if public else None,
        datasets=[facts.data_id] if facts.data_id else None,
        model_name=repo_id.split("/")[-1] if table and facts.data_id else None,
        eval_results=_model_index(table, facts) if table and facts.data_id else None,
        co2_eq_emissions=facts.co2_grams,
        ignore_metadata_errors=False,
    )
    references = {c: model.memory.references(c) for c in model.memory.categories}
    return ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        repo_id=repo_id,
        title=repo_id.split("/")[-1],
        facts=facts,
        config=model.config,
        backbone=_backbone_name(backbone),
        categories={c: len(photos) for c, photos in references.items()},
        thresholds={c: model.memory.thresholds_of(c) for c in references},
        common=model.memory.thresholds_of(),
        learned=sum(p.numel() for n, p in model.named_parameters() if not n.startswith("clip.") or "lora_" in n),
        frozen=sum(p.numel() for n, p in model.named_parameters() if n.startswith("clip.") and "lora_" not in n),
        training=training,
        shots=_read(run, "shots.json"),
        table=table,
        names=METRIC_NAMES,
        protocol=evaluations[0]["protocol"] if evaluations else {},
        seeds=len(evaluations),
    )


def bank_card(model: Any, repo_id: str) -> ModelCard:
    """A short card for a repository that holds a memory bank alone."""
    counts = "\n".join(f"| {c} | {len(model.memory.references(c))} |" for c in model.memory.categories)
    data = ModelCardData(tags=["anomaly-detection", "anople", "memory-bank"], license="other")
    return ModelCard(
        f"---\n{data.to_yaml()}\n---\n\n# {repo_id.split('/')[-1]}\n\n"
        "Memory bank of an [AnoPLe](https://arxiv.org/abs/2408.13516) detector: features of good parts, on the "
        f"backbone {_backbone_name(model.config.backbone)}.\nOnly the model with the fingerprint "
        f"`{model.fingerprint()[:12]}` can load it:\n\n"
        f'```python\nmodel.load_memory("{repo_id}")  # merge=True adds to what is there\n```\n\n'
        f"| product | photos |\n|---|---|\n{counts}\n"
    )


def summarize(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[float, float | None]]]:
    """Mean and standard deviation over seeds, in percent, per category and for the `mean` row.

    Args:
        evaluations: `EvaluationResult.to_dict()`, one per seed, all with the same protocol.

    Returns:
        Row name to metric to (mean, deviation or None for a single seed); metrics without a value are left out.

    Raises:
        ValueError: Different protocols or categories.
    """
    if not evaluations:
        return {}
    first = evaluations[0]
    for other in evaluations[1:]:
        for key in SAME:
            if other["protocol"].get(key) != first["protocol"].get(key):
                raise ValueError(
                    f"evaluations of different protocols ({key}: {first['protocol'].get(key)} and "
                    f"{other['protocol'].get(key)}) do not belong into one table."
                )
        if list(other["categories"]) != list(first["categories"]):
            raise ValueError("evaluations of different categories do not belong into one table.")
    rows = {}
    for name in [*first["categories"], "mean"]:
        tables = [e["mean"] if name == "mean" else e["categories"][name] for e in evaluations]
        rows[name] = {
            metric: (100 * mean(values), 100 * pstdev(values) if len(values) > 1 else None)
            for metric in METRICS
            if (values := [t[metric] for t in tables if t.get(metric) is not None])
        }
    return rows


def eval_results_yaml(
    evaluations: Sequence[Mapping[str, Any]], facts: CardFacts, *, date: str | None = None
) -> str | None:
    """The text of `.eval_results/anople.yaml`, or None without a Hub id of the data or without numbers.

    Args:
        evaluations: As for `fill_card`.
        facts: With `data_id`.
        date: Date of the measurement, in ISO format.
    """
    table = summarize(evaluations)
    if not table or not facts.data_id:
        return None
    notes = _protocol_note(evaluations[0]["protocol"], len(evaluations))
    entries = [
        EvalResultEntry(dataset_id=facts.data_id, task_id=metric, value=round(value, 2), date=date, notes=notes)
        for metric, (value, _) in table["mean"].items()
    ]
    return yaml_dump(eval_result_entries_to_yaml(entries))


def snippets(card: ModelCard | str) -> list[str]:
    """The card's Python examples."""
    return re.findall(r"```python\n(.*?)```", str(card), flags=re.DOTALL)


def _model_index(table: Mapping[str, Any], facts: CardFacts) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="image-segmentation",
            task_name="Few-shot anomaly detection",
            dataset_type=str(facts.data_id),
            dataset_name=facts.data or str(facts.data_id),
            dataset_split="test",
            metric_type=metric,
            metric_name=f"{METRIC_NAMES[metric]} (%), mean over categories",
            metric_value=round(value, 2),
        )
        for metric, (value, _) in table["mean"].items()
    ]


def _protocol_note(protocol: Mapping[str, Any], seeds: int) -> str:
    counts = sorted(set(protocol.get("shots", {}).values()))
    shots = (
        f"{counts[0]}-shot"
        if len(counts) == 1
        else f"{counts[0]} to {counts[-1]} shots"
        if counts
        else "shots unknown"
    )
    known = "category known" if protocol.get("category_known") else "category not given"
    return f"{shots}, {known}, branch {protocol.get('branch')}, {seeds} seed{'s' if seeds > 1 else ''}"


def _backbone_name(backbone: str | None) -> str:
    if backbone is None:
        return "(its weights are in the checkpoint)"
    return f"`{public_name(backbone)}`"


def _read(run: str | Path | None, name: str) -> dict[str, Any]:
    path = Path(run or "") / name
    return json.loads(path.read_text(encoding="utf-8")) if run is not None and path.is_file() else {}


__all__ = ["CardFacts", "bank_card", "eval_results_yaml", "fill_card", "snippets", "summarize"]
