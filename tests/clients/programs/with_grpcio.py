"""The client of grpcio, with stubs that it makes of the .proto file when it starts."""

import json
import os
import sys

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

sys.path.insert(0, os.environ["PROTOS"])
pb, stubs = grpc.protos_and_services("depot.proto")


def deliver(depot, *lines):
    whole = [
        pb.Delivery(sku=sku, quantity=quantity, last=line is lines[-1]) for line in lines for sku, quantity in [line]
    ]
    summary = depot.Deliver(iter(whole))
    return [summary.lines, summary.items]


def pick(depot, *lines):
    answers = depot.Pick(iter([pb.PickRequest(sku=sku, quantity=quantity) for sku, quantity in lines]))
    return [[answer.quantity, answer.left] for answer in answers]


def watch(depot, sku):
    levels = depot.Watch(pb.WatchRequest(sku=sku))
    level = next(levels).quantity
    levels.cancel()
    return level


def reserve(depot, request_id, sku, quantity, timeout=None, trace="t"):
    request = pb.ReserveRequest(request_id=request_id, sku=sku, quantity=quantity)
    reply, call = depot.Reserve.with_call(request, timeout=timeout, metadata=(("x-trace-id", trace),))
    return {"tracking": reply.tracking, "id": reply.id, "trace": dict(call.initial_metadata())["x-trace-id"]}


def refused(error):
    told = {"code": error.code().name, "message": error.details()}
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            told["available"] = info.metadata["available"]
    return told


with grpc.insecure_channel(os.environ["TARGET"]) as channel:
    depot = stubs.DepotStub(channel)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            if name == "health":
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=arguments[0]))
                told = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            else:
                told = globals()[name](depot, *arguments)
        except grpc.RpcError as error:
            told = refused(error)
        print(json.dumps(told), flush=True)
