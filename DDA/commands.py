"""How a command of one process ends: done, refused with a word that helps, or interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable

from DDA import ranks


def run(work: Callable[[], int], program: str, go_on: str = "run the same command again to go on") -> int:
    """The exit status: that of ``work``, 2 where the input is wrong (ValueError, OSError), 130 where the user stopped it.

    program: name for messages. go_on: what the user does after an interruption. Commands of several ranks: `ranks.run`.
    """
    ranks.keep_memory()
    try:
        return work()
    except (ValueError, OSError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted; {go_on}", file=sys.stderr)
        return 130
