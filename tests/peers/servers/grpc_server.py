"""A server of grpcio with a method of each kind, whose messages are any bytes, and with its health and reflection."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status


def one(request: bytes, context: grpc.ServicerContext) -> bytes:
    given = dict(context.invocation_metadata())
    context.set_trailing_metadata(
        (("left-bin", given.get("given-bin", b"")), ("timeout", str(context.time_remaining())))
    )
    if request == b"refuse":
        status = status_pb2.Status(code=9, message="größer 100%")
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="WHY", domain="d", metadata={"key": "value"}))
        context.abort_with_status(rpc_status.to_status(status))
    return request


def down(request: bytes, context: grpc.ServicerContext):
    for number in range(int(request)):
        yield b"%d" % number * 1000


def up(requests, context: grpc.ServicerContext) -> bytes:
    return b",".join(requests)


def both(requests, context: grpc.ServicerContext):
    yield from requests


METHODS = {
    "One": grpc.unary_unary_rpc_method_handler(one),
    "Down": grpc.unary_stream_rpc_method_handler(down),
    "Up": grpc.stream_unary_rpc_method_handler(up),
    "Both": grpc.stream_stream_rpc_method_handler(both),
}

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
server = grpc.server(
    ThreadPoolExecutor(10), options=[("grpc.keepalive_time_ms", 50), ("grpc.http2.ping_timeout_ms", 100)]
)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Kinds", METHODS),))
health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
reflection.enable_server_reflection((health.SERVICE_NAME, reflection.SERVICE_NAME), server)
server.add_insecure_port(f"{os.environ['HOST']}:{os.environ['PORT']}")
server.start()
signal.sigwait({signal.SIGTERM})
server.stop(5).wait()
