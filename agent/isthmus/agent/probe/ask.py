"""Asking an application once. Each question returns nothing when all is well, and raises NotWellError with the reason else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from isthmus.agent.probe.config import Action, ExecAction, GrpcAction, HttpGetAction, TcpSocketAction

MAX_READ = 10 * 1024
"""Bytes of an answer or of a command's output that are read."""

SHOWN = 200
"""Characters of them that a reason repeats."""

LINGER = 0.05
"""Seconds that a command's output may stay open after its end."""

ENVIRONMENT = ("PATH", "HOME", "USER", "LANG", "TZ")
"""What a command gets of the agent's environment, in which there may be tokens."""

STATUS = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
"""https://github.com/grpc/grpc/blob/master/doc/health-checking.md"""


class NotWellError(Exception):
    """The application is not well, or does not say so in time; with the reason, for an operator."""


async def ask(action: Action, within: float) -> None:
    """Ask once, for at most `within` seconds.

    Raises:
        NotWellError: it is not well.

    """
    match action:
        case HttpGetAction():
            asked = f"GET {action.scheme.lower()}://{_host(action.host)}:{action.port}{action.path}"
            asking = _http(action)
        case TcpSocketAction():
            asked, asking = f"tcp {_host(action.host)}:{action.port}", _tcp(action)
        case GrpcAction():
            of = f" ({action.service})" if action.service else ""
            asked, asking = f"grpc {_host(action.host)}:{action.port}{of}", _grpc(action)
        case ExecAction():
            asked, asking = f"exec {action.command[0]}", _exec(action)
    try:
        async with asyncio.timeout(within):
            await asking
    except TimeoutError:
        raise NotWellError(f"{asked}: no answer within {within:g} s") from None
    except NotWellError as e:
        raise NotWellError(f"{asked}: {e}") from None
    except OSError as e:
        raise NotWellError(f"{asked}: {e.strerror or e}") from None
    except aiohttp.ClientError as e:
        raise NotWellError(f"{asked}: {str(e) or type(e).__name__}") from None


async def _http(action: HttpGetAction) -> None:
    headers = {"User-Agent": "isthmus-probe", "Accept": "*/*"} | {h.name: h.value for h in action.http_headers}
    url = f"{action.scheme.lower()}://{_host(action.host)}:{action.port}{action.path}"
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False) as session,
        session.get(url, headers=headers, allow_redirects=False, ssl=False) as response,
    ):
        body = await response.content.read(MAX_READ)
        if not 200 <= response.status < 400:
            raise NotWellError(f"{response.status} {_shown(body)}".strip())


async def _tcp(action: TcpSocketAction) -> None:
    _, writer = await asyncio.open_connection(action.host, action.port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _grpc(action: GrpcAction) -> None:
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0))
    async with grpc.aio.insecure_channel(f"{_host(action.host)}:{action.port}", options=options) as channel:
        # HealthCheckRequest and HealthCheckResponse have one field, number 1: text and an enumeration. So have these two.
        check: grpc.aio.UnaryUnaryMultiCallable[StringValue, Int32Value] = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )
        try:
            answer = await check(StringValue(value=action.service))
        except grpc.aio.AioRpcError as e:
            raise NotWellError(f"{e.code().name} {' '.join((e.details() or '')[:SHOWN].split())}".strip()) from None
        if answer.value != STATUS.index("SERVING"):
            raise NotWellError(STATUS[answer.value] if 0 <= answer.value < len(STATUS) else f"status {answer.value}")


async def _exec(action: ExecAction) -> None:
    """Run the command in a session, and so a group, of its own: what it has started ends with it."""
    ours, its = os.pipe()
    with os.fdopen(ours, "rb", 0) as output, os.fdopen(its, "wb", 0) as printing:
        reader = asyncio.StreamReader()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), output
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *action.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=printing,
                stderr=printing,
                start_new_session=True,
                cwd=Path("/"),
                env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
            )
            printing.close()
            status, said = await _ended(process, reader)
        finally:
            pipe.close()
    if status:
        how = f"exit status {status}" if status > 0 else f"ended by signal {-status}"
        raise NotWellError(f"{how} {_shown(said)}".strip())


async def _ended(process: asyncio.subprocess.Process, reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Its status and the beginning of what it printed. Whatever happens, nothing of its group is left."""
    reading = asyncio.create_task(_output(reader))
    try:
        status = await process.wait()
        await asyncio.wait([reading], timeout=LINGER)
    finally:
        if not reading.done():
            # It runs, or has left somebody behind that holds its output open, and whom nobody else would end.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.wait([reading], timeout=LINGER)
            reading.cancel()
        await asyncio.gather(process.wait(), reading, return_exceptions=True)
    return status, b"" if reading.cancelled() else reading.result()


async def _output(reader: asyncio.StreamReader) -> bytes:
    """The beginning of what it prints; the rest is read too, so that it does not wait for a reader."""
    output = b""
    while chunk := await reader.read(MAX_READ):
        output += chunk[: MAX_READ - len(output)]
    return output


def _shown(said: bytes) -> str:
    return " ".join(said[: SHOWN * 4].decode(errors="replace").split())[:SHOWN]


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
