"""What roles count for `/metrics`: ranges, labels, and an end to the names."""

from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

from bullpen.supervision.status_server import metrics_text
from bus.measures import OTHER, counters, histograms
from bus.role_status import Figure


def read(figures: Iterable[Figure]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """As Prometheus reads it: by the name of the sample and its labels."""
    families = text_string_to_metric_families(metrics_text(figures, {"role": "manager"}))
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, tuple((k, v) for k, v in s.labels.items() if k != "role")): s.value for s in samples}


def test_a_value_is_counted_in_the_range_that_ends_with_it_and_in_all_above() -> None:
    family = histograms("gen_ai_x_seconds", "X", (0.5, 1.0, 2.0), "model")
    for value in (0.1, 1.0, 1.5, 99.0):
        family.of("m").observe(value)
    told = read(family.figures())
    ranges = {labels[-1][1]: count for (name, labels), count in told.items() if name.endswith("_bucket")}
    assert ranges == {"0.5": 1, "1": 2, "2": 3, "+Inf": 4}
    assert told["gen_ai_x_seconds_count", (("model", "m"),)] == 4
    assert told["gen_ai_x_seconds_sum", (("model", "m"),)] == 101.6


def test_names_without_end_do_not_make_the_page_grow_without_end() -> None:
    family = counters("attempts_total", "Attempts", "model", "outcome", most=3)
    for number in range(50):
        family.of(f"model-{number}", "ok").add()
        family.of(f"model-{number}", "failed").add(2)
    told = read(family.figures())
    assert len(told) == 8
    assert told["bullpen_attempts_total", (("model", OTHER), ("outcome", "ok"))] == 47
    assert told["bullpen_attempts_total", (("model", OTHER), ("outcome", "failed"))] == 94
    assert told["bullpen_attempts_total", (("model", "model-2"), ("outcome", "ok"))] == 1


def test_the_same_labels_are_the_same_measure() -> None:
    family = histograms("x", "X", (1.0,), "model", "error")
    assert family.of("m", "") is family.of("m", "")
    assert family.of("m", "") is not family.of("m", "internal")


def test_figures_of_one_name_from_all_sources_stand_together() -> None:
    mixed = [Figure(name, "H", 1, labels=(("worker", worker),)) for worker in ("a", "b") for name in ("x", "y")]
    lines = metrics_text(mixed, {"role": "manager"}).splitlines()
    assert [line.split()[2] for line in lines if line.startswith("# TYPE")] == ["bullpen_x", "bullpen_y"]
    assert lines[2:4] == ['bullpen_x{role="manager",worker="a"} 1', 'bullpen_x{role="manager",worker="b"} 1']
