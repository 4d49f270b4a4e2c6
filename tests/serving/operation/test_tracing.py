from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dynamic.errors import UserError
from serving.operation import tracing
from serving.operation.logs import Notes

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """An OpenTelemetry collector that keeps what it gets."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", bodies
        server.shutdown()
        thread.join()


def test_a_request_is_a_span_below_its_caller_s_with_its_parts_below_it(
    collector: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector[0])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    tracing.check()
    tracing.set_up()
    now = time.time_ns()
    notes = Notes("id", moments=[("queue", now - 2000, now - 1000), ("network", now - 1000, now)])
    caller = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    tracing.record("POST /v1/classify", notes, {"id": "id", "status": 503, "policy": "cascade"}, 0.5, caller)
    tracing.close()
    request = ExportTraceServiceRequest.FromString(b"".join(collector[1]))
    (resource,) = request.resource_spans
    spans = {span.name: span for span in resource.scope_spans[0].spans}
    whole = spans["POST /v1/classify"]
    assert whole.trace_id.hex() == "ab" * 16
    assert whole.parent_span_id.hex() == "cd" * 8
    assert (whole.end_time_unix_nano - whole.start_time_unix_nano) / 1e9 == pytest.approx(0.5)
    assert {a.key: a.value.string_value for a in whole.attributes if a.key != "status"} == {"id": "id", "policy": "cascade"}
    assert whole.status.code == 2
    assert spans["queue"].parent_span_id == spans["network"].parent_span_id == whole.span_id
    assert spans["network"].end_time_unix_nano == now


def test_without_an_exporter_nothing_is_imported_or_made() -> None:
    program = (
        "import sys\nfrom serving.operation import tracing\nfrom serving.operation.logs import Notes\n"
        "tracing.check()\ntracing.set_up()\ntracing.record('GET /', Notes('id'), {}, 0.1, {})\ntracing.close()\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], env={}, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_exporter_that_is_not_installed_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://nowhere:4318")
    monkeypatch.setattr(tracing, "_EXPORTER", "opentelemetry.exporter.nowhere.proto")
    with pytest.raises(UserError, match=r"learned-selector\[tracing\]"):
        tracing.check()
