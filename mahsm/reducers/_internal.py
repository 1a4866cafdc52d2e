"""Names of this package that `mahsm.learn` imports."""

from mahsm.reducers._values import check_some as check_some
from mahsm.reducers._values import parts as parts
from mahsm.reducers._votes import Give as Give
from mahsm.reducers._votes import check_give as check_give

__all__ = ["Give", "check_give", "check_some", "parts"]
