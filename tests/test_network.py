from __future__ import annotations

import http.server
import socket
import threading

import pytest

from alexnet_keras.network import unreachable


class Answer(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_HEAD(self):
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(("status", "reason"), [(200, None), (403, None), (404, "HTTP 404")])
def test_a_host_that_answers_is_reachable(status, reason):
    handler = type("Handler", (Answer,), {"status": status})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert unreachable(f"http://127.0.0.1:{server.server_port}/x", 2) == reason


def test_a_host_that_is_silent_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert unreachable(f"http://127.0.0.1:{port}/", seconds=0.5) is not None
    assert "refused" in unreachable(f"http://127.0.0.1:{port}/", seconds=2)
