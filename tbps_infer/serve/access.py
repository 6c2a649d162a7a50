"""Who may ask: the Host header, the request's origin, and the token by header or cookie."""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from tbps_infer.serve.failures import RefusedError
from tbps_infer.serve.options import ServeOptions, is_loopback

__all__ = ["COOKIE", "Access"]

COOKIE = "tbps_session"
_COOKIE_SECONDS = 12 * 3600


class Access:
    """The checks of one server.

    The cookie holds an HMAC of the token, never the token itself, so that it opens nothing but this page.

    Args:
        options: The address and the token.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._token = options.token
        # With a token a stranger's name gets nothing anyway: the cookie belongs to the name that it was given under.
        self._own_names_only = options.loopback and options.token is None

    @property
    def needs_token(self) -> bool:
        """Whether clients must show a token."""
        return self._token is not None

    def check_host(self, headers: Headers) -> None:
        """Refuse (421) names that are not this machine's, while only this machine should ask, without a token.

        A page on the web can have its own name resolve to 127.0.0.1 (DNS rebinding); its name is then in the header.
        """
        if self._own_names_only and not is_loopback(_host_name(headers.get("host", ""))):
            raise RefusedError(
                421, "This server answers to 127.0.0.1 and localhost only.", "Open it by that address."
            )

    def check_origin(self, headers: Headers) -> None:
        """Refuse (403) what another site's page sends, pictures included."""
        site = headers.get("sec-fetch-site")
        origin = headers.get("origin")
        foreign = site in ("cross-site", "same-site")
        if origin is not None:
            foreign = foreign or urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
        if foreign:
            raise RefusedError(403, "Another site's page may not ask this server.", "Open this server's own page.")

    def allows_token(self, given: str) -> bool:
        """Whether a text is the token, compared in constant time."""
        return self._token is None or hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())

    def allows(self, headers: Headers) -> bool:
        """Whether a request shows the token, as ``Authorization: Bearer …`` or by its cookie."""
        if self._token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.allows_token(given.strip()):
            return True
        return hmac.compare_digest(_cookie(headers).encode("utf-8", "replace"), self._session().encode())

    def presents_credentials(self, headers: Headers) -> bool:
        """Whether a request tries to show a token or a cookie: a wrong one is worth counting."""
        return "authorization" in headers or bool(_cookie(headers))

    def set_cookie(self, secure: bool) -> str:
        """The Set-Cookie header of whoever gave the right token."""
        flags = f"; Path=/; Max-Age={_COOKIE_SECONDS}; HttpOnly; SameSite=Strict"
        return f"{COOKIE}={self._session()}{flags}{'; Secure' if secure else ''}"

    def _session(self) -> str:
        return hmac.new((self._token or "").encode(), b"tbps serve session", hashlib.sha256).hexdigest()


def _cookie(headers: Headers) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def _host_name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0][1:]
    return host.partition(":")[0].lower()
