"""Whether a host can be reached, found out within seconds."""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.request

#: seconds to wait for a host before calling it unreachable
PROBE_SECONDS = 4.0


def unreachable(address: str, seconds: float = PROBE_SECONDS) -> str | None:
    """Why `address` does not answer within `seconds`, or None if it does."""
    outcome: list[str | None] = []

    def probe() -> None:
        try:
            request = urllib.request.Request(address, method="HEAD")
            with urllib.request.urlopen(request, timeout=seconds):
                outcome.append(None)
        except urllib.error.HTTPError as error:
            error.close()
            # An answer all the same; some hosts refuse HEAD and serve GET.
            outcome.append(None if error.code in (403, 405) else f"HTTP {error.code}")
        except (OSError, ValueError, http.client.HTTPException) as error:
            outcome.append(str(getattr(error, "reason", error)) or type(error).__name__)

    # A thread, because the look-up of a host's name obeys no timeout.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    return outcome[0] if outcome else f"no answer within {seconds + 1:.0f} s"
