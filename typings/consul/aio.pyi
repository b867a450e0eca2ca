from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp

from consul import base

T = TypeVar("T")

class HTTPClient(base.HTTPClient):
    _session: aiohttp.ClientSession
    async def _request(
        self,
        callback: Callable[[base.Response], T],
        method: str,
        uri: str,
        headers: dict[str, str] | None,
        data: Any = ...,
        connections_timeout: float | None = ...,
        raw: bool = ...,
    ) -> T: ...
    def get(
        self,
        callback: Callable[[base.Response], T],
        path: str,
        params: list[tuple[str, str]] | None = ...,
        headers: dict[str, str] | None = ...,
        raw: bool = ...,
        connections_timeout: float | None = ...,
    ) -> Awaitable[T]: ...
    def close(self) -> Awaitable[None]: ...
