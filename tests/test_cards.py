"""Model cards: filled from the run and nothing else, valid for the Hub's own readers, with snippets that run."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from anople_hf.cards import TEMPLATE, CardFacts, bank_card, eval_results_yaml, fill_card, snippets, summarize
from anople_hf.thresholds import Thresholds

CARDS = Path(__file__).parents[1] / "model_cards"
FACTS = CardFacts(
    data="Nuts and gears",
    data_license="cc-by-4.0",
    data_url="https://example.org/nuts",
    data_id="me/nuts",
    backbone_license="mit",
    hardware="2 CPU cores",
    minutes=7,
    co2_grams=3,
    note="Photos were taken under one lamp.",
)


def evaluation(value, **protocol):
    row = {"image_auroc": value, "image_aupr": value / 2, "pixel_auroc": None, "aupro": value}
    return {
        "categories": {"gear": row, "nut": {**row, "image_auroc": 0.5}},
        "mean": {**row, "image_auroc": (value + 0.5) / 2},
        "protocol": {
            "branch": "both",
            "category_known": False,
            "shots": {"gear": 2, "nut": 2},
            "image_size": 48,
            "mask_size": 48,
            "aupro": "exact, FPR limit 0.3, 8-connected",
            "images": 12,
            **protocol,
        },
    }


@pytest.fixture
def taught(make_model, photos):
    model = make_model()
    model.memorize(photos[:2], "gear")
    model.memorize(photos[2:4], "nut")
    model.memory.common = Thresholds(0.125, 0.1, 0.05)
    model.memory.update("gear", thresholds=Thresholds(0.25, 0.1, 0.05, num_photos=2))
    return model


@pytest.fixture
def run(tmp_path):
    shots = {"seed": 3, "shots": 2, "categories": {"gear": ["gear/1.png"], "nut": ["nut/1.png"]}}
    (tmp_path / "shots.json").write_text(json.dumps(shots))
    training = {"shots": 2, "seed": 3, "max_steps": 11, "batch_size": 2, "learning_rate": 0.005}
    training |= {"anomaly_source": "mixed", "latent_sigma": 0.015, "versions": {"torch": "9.9"}}
    (tmp_path / "training_args.json").write_text(json.dumps(training))
    return tmp_path


def test_a_card_holds_the_run_the_table_and_the_facts(taught, run):
    card = fill_card(taught, "me/line1", run=run, evaluations=[evaluation(0.9), evaluation(0.8)], facts=FACTS)
    text = card.text
    for part in (
        "| gear | 85.0 ± 5.0 | 42.5 ± 2.5 | 85.0 ± 5.0 |",  # mean and deviation of 90 and 80, pixel AUROC left out
        "| nut | 50.0 ± 0.0 |",
        "| mean | 67.5 ± 2.5 |",
        "| category | image AUROC | image AUPR | AUPRO |",
        "12 test images, 2 seeds (mean ± standard deviation), category not given, branch `both`",
        "The weights here are those of seed 3.",
        "| gear | 2 | 0.2500 | 0.05 | 5% false alarms aimed at, not promised (learned from 2 photos) |",
        "| nut | 2 | none | - | - |",
        "| any (not given) | 4 | 0.1250 |",
        "Nuts and gears (https://example.org/nuts), license: cc-by-4.0.",
        "seed 3, are listed in `shots.json`",
        "| steps, batch, rate | 11, 2, 0.005 |",
        "torch 9.9",
        "license: mit",
        "| hardware | 2 CPU cores |",
        "| time | 7 minutes |",
        "| emitted | 3 g CO2eq |",
        "under one lamp",
    ):
        assert part in text, part
    assert "{{" not in text and "{%" not in text and "/tmp" not in str(card)


def test_what_is_not_known_is_not_there(taught):
    card = fill_card(taught, "me/line1")
    assert "Nothing yet. What the paper reports" in card.text
    assert "did not say where the photos come from" in card.text
    assert "g CO2eq" not in card.text and "| hardware" not in card.text and "| steps" not in card.text
    assert card.data.eval_results is None and card.data.base_model is None  # its backbone is a folder of this machine
    assert card.data.license == "apache-2.0" and "model-index" not in str(card)
    taught.config.backbone = "someone/clip"
    adapted = fill_card(taught, "me/line1", tags=["nuts"]).data
    assert adapted.base_model == "someone/clip" and "nuts" in adapted.tags


def test_model_index_is_read_back_by_the_hubs_own_reader(taught):
    card = fill_card(taught, "me/line1", evaluations=[evaluation(0.9)], facts=FACTS)
    again = ModelCard(str(card), ignore_metadata_errors=False)
    assert again.data.model_name == "line1"
    values = {result.metric_type: result.metric_value for result in again.data.eval_results}
    assert values == {"image_auroc": 70.0, "image_aupr": 45.0, "aupro": 90.0}
    assert all(isinstance(r, EvalResult) and r.dataset_type == "me/nuts" for r in again.data.eval_results)
    index = eval_results_to_model_index("line1", again.data.eval_results)
    assert model_index_to_eval_results(index)[1] == again.data.eval_results
    # without an id of the data on the Hub there is nothing to link a number to
    assert fill_card(taught, "me/line1", evaluations=[evaluation(0.9)]).data.eval_results is None


def test_eval_results_file_is_read_back_by_the_hubs_own_reader():
    text = eval_results_yaml([evaluation(0.9), evaluation(0.8)], FACTS, date="2026-01-31")
    entries = parse_eval_result_entries(yaml.safe_load(text))
    assert {entry.task_id: entry.value for entry in entries} == {
        "image_auroc": 67.5,
        "image_aupr": 42.5,
        "aupro": 85.0,
    }
    assert {entry.dataset_id for entry in entries} == {"me/nuts"} and entries[0].date == "2026-01-31"
    assert entries[0].notes == "2-shot, category not given, branch both, 2 seeds"
    assert eval_results_yaml([evaluation(0.9)], CardFacts()) is None and eval_results_yaml([], FACTS) is None


@pytest.mark.parametrize("other", [{"category_known": True}, {"branch": "memory"}, {"shots": {"gear": 4, "nut": 4}}])
def test_protocols_are_not_mixed(other):
    with pytest.raises(ValueError, match=f"different protocols .{next(iter(other))}"):
        summarize([evaluation(0.9), evaluation(0.8, **other)])
    missing = copy.deepcopy(evaluation(0.8))
    del missing["categories"]["nut"]
    with pytest.raises(ValueError, match="different categories"):
        summarize([evaluation(0.9), missing])


def test_one_seed_has_no_deviation():
    assert summarize([evaluation(0.9)])["gear"] == {
        "image_auroc": (90.0, None),
        "image_aupr": (45.0, None),
        "aupro": (90.0, None),
    }


def test_unknown_facts_are_named():
    with pytest.raises(ValueError, match=r"unknown facts \['licence'\]; known: data, data_license"):
        CardFacts.from_dict({"licence": "mit"})


def test_a_bank_has_a_card(taught):
    card = bank_card(taught, "me/bank")
    assert 'model.load_memory("me/bank")' in card.text and "| gear | 2 |" in card.text
    assert taught.fingerprint()[:12] in card.text and "/tmp" not in card.text


def test_the_template_has_three_snippets(taught):
    found = snippets(fill_card(taught, "me/line1"))
    assert len(found) == 3 and all('"me/line1"' in snippet for snippet in found)
    assert "trust_remote_code=True" in found[2] and "anople_hf" not in found[2]


@pytest.mark.parametrize("path", sorted(CARDS.glob("*.md")), ids=lambda path: path.name)
def test_cards_in_the_repository_are_valid_and_claim_nothing_unmeasured(path):
    if path.name == "README.md":
        assert all(f"({other.name})" in path.read_text() for other in CARDS.glob("*.md") if other != path)
        return
    if path.name == "template.md":
        assert path.read_text(encoding="utf-8") == TEMPLATE
        return
    card = ModelCard.load(path, ignore_metadata_errors=False)
    assert card.data.license and "anomaly-detection" in card.data.tags
    if "Not trained yet" in card.text:
        assert card.data.eval_results is None and "±" not in card.text and "| mean |" not in card.text
    else:
        assert "## Measured" in card.text
