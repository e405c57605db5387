"""How a study ends as a command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from largedrop.errors import UserError, visible


def exit_with(main: Callable[[], int | None]) -> NoReturn:
    """Exit with what a study's ``main`` returns, or with 2 and one line on standard error for a user's mistake."""
    try:
        code = main()
    except UserError as error:
        said = "\n".join(visible(line) for line in str(error).split("\n"))
        print(f"{Path(sys.argv[0]).name}: {said}", file=sys.stderr)
        code = 2
    sys.exit(code)
