"""A process that reads Parquet files of strangers to their ends, so that whatever they do is done to it.

A footer may say anything: a page of a kilobyte unpacks to gigabytes, one long text stands for a million rows, and some
damage ends the process in Arrow's own code. It gets a JSON list of path, bytes of memory and seconds on each line, and
answers each with one of a word, rows, bytes and columns. It needs nothing of this package, and is not started in the
folder that it is asked about.
"""

import json
import os
import resource
import sys

os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # others reserve more than they use

import pyarrow as pa
import pyarrow.parquet as pq

LARGEST_LIST = 100_000
"""Elements of a list in a footer."""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        path, memory, seconds = json.loads(line)
        _allow(memory, seconds)
        try:
            answer = ["ok", *_read(path)]
        except MemoryError:
            answer = ["memory", 0, 0, []]
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            answer = [(str(error).splitlines() or [type(error).__name__])[0][:300], 0, 0, []]
        print(json.dumps(answer), flush=True)


def _allow(memory: int, seconds: int) -> None:
    """So much more than what this process has and has used by now; beyond it Linux ends it, or gives it no memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    used = resource.getrusage(resource.RUSAGE_SELF)
    more = int(used.ru_utime + used.ru_stime) + 1 + seconds
    for kind, soft in ((resource.RLIMIT_AS, held + memory), (resource.RLIMIT_CPU, more)):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _read(path: str) -> tuple[int, int, list[str]]:
    """Rows, bytes with every text written out, and columns."""
    with pq.ParquetFile(path, thrift_container_size_limit=LARGEST_LIST, page_checksum_verification=True) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        for chunk in (group.column(i) for group in groups for i in range(group.num_columns)):
            if chunk.statistics is not None and chunk.statistics.has_min_max:
                _ = chunk.statistics.min, chunk.statistics.max  # by them rows are chosen
        table = file.read(use_threads=False)
    plain = (
        column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for column in table.columns
    )
    return table.num_rows, sum(int(column.nbytes) for column in plain), table.column_names


if __name__ == "__main__":
    main()
