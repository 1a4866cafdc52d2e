"""`Failures`: the treatment of items and branches that fail."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mahsm._common import check
from mahsm.errors import EdgeError


@dataclass(frozen=True)
class Failures:
    """The treatment of items and branches that fail.

    Attributes:
        on_error: `"raise"`, or a way to go on without them.
        errors_key: State key that gets the `ItemError`s.
    """

    on_error: str = "raise"
    errors_key: str | None = None

    def check(self, edge: str, choices: Sequence[str], taken: Collection[str] = (), **others: object) -> None:
        """Refuse invalid options.

        Args:
            edge: The edge's name in errors.
            choices: The valid values of `on_error`; `"raise"` is the first.
            taken: State keys that the edge already writes.
            **others: Further options that have no effect if the first error ends the run.

        Raises:
            EdgeError: for the first one that is invalid.
        """
        check.choice(edge, "on_error", self.on_error, choices)
        if self.errors_key is not None:
            check.key(edge, "errors_key", self.errors_key)
        if self.errors_key in taken:
            raise EdgeError(
                f"{edge}: errors_key and out_key are both {self.errors_key!r}; expected two keys."
            )
        for argument, value in {"errors_key": self.errors_key, **others}.items():
            if value is not None and self.on_error == "raise":
                raise EdgeError(
                    f"{edge}: {argument}={value!r} has no effect with on_error='raise', where the first "
                    f"error ends the run. Pass on_error={' or '.join(map(repr, choices[1:]))}."
                )
