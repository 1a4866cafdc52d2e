"""One storm here, as `python -m tests.storms cancels 500`; or all of them at full strength, each in its own
process."""

import faulthandler
import logging
import subprocess
import sys
import time

from tests.storms.storms import LIMIT, STORMS


def main() -> None:
    if len(sys.argv) == 3:
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        logging.disable(logging.CRITICAL)
        print(STORMS[sys.argv[1]].run(int(sys.argv[2])))
        return
    failed = 0
    for name, storm in STORMS.items():
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "tests.storms", name, str(storm.full)], capture_output=True, text=True
        )
        failed += done.returncode != 0
        found = done.stdout.strip() if done.returncode == 0 else f"FAILED\n{done.stderr[-3000:]}"
        print(f"{name:12} {time.monotonic() - began:6.1f} s  {found}", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
