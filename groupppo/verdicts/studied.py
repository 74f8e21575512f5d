"""The tables of studies that claims are judged from."""

from pathlib import Path

from groupppo.config import Benchmark
from groupppo.study.tables import read_table
from groupppo.verdicts.claims import Claims
from groupppo.verdicts.shares import Studied


def read_studied(results: Path, benchmark: Benchmark, claims: Claims) -> Studied:
    """Of the studies that the benchmark asks for, the tables that a claim is about, by table, task and model.

    Raises:
        BadInput: such a table is missing, is not CSV or has other columns.
    """
    shares = [claim.share for claim in claims.claims if claim.share and claim.share.study in benchmark.studies]
    return {
        (share.table, task, model): read_table((results / share.file(task, model)).parent, share.table)
        for share in shares
        for task in benchmark.tasks
        for model in benchmark.models
    }
