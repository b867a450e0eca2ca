"""Consul's keys as a store. The version of a key is its ModifyIndex; a folder is watched by blocking queries.

https://developer.hashicorp.com/consul/api-docs/kv
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncGenerator
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.connection import keepalive_socket, tls_context
from isthmus.registry.consul.config import ConsulConfig
from isthmus.registry.cursor import read_timeout, step
from isthmus.registry.kv.config import ConsulStoreConfig, folder
from isthmus.registry.kv.edge import UNCOUNTED, Entry, StoreError, View, check_count, check_key, check_value

MAX_BODY = 128 * 1024 * 1024
"""Bytes of one answer."""
ANSWER_WITHIN = 5.0
CONNECT_WITHIN = 3.0

_SUPERSEDED = "1"
"""An index that no key has."""


class _Pair(msgspec.Struct, frozen=True, rename="pascal"):
    key: str
    modify_index: int
    value: str | None = None


_pairs = msgspec.json.Decoder(list[_Pair])
_done = msgspec.json.Decoder(bool)


class _Answer(msgspec.Struct, frozen=True):
    status: int
    index: str
    body: bytes


class ConsulStore:
    """Keys below a prefix. `close()` it in the end."""

    def __init__(self, config: ConsulStoreConfig) -> None:
        self._config: ConsulConfig = config.connection()
        self._prefix = folder(config.prefix)
        self.where = f"consul at {config.address}"
        self._session: aiohttp.ClientSession | None = None

    async def get(self, key: str) -> Entry | None:
        """What a key has."""
        check_key(key)
        answer = await self._ask("GET", key, {})
        return next(iter(self._entries(key, answer, "").values()), None)

    async def read(self, folder: str, stats: ReadStats = UNCOUNTED) -> View:
        """Everything below a folder."""
        check_key(folder)
        return (await self._read(folder, 0, stats))[0]

    async def watch(self, folder: str, stats: ReadStats = UNCOUNTED) -> AsyncGenerator[View, None]:
        """Everything below a folder, at first and whenever it differs."""
        check_key(folder)
        shown, index = await self._read(folder, 0, stats)
        yield shown
        while True:
            view, answered = await self._read(folder, index, stats)
            after = step(index, answered)
            if after.went_back:
                raise StoreError(
                    f"store {self.where}: {folder}: its index went back from {index} to {answered}: a backup was restored, "
                    "and everything is read again"
                )
            index = after.index
            if view.entries != shown.entries:
                shown = view
                stats.wake_up()
                yield view

    async def put(self, key: str, value: bytes, expected: str) -> str | None:
        """Write a key that has the expected version."""
        check_key(key)
        check_value(self.where, key, value)
        if not await self._change("PUT", key, expected or "0", value):
            return None
        # The answer does not tell the index. Who has changed the key since has done so to what is written here.
        written = await self.get(key)
        return written.version if written is not None and written.value == value else _SUPERSEDED

    async def delete(self, key: str, expected: str) -> bool:
        """Delete a key that has the expected version."""
        check_key(key)
        if expected in ("", "0"):
            return False
        before = await self.get(key)  # Consul says that it deleted what was not there
        return before is not None and before.version == expected and await self._change("DELETE", key, expected)

    async def close(self) -> None:
        """End every connection."""
        if self._session is not None:
            await self._session.close()

    async def _read(self, folder: str, index: int, stats: ReadStats) -> tuple[View, int]:
        wait = self._config.heartbeat if index else 0.0
        options = {"recurse": ""} | ({"index": str(index), "wait": f"{int(wait * 1000)}ms"} if index else {})
        try:
            answer = await self._ask(
                "GET", f"{folder}/", options, within=read_timeout(wait) if index else ANSWER_WITHIN
            )
            answered = self._index(folder, answer)
            entries = self._entries(folder, answer, f"{self._prefix}{folder}/")
        except StoreError:
            stats.failed()
            raise
        stats.read()
        stats.alive()
        check_count(self.where, folder, len(entries))
        return View(entries, answer.index), answered

    def _index(self, folder: str, answer: _Answer) -> int:
        if not (answer.index.isascii() and answer.index.isdigit()):
            raise StoreError(f"store {self.where}: {folder}: no X-Consul-Index in the answer; is this Consul?")
        return int(answer.index)

    def _entries(self, key: str, answer: _Answer, prefix: str) -> dict[str, Entry]:
        if answer.status == 404:
            return {}
        try:
            return {
                pair.key.removeprefix(prefix): Entry(base64.b64decode(pair.value or ""), str(pair.modify_index))
                for pair in _pairs.decode(answer.body)
                if pair.key != prefix
            }
        except (msgspec.DecodeError, ValueError) as e:
            raise StoreError(f"store {self.where}: {key}: the answer is not what Consul documents: {e}") from None

    async def _change(self, method: str, key: str, expected: str, value: bytes | None = None) -> bool:
        answer = await self._ask(method, key, {"cas": expected}, value)
        try:
            return _done.decode(answer.body)
        except msgspec.DecodeError as e:
            raise StoreError(f"store {self.where}: {key}: the answer is not what Consul documents: {e}") from None

    async def _ask(
        self,
        method: str,
        key: str,
        options: dict[str, str],
        value: bytes | None = None,
        within: float = ANSWER_WITHIN,
    ) -> _Answer:
        config = self._config
        about = {"dc": config.datacenter, "ns": config.namespace, "partition": config.partition}
        params = {name: said for name, said in about.items() if said} | options
        query = "&".join(f"{name}={quote(said, safe='')}" if said else name for name, said in params.items())
        url = f"{config.address.rstrip('/')}/v1/kv/{quote(self._prefix + key)}{'?' if query else ''}{query}"
        asked = f"store {self.where}: {method} {key}"
        try:
            async with self._connected().request(
                method,
                URL(url, encoded=True),
                data=value,
                headers={"X-Consul-Token": config.token} if config.token else None,
                allow_redirects=False,  # the token goes to nobody else
                server_hostname=config.tls_server_name or None,
                timeout=aiohttp.ClientTimeout(total=within, sock_connect=CONNECT_WITHIN),
            ) as response:
                body = await self._body(response, asked)
                if response.status not in (200, 404) or (response.status == 404 and method != "GET"):
                    raise StoreError(f"{asked}: {self._refusal(response.status, body)}")
                return _Answer(response.status, response.headers.get("X-Consul-Index", ""), body)
        except TimeoutError:
            raise StoreError(f"{asked}: no answer within {within:.1f} s") from None
        except (aiohttp.ClientError, OSError, ssl.SSLError) as e:
            raise StoreError(f"{asked}: {str(e) or type(e).__name__}") from e

    async def _body(self, response: aiohttp.ClientResponse, asked: str) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MAX_BODY:
                raise StoreError(f"{asked}: the answer is larger than {MAX_BODY >> 20} MiB")
        return bytes(body)

    def _refusal(self, status: int, body: bytes) -> str:
        said = " ".join(body[:300].decode(errors="replace").split())
        if self._config.token:
            said = said.replace(self._config.token, "***")
        needed = f" (the token needs key_prefix {self._prefix!r} with policy write)" if status == 403 else ""
        return f"{status} {said}{needed}"

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            secure = self._config.address.startswith("https://")
            try:
                context = tls_context(self._config, self.where) if secure else True
            except AdapterError as e:
                raise StoreError(f"store {e}") from None
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=16, ssl=context, socket_factory=keepalive_socket),
                headers={"Accept-Encoding": "identity", "User-Agent": "isthmus"},
            )
        return self._session
