"""Messages that everybody who speaks gRPC knows: rich errors, health, reflection. Only the fields that are read.

Source: google/rpc/status.proto and error_details.proto, grpc/health/v1/health.proto, google/protobuf/descriptor.proto,
grpc/reflection/v1/reflection.proto (v1alpha has the same messages).
"""

from __future__ import annotations

from harness.peers.grpc_client import Method
from harness.wire.protobuf import Field, Message, Values

# -- errors

ANY = Message("Any", type_url=Field(1, "string"), value=Field(2, "bytes"))
RPC_STATUS = Message("Status", code=Field(1, "int"), message=Field(2, "string"), details=Field(3, ANY, many=True))
VIOLATION = Message("FieldViolation", field=Field(1, "string"), description=Field(2, "string"))
BAD_REQUEST = Message("BadRequest", field_violations=Field(1, VIOLATION, many=True))
ENTRY = Message("MetadataEntry", key=Field(1, "string"), value=Field(2, "string"))
ERROR_INFO = Message(
    "ErrorInfo", reason=Field(1, "string"), domain=Field(2, "string"), metadata=Field(3, ENTRY, many=True)
)
TYPES = {f"google.rpc.{message.name}": message for message in (BAD_REQUEST, ERROR_INFO)}


def details_of(status: Values) -> dict[str, Values]:
    """The details of a google.rpc.Status that are known here, by the names of their messages. Raises ValueError."""
    packed = [(each["type_url"].rpartition("/")[2], each["value"]) for each in status["details"]]
    return {TYPES[name].name: TYPES[name].decode(value) for name, value in packed if name in TYPES}


# -- health

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
HEALTH = "grpc.health.v1.Health"
HEALTH_REQUEST = Message("HealthCheckRequest", service=Field(1, "string"))
HEALTH_RESPONSE = Message("HealthCheckResponse", status=Field(1, "int"))
CHECK = Method(HEALTH, "Check", HEALTH_REQUEST, HEALTH_RESPONSE)
WATCH_HEALTH = Method(HEALTH, "Watch", HEALTH_REQUEST, HEALTH_RESPONSE)

# -- reflection

REFLECTIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
REFLECTION_REQUEST = Message(
    "ServerReflectionRequest", file_containing_symbol=Field(4, "string"), list_services=Field(7, "string")
)
FILES = Message("FileDescriptorResponse", file_descriptor_proto=Field(1, "bytes", many=True))
SERVICE_NAME = Message("ServiceResponse", name=Field(1, "string"))
SERVICES = Message("ListServiceResponse", service=Field(1, SERVICE_NAME, many=True))
ERROR = Message("ErrorResponse", error_code=Field(1, "int"), error_message=Field(2, "string"))
REFLECTION_RESPONSE = Message(
    "ServerReflectionResponse",
    file_descriptor_response=Field(4, FILES),
    list_services_response=Field(6, SERVICES),
    error_response=Field(7, ERROR),
)
METHOD_DESCRIPTOR = Message(
    "MethodDescriptorProto",
    name=Field(1, "string"),
    input_type=Field(2, "string"),
    output_type=Field(3, "string"),
    client_streaming=Field(5, "int"),
    server_streaming=Field(6, "int"),
)
SERVICE_DESCRIPTOR = Message(
    "ServiceDescriptorProto", name=Field(1, "string"), method=Field(2, METHOD_DESCRIPTOR, many=True)
)
FILE_DESCRIPTOR = Message(
    "FileDescriptorProto",
    name=Field(1, "string"),
    package=Field(2, "string"),
    service=Field(6, SERVICE_DESCRIPTOR, many=True),
)


def reflection(service: str) -> Method:
    """The one method of reflection, in one of its versions."""
    return Method(service, "ServerReflectionInfo", REFLECTION_REQUEST, REFLECTION_RESPONSE)
