"""Studies as the page shows them: each says itself what it shows."""

from collections.abc import Iterator

from groupppo.draw.blocks import Section
from groupppo.report.sections import Results
from groupppo.studies.shared import page


def sections(results: Results) -> Iterator[Section]:
    yield from page.sections(results.folder, results.benchmark)
