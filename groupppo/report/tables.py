"""The tables' earlier place; they are in `groupppo.tables`."""

from groupppo.tables import GROUP_METRICS, MATCHED_EVALUATION, SCHEMA, Column, Tables, collect, load_tables

__all__ = ["GROUP_METRICS", "MATCHED_EVALUATION", "SCHEMA", "Column", "Tables", "collect", "load_tables"]
