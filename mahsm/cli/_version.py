"""`mahsm version`."""

import mahsm
from mahsm.cli._outcome import Json, Output


def version(*, json: Json = False) -> Output:
    """Print the version."""
    return Output({"version": mahsm.__version__}, [f"mahsm {mahsm.__version__}"], json)
