"""A broken behaviour as a capture: KATA-BEHAVIOUR.pcapng, which Wireshark opens with the right dissectors."""

from __future__ import annotations

from harness.evidence import pcapng
from harness.evidence.frames import Conversation, Parties
from harness.results import Result
from harness.wire.tape import Flow, Tape


def capture(tape: Tape, result: Result, speaks: str, began: float) -> bytes:
    """The movements of `tape` as a capture; `speaks` is the protocol of the solution, `began` the Unix time of 0 s."""
    parties = Parties()
    conversations: dict[Flow, Conversation] = {}
    packets: list[pcapng.Packet] = []
    for movement in tape.movements:
        comment = ""
        if movement.flow not in conversations:
            conversations[movement.flow] = Conversation(movement.flow, parties, speaks)
            comment = conversations[movement.flow].described()
        for frame in conversations[movement.flow].frames(movement):
            packets.append(pcapng.Packet(began + movement.at, frame, comment))
            comment = ""
    if packets:
        last = packets[-1]
        broken = f"here the promise is {result.verdict}: {result.message}"
        packets[-1] = pcapng.Packet(last.at, last.frame, "\n".join(filter(None, [last.comment, broken])))
    return pcapng.write(packets, parties.told(tape.record.solution), _heading(tape, result))


def _heading(tape: Tape, result: Result) -> str:
    lines = [
        result.sentence,
        f"{result.verdict}: {result.message}",
        f"source: {result.source} {result.url}".rstrip(),
        f"again: {result.replay}",
        "Made from what was sent and received on sockets of the loopback device: each party has an address of its own "
        "here, servers listen on their protocol's usual port, and what the kernel did in between is not seen.",
    ]
    if tape.full:
        lines.append("It moved more bytes than are kept; the end is missing.")
    return "\n".join(lines)
