"""Shadow: refuses another package called trainer that hides the one beside facepack."""

import importlib.util
from pathlib import Path

from facepack.errors import UsageError


def check_trainer() -> None:
    """`UsageError` where `import trainer` gives another package than the one that came with facepack."""
    own = Path(__file__).resolve().parents[1] / "trainer"
    try:
        spec = importlib.util.find_spec("trainer")
    except ValueError:  # already imported, by something that leaves no trace of where it came from
        spec = None
    origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
    if origin != own / "__init__.py":
        where = origin or "another package"
        raise UsageError(
            f"'trainer' is {where}, which hides facepack's own {own}: rename it, start Python from another folder, or "
            "take its folder out of PYTHONPATH"
        )
