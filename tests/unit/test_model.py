"""Records are ready for use by several threads at once."""

import json
import subprocess
import sys

# Python code that runs within a conversion is where another thread can come in between.
CALLED_WITHIN = """
import json, sys
import msgspec
from batchd.model import BatchRecord, FileRecord, InboxClaim

def called_within(kind):
    called = []
    def note(frame, event, argument):
        if event == "call":
            called.append(frame.f_code.co_qualname)
    sys.setprofile(note)
    try:
        msgspec.convert({}, kind)
    except msgspec.ValidationError:
        pass
    finally:
        sys.setprofile(None)
    return called

print(json.dumps([called_within(kind) for kind in (FileRecord, BatchRecord, InboxClaim)]))
"""


def test_not_even_the_first_row_that_is_read_makes_msgspec_learn_a_type() -> None:
    """Learning it in two threads at once has crashed the daemon: both used the half-made type."""
    done = subprocess.run(  # noqa: S603 - a new interpreter, which has read no row yet
        [sys.executable, "-c", CALLED_WITHIN], capture_output=True, check=True, text=True
    )
    assert json.loads(done.stdout) == [[], [], []]
