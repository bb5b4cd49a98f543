"""A broken behaviour as a script: one Python file that replays its exchange without the kit.

The file is `replay.py` with what moved written into it. It plays the harness's side of every connection in the recorded
order; what the harness did beside its sockets (killing, freezing) and what began before the behaviour it can only tell.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.results import Result
from harness.wire.tape import Flow, Tape

TEMPLATE = Path(__file__).with_name("replay.py")
MOST_BYTES = 2 << 20  # of a script; a larger exchange is for Wireshark
MARK = "Replays a broken promise without the kit"  # by which a script of ours is known again
EVENTS = ("is killed", "is started again", "gets SIG", "is frozen", "goes on")


def is_ours(head: bytes) -> bool:
    return MARK.encode() in head


def script(tape: Tape, result: Result, environment: Mapping[str, str], name: str) -> str:
    """The text of the script, or "" when too much moved for one. `environment` is what the solution was told."""
    if tape.full or tape.size > MOST_BYTES:
        return ""
    flows = list(dict.fromkeys(movement.flow for movement in tape.movements))
    numbers = {flow: number for number, flow in enumerate(flows, 1)}
    servers = {flow.name: flow.harness[1] for flow in flows if _played(flow)}
    connections = {
        number: (flow.name, flow.peer, flow.opened_by_harness, flow.transport) for flow, number in numbers.items()
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    about = _about(tape, result, environment, servers, flows, name)
    text = text.replace('"""ABOUT"""', about, 1)
    constants = {
        "CONNECTIONS": "{\n" + "".join(f"    {key}: {value!r},\n" for key, value in connections.items()) + "}",
        "SERVERS": repr(servers),
        "STEPS": _steps(tape, numbers),
    }
    return "\n".join(_filled_in(line, constants) for line in text.split("\n"))


def _filled_in(line: str, constants: Mapping[str, str]) -> str:
    """A line of the template; one that declares a constant is given its value."""
    declared = line.partition(":")[0]
    return f"{line.rpartition(' = ')[0]} = {constants[declared]}" if declared in constants else line


def _played(flow: Flow) -> bool:
    """The solution connected to a server of the harness here."""
    return not flow.opened_by_harness and flow.transport == "tcp"


def _steps(tape: Tape, numbers: Mapping[Flow, int]) -> str:
    told: list[tuple[float, tuple[int, str, bytes]]]
    told = [(movement.at, (numbers[movement.flow], movement.kind, movement.data)) for movement in tape.movements]
    told += [(at, (0, "note", text.encode())) for at, text in _beside(tape)]
    told += [(0.0, (number, "open", b"")) for flow, number in numbers.items() if flow.earlier]
    steps = sorted(told, key=lambda step: step[0])
    return "[\n" + "".join(f"    {step!r},\n" for _, step in steps) + "]"


def _beside(tape: Tape) -> Iterator[tuple[float, str]]:
    """What the harness did to the solution's process, when and in words."""
    record = tape.record
    for event in record.events:
        label = str(event.label)
        if event.source == event.target == record.solution and label.startswith(EVENTS):
            yield event.at, f"{record.solution} {label}"


def _about(
    tape: Tape,
    result: Result,
    environment: Mapping[str, str],
    servers: Mapping[str, int],
    flows: list[Flow],
    name: str,
) -> str:
    told = shlex.join(f"{key}={value}" for key, value in environment.items())
    lines = [
        f"{MARK}.",
        "",
        f"promise   {result.sentence}",
        f"{result.verdict.value:<9} {result.message}",
        f"source    {result.source}",
        "",
        f"Start your program, then: python {name} HOST:PORT",
        f"It was started with: {told}",
        "HOST, PORT and STATE_DIR are yours to choose.",
    ]
    if servers:
        ports = ", ".join(f"{server} on port {port}" for server, port in servers.items())
        lines.append(f"Played here for your program as well: {ports}; --listen NAME=PORT chooses another port.")
    lines += [f"Left out: {what}" for what in _left_out(tape, result, flows)]
    lines.append("Both sides are printed; the exit status is 0 if the same bytes came as in the recording.")
    text = "\n".join(lines).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""{text}\n"""'


def _left_out(tape: Tape, result: Result, flows: list[Flow]) -> Iterator[str]:
    if done := list(dict.fromkeys(text for _, text in _beside(tape))):
        yield f"what was done to the process ({'; '.join(done)}); the script says when."
    if earlier := sorted({flow.name for flow in flows if flow.earlier}):
        yield (
            f"how connections with {', '.join(earlier)} began, before this behaviour did. "
            f"To have it too, record this behaviour alone: {result.replay}"
        )
    if any(not flow.opened_by_harness and flow.transport == "udp" for flow in flows):
        yield "servers that are reached over UDP."
