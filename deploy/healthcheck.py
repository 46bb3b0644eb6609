"""Asks the server in this container whether it is ready: exit status 0 when it is, 1 with the reason when not."""

# http.client and not urllib.request: the latter would send a request for loopback to a proxy set in the environment.
import http.client
import os
import sys

PORT = int(os.environ.get("POLICY_SERVER_PORT", "8000"))

connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=4)
try:
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    print(answer.status, answer.read().decode(errors="replace"))
    sys.exit(0 if answer.status == 200 else 1)
except (OSError, http.client.HTTPException) as error:
    print(f"no answer on port {PORT}: {error}")
    sys.exit(1)
finally:
    connection.close()
