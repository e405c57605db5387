"""How a study ends as a command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from largedrop.errors import UserError, visible


def exit_with(main: Callable[[], int | None]) -> NoReturn:
    """Exit with what a study's ``main`` returns, or with 2 and one line on standard error for a user's mistake or a
    file that cannot be read or written.
    """
    try:
        code = main()
    except UserError as error:
        code = _complained(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        code = _complained(f"{error.filename}: {error.strerror}")
    sys.exit(code)


def _complained(told: str) -> int:
    print(f"{Path(sys.argv[0]).name}:", "\n".join(visible(line) for line in told.split("\n")), file=sys.stderr)
    return 2
