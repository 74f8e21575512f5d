"""A Ray that does not start in time is started again: on a busy machine the 30 s that Ray gives itself may not do.

Ray has no setting for them (ray/_private/node.py, `raylet_start_wait_time_s`). Nothing was trained yet, so that another
attempt loses nothing.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator

ATTEMPTS = 3
DID_NOT_START = os.EX_TEMPFAIL
"""Exit code of a run whose Ray did not start in time."""


@contextlib.contextmanager
def told_by_exit_code(is_up: Callable[[], bool]) -> Iterator[None]:
    """End the process with DID_NOT_START, its error printed, where the block fails because Ray did not start in time.

    Args:
        is_up: whether Ray has been started; what fails from then on is raised as ever.
    """
    try:
        yield
    except Exception as error:
        if is_up() or "timed out" not in str(error).lower():
            raise
        traceback.print_exc()
        sys.exit(DID_NOT_START)
