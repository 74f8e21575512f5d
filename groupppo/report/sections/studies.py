"""Studies as the page shows them: each says itself what it shows."""

from collections.abc import Iterator

from groupppo import studies
from groupppo.draw.blocks import Section
from groupppo.report.sections import Results


def sections(results: Results) -> Iterator[Section]:
    yield from studies.sections(results.folder, results.benchmark)
