// Protocol Buffers by tables: a message is a list of its fields. The descriptor that reflection gives is made of the
// same tables.

const STRING = 9, INT64 = 3, INT32 = 5, BOOL = 8, BYTES = 12, MESSAGE = 11; // FieldDescriptorProto.Type
const field = (number, name, type, of, many = false) => ({ number, name, type, of, many });
const text = (number, name) => field(number, name, STRING);
const whole = (number, name) => field(number, name, INT64);
const bytes = (number, name, many) => field(number, name, BYTES, undefined, many);
const one = (number, name, of) => field(number, name, MESSAGE, of);
const all = (number, name, of) => field(number, name, MESSAGE, of, true);

export const messages = {
  ReserveRequest: [text(1, "request_id"), text(2, "sku"), whole(3, "quantity")],
  Reservation: [text(1, "id"), text(2, "tracking")],
  WatchRequest: [text(1, "sku")],
  Level: [whole(1, "quantity"), text(2, "note")],
  Delivery: [text(1, "sku"), whole(2, "quantity"), text(3, "note"), field(4, "last", BOOL)],
  Summary: [whole(1, "lines"), whole(2, "items")],
  PickRequest: [text(1, "sku"), whole(2, "quantity")],
  Picked: [text(1, "sku"), whole(2, "quantity"), whole(3, "left")],
};

export const others = {
  BookRequest: messages.ReserveRequest,
  Booking: [text(1, "tracking")],
  Any: [text(1, "type_url"), bytes(2, "value")],
  Status: [field(1, "code", INT32), text(2, "message"), all(3, "details", "Any")],
  Violation: [text(1, "field"), text(2, "description")],
  BadRequest: [all(1, "field_violations", "Violation")],
  Entry: [text(1, "key"), text(2, "value")],
  ErrorInfo: [text(1, "reason"), text(2, "domain"), all(3, "metadata", "Entry")],
  HealthRequest: [text(1, "service")],
  HealthReply: [field(1, "status", INT32)],
  ReflectionRequest: [text(4, "file_containing_symbol"), text(7, "list_services")],
  ReflectionReply: [one(4, "files", "Files"), one(6, "services", "Services"), one(7, "error", "NotFound")],
  Files: [bytes(1, "file", true)],
  Services: [all(1, "service", "Named")],
  Named: [text(1, "name")],
  NotFound: [field(1, "code", INT32), text(2, "message")],
  File: [text(1, "name"), text(2, "package"), all(4, "message", "Type"), all(6, "service", "Service"), text(12, "syntax")],
  Type: [text(1, "name"), all(2, "field", "Field")],
  Field: [text(1, "name"), field(3, "number", INT32), field(4, "label", INT32), field(5, "type", INT32)],
  Service: [text(1, "name"), all(2, "method", "Method")],
  Method: [
    ...[text(1, "name"), text(2, "input"), text(3, "output")],
    ...[field(5, "client_streaming", BOOL), field(6, "server_streaming", BOOL)],
  ],
};

const table = { ...messages, ...others };
const LENGTH = 2;
const isText = (type) => [STRING, BYTES, MESSAGE].includes(type);

function varint(value) {
  const encoded = [];
  for (let left = BigInt.asUintN(64, BigInt(value)); ; left >>= 7n) {
    if (left < 128n) return Buffer.from([...encoded, Number(left)]);
    encoded.push(Number(left & 127n) | 128);
  }
}

export function encode(name, values) {
  const parts = [];
  for (const { number, name: key, type, of, many } of table[name]) {
    for (const value of many ? (values[key] ?? []) : values[key] === undefined ? [] : [values[key]]) {
      if (!isText(type)) parts.push(varint(number << 3), varint(Number(value)));
      else {
        const data = type === MESSAGE ? encode(of, value) : Buffer.from(value);
        parts.push(varint((number << 3) | LENGTH), varint(data.length), data);
      }
    }
  }
  return Buffer.concat(parts);
}

export function decode(name, data) {
  const values = {};
  for (const { name: key, type } of table[name]) values[key] = isText(type) ? "" : type === BOOL ? false : 0;
  let at = 0;
  const number = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = data[at++];
      if (byte === undefined) throw new RangeError("the message is cut off");
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < data.length) {
    const tag = Number(number());
    const known = table[name].find((each) => each.number === tag >> 3);
    let value = (tag & 7) === 0 ? number() : null;
    if (value === null) {
      const size = (tag & 7) === LENGTH ? Number(number()) : (tag & 7) === 1 ? 8 : 4;
      value = data.subarray(at, (at += size));
    }
    if (!known) continue;
    if (Buffer.isBuffer(value)) values[known.name] = known.type === STRING ? value.toString() : value;
    else values[known.name] = known.type === BOOL ? value !== 0n : Number(BigInt.asIntN(64, value));
  }
  return values;
}

export const METHODS = {
  Reserve: ["ReserveRequest", "Reservation", false, false],
  Watch: ["WatchRequest", "Level", false, true],
  Deliver: ["Delivery", "Summary", true, false],
  Pick: ["PickRequest", "Picked", true, true],
};

export function descriptor() {
  const message = Object.entries(messages).map(([name, fields]) => ({
    name,
    field: fields.map((each) => ({ name: each.name, number: each.number, label: 1, type: each.type })),
  }));
  const method = Object.entries(METHODS).map(([name, [input, output, client_streaming, server_streaming]]) => ({
    ...{ name, input: `.depot.v1.${input}`, output: `.depot.v1.${output}` },
    ...{ client_streaming, server_streaming },
  }));
  const service = [{ name: "Depot", method }];
  return encode("File", { name: "depot.proto", package: "depot.v1", message, service, syntax: "proto3" });
}
