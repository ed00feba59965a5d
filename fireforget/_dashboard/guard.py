"""Who may ask: the Host header, the token, and for actions the origin.

What each check is against:

* Host: DNS rebinding. A page of another site makes its own name point to this machine, and the browser takes us for that site. It
  cannot do so with a number, so an IP address is always right; of names, `localhost` and those that were given.
* Token: everybody who can reach the port. Without one, the port is on loopback alone.
* Origin: a page of another site that has the browser send an action. It can neither set our header nor send JSON without asking
  first, which is never allowed here, and browsers say where a request comes from. All of it is checked: each alone would do.
"""

import hashlib
import hmac
import ipaddress
import threading
import time
from collections.abc import Callable, Collection
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from fireforget._dashboard.web import Answer, Refusal, Request, bad, json_answer

ACTION_HEADER = "X-Fireforget"
SESSION_SECONDS = 12 * 3600
_MOST_WRONG = 20  # tokens a minute of one address
_MINUTE = 60.0
_MOST_ADDRESSES = 1024


def is_loopback(address: str) -> bool:
    """Return whether an IP address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets requests through, or raises `Refusal`. Safe to share between threads.

    `token` is what has to be shown (None: nothing), `hosts` are the names by which this is reached beside localhost and IP
    addresses ("*": any).
    """

    def __init__(
        self, token: str | None, hosts: Collection[str], read_only: bool, clock: Callable[[], float] = time.time
    ) -> None:
        self.read_only = read_only
        self._secret = None if token is None else hashlib.sha256(b"fireforget dashboard\0" + token.encode("utf-8")).digest()
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._clock = clock
        self._wrong: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def check_host(self, request: Request) -> None:
        """Refuse a request that was sent to a name that is not ours."""
        host = request.header("Host")
        if host is None:
            raise bad("the Host header is missing")
        name = _host_name(host)
        if "*" not in self._hosts and not _is_own_name(name) and name not in self._hosts:
            raise Refusal(
                HTTPStatus.MISDIRECTED_REQUEST,
                "unknown_host",
                f"the name {name[:100]!r} is not one of this dashboard: use its IP address or localhost, or allow the name "
                "when it is started",
            )

    def check_site(self, request: Request) -> None:
        """Refuse data to a page of another site. (It could not read them; it need not measure how long they take either.)"""
        if request.header("Sec-Fetch-Site") not in (None, "same-origin", "none"):
            raise Refusal(HTTPStatus.FORBIDDEN, "cross_site", "a page of another site asked for this")

    def check_action(self, request: Request) -> None:
        """Refuse an action that a page of another site may have sent."""
        self.check_site(request)
        origin, host = request.header("Origin"), request.header("Host") or ""
        if origin is not None and _authority(origin) != host.lower():
            raise Refusal(HTTPStatus.FORBIDDEN, "cross_site", "a page of another site sent this")
        if request.header(ACTION_HEADER) is None:
            raise Refusal(HTTPStatus.FORBIDDEN, "no_action_header", f"an action needs the header {ACTION_HEADER}: 1")
        kind = (request.header("Content-Type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not_json", "an action is sent as application/json")

    def check_writable(self) -> None:
        """Refuse where nothing may be changed."""
        if self.read_only:
            raise Refusal(HTTPStatus.FORBIDDEN, "read_only", "this dashboard only shows: it was started with --read-only")

    # --- the token ----------------------------------------------------------------------------------------------------

    def is_known(self, request: Request) -> bool:
        """Return whether the request shows the token, or a session that was begun with it. Too many wrong tokens are refused."""
        if self._secret is None:
            return True
        kind, _, shown = (request.header("Authorization") or "").partition(" ")
        if kind.lower() == "bearer":
            return self._is_token(shown.strip(), request)
        return self._is_session(request)

    def check_token(self, request: Request) -> None:
        """Refuse who shows neither."""
        if not self.is_known(request):
            raise Refusal(
                HTTPStatus.UNAUTHORIZED,
                "no_token",
                "show the token: Authorization: Bearer TOKEN",
                {"WWW-Authenticate": 'Bearer realm="fireforget"'},
            )

    def begin_session(self, request: Request) -> Answer:
        """Give a browser that shows the token a cookie, so that the page needs not keep the token."""
        shown = request.json().get("token")
        if self._secret is not None and not (isinstance(shown, str) and self._is_token(shown, request)):
            raise Refusal(HTTPStatus.UNAUTHORIZED, "wrong_token", "this is not the token")
        return json_answer({"ok": True}, headers={"Set-Cookie": self._cookie(request, self._session(), SESSION_SECONDS)})

    def end_session(self, request: Request) -> Answer:
        """Have the browser forget it."""
        return json_answer({"ok": True}, headers={"Set-Cookie": self._cookie(request, "", 0)})

    def _is_token(self, shown: str, request: Request) -> bool:
        assert self._secret is not None
        address = str(request.environ.get("REMOTE_ADDR", "?"))
        now = self._clock()
        with self._lock:
            since, wrong = self._wrong.get(address, (now, 0))
            if now - since > _MINUTE:
                since, wrong = now, 0
            if wrong >= _MOST_WRONG:
                raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, "too_many", "too many wrong tokens: wait a minute")
            # Digests of one length: the comparison tells nothing, not even how long the token is.
            digest = hashlib.sha256(b"fireforget dashboard\0" + shown.encode("utf-8", "replace")).digest()
            if hmac.compare_digest(digest, self._secret):
                return True
            self._wrong.pop(address, None)
            self._wrong[address] = (since, wrong + 1)
            if len(self._wrong) > _MOST_ADDRESSES:
                del self._wrong[next(iter(self._wrong))]
        return False

    def _session(self) -> str:
        expires = str(int(self._clock()) + SESSION_SECONDS)
        return f"{expires}.{self._sign('session ' + expires)}"

    def _is_session(self, request: Request) -> bool:
        try:
            morsel = SimpleCookie(request.header("Cookie") or "").get(self._cookie_name())
        except CookieError:
            return False
        expires, _, signature = ("" if morsel is None else morsel.value).partition(".")
        right = hmac.compare_digest(signature.encode("utf-8", "replace"), self._sign("session " + expires).encode("ascii"))
        return right and expires.isdecimal() and float(expires) > self._clock()

    def _sign(self, text: str) -> str:
        return hmac.new(self._secret or b"", text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    def _cookie_name(self) -> str:
        """Return a name of this token's own: cookies know no ports, and another dashboard may be on the same machine."""
        return f"fireforget_{self._sign('name')[:8]}"

    def _cookie(self, request: Request, value: str, seconds: int) -> str:
        secure = "; Secure" if request.environ.get("wsgi.url_scheme") == "https" else ""
        path = request.mount or "/"
        return f"{self._cookie_name()}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"


def _authority(origin: str) -> str | None:
    """Return the host and port of an origin, in lower case; None for what is no origin."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _host_name(host: str) -> str:
    """Return a Host header without its port, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    name, _, port = host.rpartition(":")
    return (name if name and port.isdecimal() else host).lower().rstrip(".")


def _is_own_name(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
