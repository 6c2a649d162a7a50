"""A camera: an RTSP server on this machine, which plays a street to whoever connects and then hangs up.

It speaks what a client needs that asks for TCP (RFC 2326, interleaved). FFmpeg's RTP muxer makes the packets and
sends them to a UDP port of the server, which passes them on.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from fractions import Fraction

from videos import draw

__all__ = ["Camera"]

_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=street\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:trackID=0\r\n"
)


class Camera:
    """Serves until `close`; each connection gets the street at some times, and is then closed.

    Args:
        times: Seconds of the frames, played at that speed.
        password: What the address has before an ``@``, and is not checked.

    Attributes:
        address: Where it is.
        connections: How many came.
    """

    def __init__(self, times: Sequence[float], password: str = "") -> None:
        self._times = times
        self._listening = socket.create_server(("127.0.0.1", 0))
        login = f"user:{password}@" if password else ""
        self.address = f"rtsp://{login}127.0.0.1:{self._listening.getsockname()[1]}/street"
        self.connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Refuse whoever comes from now on."""
        self._listening.shutdown(socket.SHUT_RDWR)  # which ends an accept that waits
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            with client, client.makefile("rb") as requests, contextlib.suppress(OSError):
                self._converse(client, requests)

    def _converse(self, client: socket.socket, requests: object) -> None:
        while line := requests.readline().decode():  # type: ignore[attr-defined]
            method, url = line.split()[:2]
            headers = {}
            while (header := requests.readline().decode().strip()) != "":  # type: ignore[attr-defined]
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            extra, body = "", ""
            if method == "OPTIONS":
                extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "DESCRIBE":
                body = _SDP
                extra = f"Content-Base: {url}/\r\nContent-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP":
                extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            client.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\n{extra}\r\n{body}".encode())
            if method == "PLAY":
                self._play(client)
                return

    def _play(self, client: socket.socket) -> None:
        import av

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
            packets.bind(("127.0.0.1", 0))
            packets.settimeout(0.01)
            with av.open(f"rtp://127.0.0.1:{packets.getsockname()[1]}", "w", format="rtp") as container:
                options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "repeat-headers=1"}
                stream = container.add_stream("libx264", rate=10, options=options)
                stream.width, stream.height, stream.pix_fmt = 320, 192, "yuv420p"
                stream.codec_context.gop_size = 5
                started = time.monotonic()
                for seconds in self._times:
                    time.sleep(max(0.0, started + seconds - time.monotonic()))
                    frame = av.VideoFrame.from_ndarray(draw(seconds), format="rgb24")
                    frame.pts, frame.time_base = round(1000 * seconds), Fraction(1, 1000)
                    container.mux(stream.encode(frame))
                    self._pass_on(packets, client)
                container.mux(stream.encode())
                self._pass_on(packets, client)

    def _pass_on(self, packets: socket.socket, client: socket.socket) -> None:
        while True:
            try:
                packet = packets.recv(65536)
            except TimeoutError:
                return
            client.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)
