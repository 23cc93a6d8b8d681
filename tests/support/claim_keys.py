"""Claims keys in a file until it is killed; run as a script.

    python claim_keys.py FILE KEY...

Keys are hexadecimal. Prints `True` if all are its own now, then releases each that it reads.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

# Not imported as a part of the package, which takes seconds.
MODULE = Path(__file__).parents[2] / "alexnet_keras" / "transfer" / "claims.py"


def main(path: Path, keys: list[bytes]) -> None:
    claims = runpy.run_path(str(MODULE))["Claims"](path)
    print(claims.take(keys).all(), flush=True)
    for line in sys.stdin:
        claims.release([bytes.fromhex(line)])
        print("released", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [bytes.fromhex(key) for key in sys.argv[2:]])
