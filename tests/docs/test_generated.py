"""What the reference takes from the code is all of it, and what does not fit stops the build."""

import sys
from collections.abc import Iterator
from types import ModuleType

import jsonschema
import pytest
import yaml

from groupppo.config import REPOSITORY
from groupppo.kinds import kinds, schema
from groupppo.schemas import SCHEMAS
from tests.docs.pages import DOCS

KINDS = sorted(file.name.split(".")[0] for file in SCHEMAS.glob("*.schema.yaml"))


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


def descriptions(rules: object) -> Iterator[str]:
    """Every description anywhere in a schema."""
    if isinstance(rules, dict):
        if isinstance(rules.get("description"), str):
            yield rules["description"]
        for value in rules.values():
            yield from descriptions(value)


def test_every_kind_of_file_has_its_keys_on_the_page() -> None:
    page = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    assert [kind for kind in kinds() if f"<!-- generated: keys {kind} -->" not in page] == []
    assert sorted(kinds()) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_a_schema_is_described(kind: str, generated: ModuleType) -> None:
    text, whole = generated.keys(kind), schema(kind)
    said = [entry for entry in descriptions(whole) if generated._cell(entry) not in text]
    # Entries of a list of plain values have no key of their own.
    assert [entry for entry in said if entry not in [part.get("description") for part in _plain_items(whole)]] == []
    assert set(whole["properties"]) <= set(rows(text))
    assert all(needed in rows(text) and "required" in rows(text)[needed] for needed in whole["required"])


def _plain_items(rules: object) -> Iterator[dict]:
    if isinstance(rules, dict):
        if isinstance(rules.get("items"), dict):
            yield rules["items"]
        if "$defs" in rules:
            yield from rules["$defs"].values()
        for value in rules.values():
            yield from _plain_items(value)


def test_nested_keys_types_and_defaults_are_those_that_the_schema_checks(generated: ModuleType) -> None:
    found = rows(generated.keys("benchmark"))
    assert found["train.gamma"][:2] == ["number above 0, at most 1", "`1.0`"]
    assert found["train.rollout"][:2] == ["`transformers`, `vllm`", "`vllm`"]
    assert rows(generated.keys("profile"))["measured.*.dtype"][0] == "`bfloat16`, `float32`"
    assert (
        rows(generated.keys("claims"))["claims[].claimed.low"][0] == "number at least -1000000000, at most 1000000000"
    )
    matrix = yaml.safe_load((REPOSITORY / "benchmarks" / "quick.yaml").read_text())
    jsonschema.validate(matrix, schema("benchmark"))
    matrix["train"]["gamma"] = 0
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(matrix, schema("benchmark"))


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
    for command in ("groupppo ls", "groupppo new arm", "groupppo verify", "groupppo compare"):
        assert f"### {command}\n" in text
    assert "Usage: groupppo validate " in text
    assert "Check benchmark, arm, task, model, claims and profile files" in text


def test_every_quantity_of_the_schema_is_explained(generated: ModuleType) -> None:
    known = schema("claims")["properties"]["claims"]["items"]["properties"]["quantity"]["enum"]
    found = rows(generated.quantities())
    assert set(found) == set(known)
    assert all(cells[0] for cells in found.values())


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
