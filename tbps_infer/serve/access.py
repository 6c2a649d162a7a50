"""Who may ask: the Host header, the request's origin, and the token by header or cookie."""

from __future__ import annotations

import hmac
import re
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from tbps_infer.serve.addresses import is_loopback
from tbps_infer.serve.failures import RefusedError
from tbps_infer.serve.options import ServeOptions

__all__ = ["COOKIE", "Access"]

COOKIE = "tbps_session"
_COOKIE_SECONDS = 12 * 3600
_HOST = re.compile(r"([\w.~-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?", re.ASCII)


class Access:
    """The checks of one server.

    The cookie holds a secret of this one server, made when it starts. It tells nothing of the token, and no guess of
    the token tells anything of it, so that its holders need not wait where tokens are being guessed.

    Args:
        options: The address and the token.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._token = options.token
        self._session = secrets.token_hex(32)
        # With a token a stranger's name gets nothing anyway: the cookie belongs to the name that it was given under.
        self._own_names_only = options.loopback and options.token is None

    @property
    def needs_token(self) -> bool:
        """Whether clients must show a token."""
        return self._token is not None

    def check_host(self, headers: Headers) -> None:
        """Refuse what is no name (400), and other machines' names (421) if only this one should ask, without a token.

        A page on the web can have its own name resolve to 127.0.0.1 (DNS rebinding); its name is then in the header.
        """
        host = headers.get("host", "")
        if _HOST.fullmatch(host) is None:
            raise RefusedError(400, "The Host header is not a name or an address.")
        if self._own_names_only and not is_loopback(_host_name(host)):
            raise RefusedError(
                421, "This server answers to 127.0.0.1 and localhost only.", "Open it by that address."
            )

    def check_origin(self, headers: Headers) -> None:
        """Refuse (403) what another site's page sends, pictures included."""
        site = headers.get("sec-fetch-site")
        origin = headers.get("origin")
        foreign = site in ("cross-site", "same-site")
        if origin is not None:
            foreign = foreign or _authority(origin) != headers.get("host", "").lower()
        if foreign:
            raise RefusedError(403, "Another site's page may not ask this server.", "Open this server's own page.")

    def allows_token(self, given: str) -> bool:
        """Whether a text is the token, compared in constant time."""
        return self._token is None or hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())

    def allows_without_token(self, headers: Headers) -> bool:
        """Whether a request need not show the token: the server has none, or the request has the cookie."""
        cookie = _cookie(headers).encode("utf-8", "replace")
        return self._token is None or hmac.compare_digest(cookie, self._session.encode())

    def allows_bearer(self, headers: Headers) -> bool:
        """Whether a request shows the token, as ``Authorization: Bearer …``."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.allows_token(given.strip())

    def set_cookie(self, secure: bool) -> str:
        """The Set-Cookie header of whoever gave the right token."""
        flags = f"; Path=/; Max-Age={_COOKIE_SECONDS}; HttpOnly; SameSite=Strict"
        return f"{COOKIE}={self._session}{flags}{'; Secure' if secure else ''}"


def _cookie(headers: Headers) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def _authority(origin: str) -> str | None:
    """The name and port of an Origin header; None of one that has none, or is no address at all."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _host_name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0][1:]
    return host.partition(":")[0].lower()
