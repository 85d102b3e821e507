"""Whether the container serves: exits with 0 where its health page answers 200, else with 1."""

import http.client
import os
import sys

TIMEOUT_SECONDS = 4.0


def main() -> int:
    """Ask what `SERVICE_MODE` started (see entrypoint.sh), and say on one line what it answers."""
    agent = (os.environ.get("SERVICE_MODE") or "bot") == "bot"
    default_port, path = (7860, "/health") if agent else (7001, "/ready")
    port = int(os.environ.get("PARLEY_PORT") or default_port)
    # Linux takes 0.0.0.0, every address, for this machine's own.
    host = os.environ.get("PARLEY_HOST") or "127.0.0.1"
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"{path} on port {port}: {error!r}")
        return 1
    finally:
        connection.close()
    print(f"{path} on port {port}: {status}")
    return 0 if status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
