"""Tidy tables: one row is one fact, typed, checked on the way in and on the way back.

`collect(results, benchmark)` reads runs/ and evals/ below a results folder and writes tables/*.parquet;
`load_tables(results / "tables")` reads them back. Columns are declared once, in `SCHEMA`; docs/tables.md explains them.
Nothing under runs/ or evals/ is changed. What cannot be read of a run stays with that run: its row in `runs` names file
and line.
"""

from groupppo.tables.collecting import collect
from groupppo.tables.gates import GATES
from groupppo.tables.loading import Only, StoredTables, Tables, load_table, load_tables
from groupppo.tables.schema import GROUP_METRICS, MATCHED_EVALUATION, SCHEMA, Column

__all__ = [
    "GATES",
    "GROUP_METRICS",
    "MATCHED_EVALUATION",
    "SCHEMA",
    "Column",
    "Only",
    "StoredTables",
    "Tables",
    "collect",
    "load_table",
    "load_tables",
]
