"""Asks the role on this machine for its status: `python -IS bullpen/health_check.py /readyz`, or `/healthz`.

It runs every few seconds beside every role, within the role's limits. So it imports as little as possible: `socket`
alone, the module above `_socket`, takes as long as everything else together. The role answers at `BULLPEN_STATUS`.
"""

import _socket
import sys
from os import environ

WITHIN = 4.0
"""Seconds for each step of the role's answer: a running event loop takes milliseconds, also under load."""
MOST = 4096
HEALTHY, UNHEALTHY, USAGE = 0, 1, 2
PATHS = ("/readyz", "/healthz")


def check(address: str, path: str) -> int:
    """Asks once; prints the role's status and returns the exit code."""
    host, _, port = address.rpartition(":")
    try:
        answer = _asked(host.strip("[]"), int(port), path)
    except (OSError, ValueError, OverflowError) as error:
        return _told(f"nothing answers on BULLPEN_STATUS={address}: {error}", UNHEALTHY)
    head, _, body = answer.partition(b"\r\n\r\n")
    healthy = head.split(b" ", 2)[1:2] == [b"200"]
    return _told(body.decode("utf-8", "replace").strip(), HEALTHY if healthy else UNHEALTHY)


def _asked(host: str, port: int, path: str) -> bytes:
    family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
    connection = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        connection.settimeout(WITHIN)
        connection.connect((host, port))
        connection.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while len(answer) < MOST and (piece := connection.recv(MOST)):
            answer += piece
        return answer
    finally:
        connection.close()


def _told(text: str, code: int) -> int:
    sys.stdout.write(f"{text}\n")
    return code


def die_first() -> None:
    """Makes the kernel kill the check before the role: both share one memory limit."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:  # noqa: PTH123 — pathlib takes 5 ms
            score.write("1000")
    except OSError:
        pass


def main() -> int:
    die_first()
    address = environ.get("BULLPEN_STATUS", "")
    if not address:
        return _told("BULLPEN_STATUS is empty: set it to the address where the role shows its status", USAGE)
    path = sys.argv[1] if len(sys.argv) > 1 else PATHS[0]
    if path not in PATHS:
        return _told(f"{path}: ask for {' or '.join(PATHS)}", USAGE)
    return check(address, path)


if __name__ == "__main__":
    sys.exit(main())
