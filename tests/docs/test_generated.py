"""What the reference takes from the code is all of it, and what does not fit stops the build."""

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from groupppo.config import KINDS, REPOSITORY
from groupppo.config.files import json_schema
from groupppo.verdicts.claims import load_claims
from tests.docs.pages import DOCS


@pytest.fixture(scope="module")
def generated() -> Iterator[ModuleType]:
    """The module that the site is built with; docs/ is no package."""
    sys.path.insert(0, str(DOCS))
    import generated

    yield generated
    sys.path.remove(str(DOCS))
    for name in ("generated", "generated_metrics", "generated_profile"):
        sys.modules.pop(name, None)


def rows(text: str) -> dict[str, list[str]]:
    """Cells of a table after the first, by the first without its marks."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()[2:]]
    return {cells[0].strip("` "): cells[1:] for cells in lines}


def test_every_key_of_a_form_and_every_quantity_of_a_claim_is_described(generated: ModuleType) -> None:
    page = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    for kind, form in KINDS.items():
        shown, schema = rows(generated.keys(kind)), json_schema(form)
        assert f"<!-- generated: keys {kind} -->" in page
        assert set(schema["properties"]) <= set(shown)
        assert [key for key, cells in shown.items() if not cells[2].strip(" |")] == []
        assert all("required" in shown[key] for key in schema.get("required", ()))
    quantities = rows(generated.quantities())
    files = sorted((REPOSITORY / "benchmarks" / "claims").glob("*.yaml"))
    assert {claim.quantity for claim in load_claims(files).claims} <= set(quantities)
    assert all(cells[0] for cells in quantities.values())


def test_nested_keys_types_and_defaults_are_those_that_the_schema_checks(generated: ModuleType) -> None:
    found = rows(generated.keys("benchmark"))
    assert found["train.gamma"][:2] == ["number above 0, at most 1", "`1.0`"]
    assert found["train.rollout"][:2] == ["`transformers`, `vllm`", "`vllm`"]
    assert rows(generated.keys("profile"))["measured.*.dtype"][0] == "`bfloat16`, `float32`"
    assert (
        rows(generated.keys("claims"))["claims[].claimed.low"][0] == "number at least -1000000000, at most 1000000000"
    )


def test_a_metric_without_a_description_and_one_that_is_logged_by_nothing_stop_the_build(
    generated: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import generated_metrics as made

    found = rows(generated.metrics())
    assert found["group/threshold"][1] == "rules `variance_split`"
    assert found["group/density"][1] == "every arm"
    assert set(found) == set(made.TOLD)
    monkeypatch.delitem(made.TOLD, "group/density")
    with pytest.raises(ValueError, match="group/density"):
        generated.metrics()
    monkeypatch.setitem(made.TOLD, "group/density", "K / N.")
    monkeypatch.setitem(made.TOLD, "group/none", "Nothing.")
    with pytest.raises(ValueError, match="group/none"):
        generated.metrics()


def test_commands_are_told_as_help_tells_them(generated: ModuleType) -> None:
    text = generated.commands()
    for command in ("groupppo ls", "groupppo new", "groupppo verify", "groupppo compare"):
        assert f"### {command}\n" in text
    assert "Usage: groupppo validate " in text
    assert "Check benchmark, arm, task, model, claims and profile files" in text


def test_costs_are_shown_as_the_published_profile_has_them(generated: ModuleType) -> None:
    readme = " ".join((REPOSITORY / "README.md").read_text(encoding="utf-8").split())
    text = generated.update_costs()
    for seconds in ("1.45x [1.42, 1.49]", "12.70x [12.20, 13.22]"):
        assert seconds in text
    bounds = [cell for cells in rows(generated.bounds()).values() for cell in cells]
    numbers = [float(cell.rstrip("x |")) for cell in bounds]
    assert f"{min(numbers):.2f}x to {max(numbers):.2f}x over all models" in readme


def test_a_cell_cannot_open_another_one_or_a_tag(generated: ModuleType) -> None:
    assert generated.table(("a",), [("x | y",), ("`<b>` <i>",), ("1\n2",)]).splitlines()[2:] == [
        "| x \\| y |",
        "| `<b>` &lt;i> |",
        "| 1 2 |",
    ]
