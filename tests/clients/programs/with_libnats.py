"""libnats, the C client, against the broker at NATS_URL. Its flush is a fence: PING leaves last."""

import ctypes
import json
import os
import sys
from ctypes import POINTER, byref, c_bool, c_char_p, c_int, c_int64, c_void_p

URL = os.environ["NATS_URL"].encode()
MOST = 10_000  # milliseconds; an exchange that takes as long has failed
TIMED_OUT = 26  # NATS_TIMEOUT
OUT, HANDLE = POINTER(c_void_p), c_void_p
CALLBACK = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_void_p)

nats = ctypes.CDLL("libnats.so.3.4")
SIGNATURES = {
    "natsOptions_Create": [OUT],
    "natsOptions_SetURL": [HANDLE, c_char_p],
    "natsOptions_SetNoEcho": [HANDLE, c_bool],
    "natsOptions_SetAllowReconnect": [HANDLE, c_bool],
    "natsConnection_Connect": [OUT, HANDLE],
    "natsConnection_IsClosed": [HANDLE],
    "natsConnection_Subscribe": [OUT, HANDLE, c_char_p, CALLBACK, c_void_p],
    "natsConnection_SubscribeSync": [OUT, HANDLE, c_char_p],
    "natsConnection_QueueSubscribeSync": [OUT, HANDLE, c_char_p, c_char_p],
    "natsConnection_Publish": [HANDLE, c_char_p, c_char_p, c_int],
    "natsConnection_PublishRequest": [HANDLE, c_char_p, c_char_p, c_char_p, c_int],
    "natsConnection_FlushTimeout": [HANDLE, c_int64],
    "natsConnection_Request": [OUT, HANDLE, c_char_p, c_char_p, c_int, c_int64],
    "natsConnection_DrainTimeout": [HANDLE, c_int64],
    "natsSubscription_NextMsg": [OUT, HANDLE, c_int64],
    "natsSubscription_AutoUnsubscribe": [HANDLE, c_int],
}
for name, arguments in SIGNATURES.items():
    getattr(nats, name).argtypes = arguments
for name in ("natsMsg_GetData", "natsMsg_GetSubject", "natsMsg_GetReply"):
    getattr(nats, name).argtypes = [HANDLE]
    getattr(nats, name).restype = c_char_p if name != "natsMsg_GetData" else c_void_p
nats.natsConnection_IsClosed.restype = c_bool
nats.natsMsg_Destroy.argtypes = [HANDLE]
nats.natsMsg_GetDataLength.argtypes = [HANDLE]
nats.natsConnection_GetMaxPayload.argtypes = [HANDLE]
nats.natsConnection_GetMaxPayload.restype = c_int64


def call(name, *arguments):
    status = getattr(nats, name)(*arguments)
    if status:
        raise SystemExit(f"{name}: status {status}")


def make(name, *arguments):
    made = c_void_p()
    call(name, byref(made), *arguments)
    return made


def connect(no_echo=False):
    options = make("natsOptions_Create")
    call("natsOptions_SetURL", options, URL)
    call("natsOptions_SetNoEcho", options, no_echo)
    call("natsOptions_SetAllowReconnect", options, False)
    return make("natsConnection_Connect", options)


def publish(client, subject, data=b""):
    call("natsConnection_Publish", client, subject, data, len(data))


def fence(*clients):
    for client in clients:
        call("natsConnection_FlushTimeout", client, MOST)


def read(message):
    data = ctypes.string_at(nats.natsMsg_GetData(message), nats.natsMsg_GetDataLength(message))
    return nats.natsMsg_GetSubject(message), nats.natsMsg_GetReply(message), data


def take(subscription, number):
    return [read(make("natsSubscription_NextMsg", subscription, MOST)) for _ in range(number)]


def rest(subscription):
    """What is there already."""
    found, message = [], c_void_p()
    while not (status := nats.natsSubscription_NextMsg(byref(message), subscription, 1)):
        found.append(read(message)[2])
    if status != TIMED_OUT:
        found.append(b"ended")
    return found


def wildcards(a, b):
    one, more = (make("natsConnection_SubscribeSync", b, subject) for subject in (b"weather.*", b"weather.>"))
    fence(b)
    for subject in (b"weather.rome", b"weather.rome.night", b"other"):
        publish(a, subject, subject)
    return {
        "one": [data.decode() for _, _, data in take(one, 1)],
        "rest": [subject.decode() for subject, _, _ in take(more, 2)],
    }


@CALLBACK
def answer(client, _, message, __):
    _, reply, data = read(message)
    publish(client, reply, b"you said " + data)
    nats.natsMsg_Destroy(c_void_p(message))


def request_reply(a, b):
    make("natsConnection_Subscribe", b, b"help", answer, None)
    fence(b)
    asked = (b"%d" % number for number in range(20))
    return [read(make("natsConnection_Request", a, b"help", data, len(data), MOST))[2].decode() for data in asked]


def queue_group(a, b):
    members = [make("natsConnection_QueueSubscribeSync", client, b"jobs", b"workers") for client in (a, b, b)]
    fence(a, b)
    for number in range(60):
        publish(a, b"jobs", b"%d" % number)
    fence(a, b)
    return sorted(int(data) for member in members for data in rest(member))


def auto_unsubscribe(a, b):
    subscription = make("natsConnection_SubscribeSync", b, b"few")
    call("natsSubscription_AutoUnsubscribe", subscription, 3)
    fence(b)
    for number in range(6):
        publish(a, b"few", b"%d" % number)
    fence(a, b)
    return [data.decode() for _, _, data in take(subscription, 3)]


def no_echo(a, b):
    silent = connect(no_echo=True)
    own, other = (make("natsConnection_SubscribeSync", client, b"news") for client in (silent, b))
    fence(silent, b)
    publish(silent, b"news", b"mine")
    fence(silent)
    publish(a, b"news", b"theirs")
    fence(a, silent)
    return [data.decode() for _, _, data in take(other, 2)], take(own, 1)[0][2].decode()


def megabyte(a, b):
    payload = os.urandom(nats.natsConnection_GetMaxPayload(a))
    subscription = make("natsConnection_SubscribeSync", b, b"big")
    fence(b)
    call("natsConnection_PublishRequest", a, b"big", b"answer.here", payload, len(payload))
    ((_, reply, data),) = take(subscription, 1)
    return [len(data), data == payload, reply.decode()]


def drain(a, b):
    """What was delivered before the drain is still handled, and the connection closes then."""
    leaving, handled = connect(), []

    @CALLBACK
    def handle(_, __, message, ___):
        handled.append(read(message)[2])
        nats.natsMsg_Destroy(c_void_p(message))

    make("natsConnection_Subscribe", leaving, b"last", handle, None)
    fence(leaving)
    for number in range(50):
        publish(a, b"last", b"%d" % number)
    fence(a, leaving)
    call("natsConnection_DrainTimeout", leaving, MOST)
    while not nats.natsConnection_IsClosed(leaving):
        fence(a)
    return [len(handled), True]


def main():
    a, b = connect(), connect()
    told = {"max_payload": nats.natsConnection_GetMaxPayload(a)}
    for part in (wildcards, request_reply, queue_group, auto_unsubscribe, no_echo, megabyte, drain):
        told[part.__name__] = part(a, b)
    return told


sys.stdin.readline()
print(json.dumps(main()), flush=True)
