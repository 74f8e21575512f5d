"""The page in a real browser: it asks for nothing, complains about nothing, and can be read, printed and operated."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from groupppo.report.page import write_report
from tests.report.conftest import build

pytestmark = pytest.mark.browser

ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ATTACK = "<script>document.title = 'attacked'</script><img src=x onerror=\"document.title = 'attacked'\">"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("Chromium is missing; hint: apt-get install chromium (`make test` installs it).")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A page of synthetic results whose verdicts and provenance hold hostile text."""
    results = tmp_path_factory.mktemp("results")
    benchmark = build(results, seeds=(1, 2), steps=6)
    judged = json.loads((results / "verdicts.json").read_text(encoding="utf-8"))
    judged["verdicts"][0]["reason"] = ATTACK
    (results / "verdicts.json").write_text(json.dumps(judged), encoding="utf-8")
    return write_report(results, benchmark)


@pytest.fixture(scope="module")
def report_of_two_tasks(tmp_path_factory) -> Path:
    results = tmp_path_factory.mktemp("two")
    return write_report(results, build(results, tasks=("sorting", "chain"), seeds=(1, 2), steps=6))


class Visit:
    """One opened page, with every request it made and everything it complained about."""

    def __init__(self, browser: Browser, address: str, **context):
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | context))
        self.page: Page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_load_state("load")


@pytest.fixture
def visit(browser, report) -> Iterator[Visit]:
    opened = Visit(browser, report.as_uri())
    yield opened
    opened.context.close()


def luminance(page: Page, selector: str) -> float:
    """Brightness of an element's background, 0 (black) to 255."""
    colour = page.eval_on_selector(selector, "element => getComputedStyle(element).backgroundColor")
    red, green, blue = (float(part) for part in colour.strip("rgba()").split(",")[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_page_requests_nothing_but_itself_and_the_console_stays_empty(visit, report):
    assert [url for url in visit.requests if not url.startswith("data:")] == [report.as_uri()]
    assert visit.complaints == []


def test_the_check_sees_requests_and_complaints_when_there_are_some(browser, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="missing.png"><script>console.error("trouble")</script>', encoding="utf-8")
    opened = Visit(browser, bad.as_uri())
    assert any(url.endswith("missing.png") for url in opened.requests)
    assert "trouble" in opened.complaints
    opened.context.close()


def test_hostile_text_is_shown_and_does_not_run(visit):
    assert "attacked" not in visit.page.title()
    assert ATTACK in visit.page.inner_text("#verdict-table")
    assert visit.page.locator("script").count() == 1


def test_the_policy_stops_a_script_that_would_be_slipped_in(browser, report, tmp_path):
    slipped = tmp_path / "slipped.html"
    slipped.write_text(report.read_text(encoding="utf-8").replace("<h1>", f"{ATTACK}<h1>"), encoding="utf-8")
    opened = Visit(browser, slipped.as_uri())
    assert "attacked" not in opened.page.title()
    assert any("Content Security Policy" in complaint for complaint in opened.complaints)
    opened.context.close()


def test_the_verdict_table_is_the_first_table_and_on_the_first_screen(visit):
    first = visit.page.locator("table").first
    assert first.get_attribute("id") == "verdict-table"
    assert first.bounding_box()["y"] < 400


def test_every_image_is_loaded_and_has_alternative_text(visit):
    images = visit.page.locator("img")
    assert images.count() == 9
    for i in range(images.count()):
        assert len(images.nth(i).get_attribute("alt")) > 20
        assert images.nth(i).evaluate("image => image.complete && image.naturalWidth > 300")


def test_dark_mode_turns_the_page_dark_and_keeps_figures_on_a_light_card(browser, report):
    dark = Visit(browser, report.as_uri(), color_scheme="dark")
    light = Visit(browser, report.as_uri(), color_scheme="light")
    assert luminance(dark.page, "body") < 40
    assert luminance(light.page, "body") > 240
    assert luminance(dark.page, "figure .sheet") > 240
    assert dark.complaints == []
    dark.context.close()
    light.context.close()


def test_the_printed_page_is_light_without_menu_and_has_its_pages(browser, report):
    opened = Visit(browser, report.as_uri(), color_scheme="dark")
    assert opened.page.locator("nav").is_visible()
    printed = opened.page.pdf(prefer_css_page_size=True)
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") >= 4
    opened.page.emulate_media(media="print")
    assert luminance(opened.page, "body") > 240
    assert not opened.page.locator("nav").is_visible()
    opened.context.close()


def test_the_keyboard_skips_to_the_verdicts_and_sorts_the_runs(visit):
    page = visit.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.wait_for_url("**#main")
    for name, place in (("Accuracy", 11), ("Run time", 8)):
        column = page.locator("#matrix th", has_text=name)
        values = page.locator(f"#matrix tbody td:nth-child({place})")
        column.locator("button").focus()
        page.keyboard.press("Enter")
        assert column.get_attribute("aria-sort") == "ascending"
        shown = [float(text) for text in values.evaluate_all("cells => cells.map((cell) => cell.dataset.value)")]
        assert shown == sorted(shown)
        page.keyboard.press("Enter")
        assert column.get_attribute("aria-sort") == "descending"
        shown = [float(text) for text in values.evaluate_all("cells => cells.map((cell) => cell.dataset.value)")]
        assert shown == sorted(shown, reverse=True)
        assert shown != sorted(shown)


def test_the_verdict_table_is_sorted_by_verdict_and_back_by_claim(visit):
    page = visit.page
    shown = page.locator("#verdict-table tbody tr td:nth-child(3)")
    before = shown.all_inner_texts()
    page.locator("#verdict-table th", has_text="Verdict").locator("button").click()
    assert shown.all_inner_texts() == sorted(before)
    assert shown.all_inner_texts() != before
    page.locator("#verdict-table th", has_text="Claim").first.locator("button").click()
    claims = page.locator("#verdict-table tbody tr th").all_inner_texts()
    assert claims == sorted(claims, key=str.lower)


def test_a_link_in_the_verdict_table_leads_to_its_figure(visit):
    link = visit.page.locator("#verdict-table a[href^='#figure-']").first
    target = link.get_attribute("href")
    link.click()
    assert visit.page.locator(target).count() == 1
    assert visit.page.url.endswith(target)


@pytest.mark.parametrize("width", [360, 1280])
def test_no_page_scrolls_sideways_and_every_link_within_it_leads_somewhere(browser, report, report_of_two_tasks, width):
    for address in (report, report_of_two_tasks):
        opened = Visit(browser, address.as_uri(), viewport={"width": width, "height": 900})
        page = opened.page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("#verdict-table").bounding_box()["width"] > 300
        for section in ("claims", "items", "across", "usage") if address == report_of_two_tasks else ():
            assert page.locator(f"#{section} table").bounding_box()["width"] > 250
        links = page.locator("a[href^='#']")
        targets = set(links.evaluate_all("links => links.map((link) => link.getAttribute('href'))"))
        assert {"#claim-parity-ppo", "#items", "#across", "#usage"} <= targets
        assert {target: page.locator(target).count() for target in targets} == dict.fromkeys(targets, 1)
        assert opened.complaints == []
        opened.context.close()
