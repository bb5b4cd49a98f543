"""The client's end of TLS on a recorded connection: the standard library's TLS between two memory buffers.

Handshakes advance with the turns of the network. What the client would send can be held back, and let go whole, in
part, byte by byte, or in smaller records; what the server sends is read as it comes. How a connection ended is told
apart: by close_notify, by an alert, or by neither, which is a truncation.
Source: RFC 8446, RFC 5246; https://docs.python.org/3/library/ssl.html#memory-bio-support
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from contextlib import suppress

from harness.solution.program import Solution
from harness.verdicts import Broken
from harness.wire.tcp import Connection
from harness.wire.tls_records import Sight, summary

CHUNK = 1 << 16
NO_ISSUER = 20  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
ALERT = re.compile(r"(?:sslv3|tlsv1|tlsv13)[_ ](?:alert[_ ])?([a-z _]+?) ?(?:\(|$)")


class Tls:
    """One TLS connection of a client that the harness plays. Creating it sends the ClientHello, unless it is `held`.

    `inbox` holds plaintext that has come. `established` is the client's view: in TLS 1.3 a server may still refuse the
    client's certificate. `alert` is the name of the fatal alert that came, `fault` what the client found wrong itself.
    """

    def __init__(
        self,
        solution: Solution,
        name: str,
        context: ssl.SSLContext,
        server_name: str = "",
        session: ssl.SSLSession | None = None,
        held: bool = False,
        slow_reader: bool = False,
    ) -> None:
        self.solution, self.name, self.server_name = solution, name, server_name
        self.inbox = bytearray()
        self.established = self.close_notify = False
        self.alert = self.fault = ""
        self.seen = Sight()  # what the server sent, for those without keys
        self.on_plaintext: Callable[[Tls], None] | None = None
        self._sent = Sight()
        self._held: bytearray | None = bytearray() if held else None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_name or None, session=session
        )
        self.connection = solution.connect(name, slow_reader)
        self.connection.on_bytes = self._arrived
        self._advance()

    # -- what was negotiated ------------------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """Such as "TLSv1.3"."""
        return self.tls.version() or ""

    @property
    def protocol(self) -> str | None:
        """The application protocol (ALPN), None without one."""
        return self.tls.selected_alpn_protocol()

    @property
    def certificate(self) -> bytes:
        """The server's certificate (DER), empty before there is one."""
        return self.tls.getpeercert(binary_form=True) or b""

    @property
    def resumed(self) -> bool:
        return bool(self.tls.session_reused)

    @property
    def session(self) -> ssl.SSLSession | None:
        """The session as far as it is known: in TLS 1.3 its ticket comes after the handshake."""
        return self.tls.session

    # -- how it goes --------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Nothing more will come from the server."""
        return self.close_notify or bool(self.alert or self.fault) or self.connection.ended

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        if self.fault:
            return self.fault
        if self.alert:
            return f"the alert {self.alert} came"
        if self.close_notify:
            return "it was closed with close_notify"
        return "it was closed without close_notify" if self.connection.ended else "it is open"

    def handshake(self) -> Tls:
        """Wait until the client's part of the handshake is done. Raises Broken when it fails."""
        self.solution.until(lambda: self.established or self.ended, "the end of the handshake", self.name)
        if not self.established:
            whom = f" with {self.server_name}" if self.server_name else ""
            raise Broken(f"{self.name} is owed a TLS connection{whom}; {self.ending}")
        return self

    def until_ended(self, owed: str = "the end of the connection") -> Tls:
        """Wait until the server has ended the connection: by close_notify, by an alert, or by TCP alone."""
        self.solution.until(lambda: self.ended, owed, self.name)
        return self

    def until_closed(self) -> Tls:
        """Wait until TCP has ended as well."""
        self.solution.until(lambda: self.connection.ended, "the end of the TCP connection", self.name)
        return self

    # -- what the client does -----------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Encrypt and send, as soon as nothing is held any more; what nobody would read is dropped."""
        if self.ended:
            return
        self.tls.write(data)
        self._flush()

    def encrypted(self, data: bytes) -> bytes:
        """The records that `send` would send; the caller sends them, or what it makes of them, by `send_raw`."""
        self.tls.write(data)
        return self._outgoing.read()

    def send_raw(self, data: bytes, label: str) -> None:
        """Send bytes that TLS knows nothing of."""
        self._note(label, data)
        self.connection.send(data)

    def hold(self) -> None:
        """From now on keep what would be sent."""
        self.solution.record.note(self.name, "holds back what it would send")
        self._held = bytearray()

    @property
    def held(self) -> bytes:
        return bytes(self._held or b"")

    def until_held(self) -> Tls:
        """Wait until there is something to hold back: it is the client's turn."""
        self.solution.until(lambda: self.held or self.ended, "the server's part of the handshake", self.name)
        return self

    def release(self, instead: bytes = b"") -> None:
        """Send what was held (or the same in another form, `instead`), and hold no more."""
        data = instead or self.held
        self._held = None
        self._deliver(data)

    def release_bytes(self, number: int) -> None:
        """Send the next few bytes of what is held, and hold the rest."""
        assert self._held is not None, "hold() comes first"
        part = bytes(self._held[:number])
        del self._held[:number]
        self._deliver(part)

    def send_notify(self) -> None:
        """Send close_notify; the TCP connection stays open, so that the answer is seen."""
        self._note("close_notify", b"")
        with suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError, ssl.SSLSyscallError):
            self.tls.unwrap()  # its answer is still to come, or has come already
        self._flush()

    def half_close(self) -> None:
        """FIN without close_notify: for the server this is a truncation."""
        self.connection.half_close()

    def hang_up(self) -> None:
        """RST."""
        self.connection.hang_up()

    # -- the pump -----------------------------------------------------------------------------------------------

    def _arrived(self, connection: Connection) -> None:
        data = bytes(connection.inbox)
        connection.inbox.clear()
        names = self.seen.feed(data)
        if names and not self.established:
            peer = self.solution.record.solution
            self.solution.record.add("message", peer, self.name, summary(names), data, self.name)
        if data:  # after the end there is none; a reset may still be told then
            self._incoming.write(data)
        if connection.ended:
            self._incoming.write_eof()
        self._advance()
        self._tell()

    def _advance(self) -> None:
        if self.alert or self.fault or self.close_notify:
            return
        try:
            if not self.established:
                self.tls.do_handshake()
                self._begin()
            while data := self.tls.read(CHUNK):
                self.inbox += data
            self._closed()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # as after an empty read, when the client has said close_notify before
            self._closed()
        except (ssl.SSLEOFError, ssl.SSLSyscallError):
            pass  # a truncation, which `connection.ended` shows
        except ssl.SSLCertVerificationError as error:
            self.fault = f"the server's certificate is not to be trusted: {error.verify_message}"
            if error.verify_code == NO_ISSUER:
                self.fault += " (is the intermediate certificate sent along?)"
        except ssl.SSLError as error:
            self._failed(error)
        self._flush()

    def _begin(self) -> None:
        self.established = True
        facts = [self.version, self.protocol or "no ALPN"] + (["resumed"] if self.resumed else [])
        self.solution.record.note(self.name, f"has TLS: {', '.join(facts)}")

    def _tell(self) -> None:
        if self.on_plaintext:
            self.on_plaintext(self)

    def _closed(self) -> None:
        self._tell()  # of what came before
        self.close_notify = True
        self.solution.record.add("message", self.solution.record.solution, self.name, "close_notify", b"", self.name)

    def _failed(self, error: ssl.SSLError) -> None:
        told = ALERT.search(str(error.args[-1]).lower().rpartition("]")[2].strip())
        if told:
            self.alert = told[1].strip().replace(" ", "_")
            label = f"alert {self.alert}"
            if not self.seen.alerts:  # one in clear was told as it came
                self.solution.record.add("message", self.solution.record.solution, self.name, label, b"", self.name)
        else:
            self.fault = f"what came is no TLS: {error.reason or error}"

    def _flush(self) -> None:
        data = self._outgoing.read()
        if not data:
            return
        if self._held is not None:
            self._held += data
        else:
            self._deliver(data)

    def _deliver(self, data: bytes) -> None:
        names = self._sent.feed(data)
        if not self.established or "Finished" in names or self._held is not None:
            where = f" for {self.server_name}" if "ClientHello" in names and self.server_name else ""
            self._note((summary(names) or f"{len(data)} bytes of a record") + where, data)
        self.connection.send(data)

    def _note(self, label: str, data: bytes) -> None:
        self.solution.record.add("message", self.name, self.solution.record.solution, label, data, self.name)
