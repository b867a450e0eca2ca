"""Registries that are spoken to by HTTP: one connection at a time, the next server when one does not answer."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import aiohttp
import msgspec
from yarl import URL

from isthmus.agent.registration.place import RegistrationError
from isthmus.registry.adapter import AdapterError
from isthmus.registry.connection import TLSFields, keepalive_socket, tls_context

WITHIN = 5.0
"""Seconds for one answer; a frozen server is given up after them."""

CONNECT_WITHIN = 3.0

MAX_BODY = 1024 * 1024
"""Bytes of one answer; those that are read here have a few thousand."""

AT_ONCE = 8
"""Connections."""

SHOWN = 300

T = TypeVar("T")


class Answer(msgspec.Struct, frozen=True):
    """What a server said; `where` begins an error about it."""

    where: str
    status: int
    body: bytes

    def read(self, decoder: msgspec.json.Decoder[T]) -> T:
        """The body as what it should be.

        Raises:
            RegistrationError: it is something else.

        """
        try:
            return decoder.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise RegistrationError(
                f"{self.where}: {self.status}, and the answer is not what is documented: {e}"
            ) from None


class Servers:
    """The servers of one registry, of which any will do."""

    def __init__(
        self, what: str, addresses: Sequence[str], tls: TLSFields, headers: Mapping[str, str], tls_server_name: str = ""
    ) -> None:
        self._what = what
        self._addresses = [a.rstrip("/") for a in addresses]
        self._tls = tls
        self._headers = {"Accept": "application/json", "User-Agent": "isthmus-agent", **headers}
        self._server_name = tls_server_name or None
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        """What it is, and the server in use."""
        return f"{self._what} at {self._addresses[0]}"

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        expected: Collection[int] = (200,),
    ) -> Answer:
        """One request, of the first server that answers it with a status that is expected. `path` is quoted already.

        Raises:
            RegistrationError: none does.

        """
        content = None if body is None else msgspec.json.encode(body)
        failed: list[str] = []
        for _ in range(len(self._addresses)):
            address = self._addresses[0]
            try:
                answer = await self._ask(method, address, path, query or {}, content)
            except RegistrationError as e:
                failed.append(str(e))
            else:
                if answer.status in expected:
                    return answer
                failed.append(_refusal(answer))
                if answer.status < 500:
                    break  # it is about what we ask, or who we are: another server would say the same
            if address == self._addresses[0]:  # else another request has found it out before
                self._addresses.append(self._addresses.pop(0))
        raise RegistrationError("; ".join(failed))

    async def _ask(
        self, method: str, address: str, path: str, query: Mapping[str, str], content: bytes | None
    ) -> Answer:
        where = f"{self._what} at {address}: {method} {path}"
        url = URL(address + path, encoded=True).with_query(dict(query))
        try:
            async with self._open().request(
                method,
                url,
                data=content,
                headers={"Content-Type": "application/json"} if content is not None else None,
                allow_redirects=False,  # the token goes to nobody else
                server_hostname=self._server_name,
            ) as response:
                said = bytearray()
                async for chunk in response.content.iter_any():
                    said += chunk
                    if len(said) > MAX_BODY:
                        raise RegistrationError(f"{where}: the answer is larger than {MAX_BODY // 1024} KiB")
                return Answer(where, response.status, bytes(said))
        except TimeoutError:
            raise RegistrationError(f"{where}: no answer within {WITHIN:g} s") from None
        except (aiohttp.ClientError, OSError, ssl.SSLError) as e:
            raise RegistrationError(f"{where}: {str(e) or type(e).__name__}") from None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            secure = any(a.startswith("https:") for a in self._addresses)
            try:
                context = tls_context(self._tls, self.name) if secure else True
            except AdapterError as e:
                raise RegistrationError(str(e)) from None
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=AT_ONCE, ssl=context, socket_factory=keepalive_socket),
                timeout=aiohttp.ClientTimeout(total=WITHIN, sock_connect=CONNECT_WITHIN),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _refusal(answer: Answer) -> str:
    said = " ".join(answer.body[:SHOWN].decode(errors="replace").split())
    text = f"{answer.where}: {answer.status} {said}".rstrip()
    if answer.status == 401:
        text += " (the token, or user and password, are wrong or missing)"
    elif 300 <= answer.status < 400:
        text += ": a redirection, which is not followed; is the address right?"
    return text
