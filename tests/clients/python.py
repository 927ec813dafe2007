"""Python's `websockets`. Its parameters stand in the environment; see `tests/tests/clients.rs`."""

import asyncio
import json
import os
import urllib.request

import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

SERVICE, PROXY, TOKEN, TERMINATE = (os.environ[f"AIHUB_{name}"] for name in ("SERVICE", "PROXY", "TOKEN", "TERMINATE"))
CHAT = {
    "id": "a", "type": "chat", "provider": "openai", "model": "gpt-6-luna", "stream": True, "maxTokens": 100,
    "prompt": "Warum ist der Himmel über Köln blau?",
}


def must(holds, what, seen):
    if not holds:
        raise AssertionError(f"{what}: {seen}")


def connecting(address, token=TOKEN):
    return websockets.connect(f"ws://{address}/mcp", additional_headers={"authorization": f"Bearer {token}"})


async def connect(address):
    """A socket, and the `ready` that it began with."""
    socket = await connecting(address)
    ready = json.loads(await socket.recv())
    must(ready["type"] == "ready", "the first frame", ready)
    return socket, ready


async def send(socket, frame):
    await socket.send(json.dumps(frame))


async def read(socket, answer):
    """Adds the chunks of `a` to `answer`, without a gap and none twice, until its end or the socket's, which is `None`."""
    try:
        async for text in socket:
            frame = json.loads(text)
            if frame["type"] != "chunk":
                return frame
            nth = len(answer["chunks"]) + 1
            must((frame["id"], frame["seq"]) == ("a", nth), f"chunk {nth}", frame)
            answer.setdefault("requestId", frame.get("requestId"))
            answer["chunks"].append(frame["data"])
    except ConnectionClosed as cut:
        # It ended without a word.
        must(cut.rcvd is None and answer["chunks"], "a cut in the midst of an answer", cut)
    return None


async def refused(address):
    try:
        await connecting(address, "bad")
    except InvalidStatus as refusal:
        return refusal.response.status_code
    raise AssertionError("a bad token was taken")


async def closed(socket):
    """The code and the reason; everything before is passed over."""
    try:
        while True:
            await socket.recv()
    except ConnectionClosed as end:
        must(end.rcvd, "a close", end)
        return end.rcvd.code, end.rcvd.reason


async def run():
    # It streams.
    client, ready = await connect(SERVICE)
    whole = {"chunks": []}
    await send(client, CHAT)
    done = await read(client, whole)
    must(done and done["type"] == "done", "the end of a stream", done)
    must("köln" in "".join(whole["chunks"]), "what was said", whole)

    # What is long comes shorter, where both sides can.
    texts = [f"text {nth}" for nth in range(20)]
    await send(client, {"id": "e", "type": "embedding", "provider": "openai", "model": "text-embedding-3-small", "input": texts})
    embedded = json.loads(await client.recv())
    must(len(embedded["data"]) == len(texts), "an embedding", embedded["type"])
    deflated = any("Deflate" in type(extension).__name__ for extension in client.protocol.extensions)

    # It is cut in the midst of an answer, twice, and goes on where it was.
    parts, resumed, ask, connection_id = {"chunks": []}, [], CHAT, None
    while True:
        cut, its_ready = await connect(PROXY)
        connection_id = connection_id or its_ready["connectionId"]
        await send(cut, ask)
        end = await read(cut, parts)
        if end:
            must(end["type"] == "done" and end["metadata"]["requestId"] == parts["requestId"], "the same answer", end)
            await cut.close()
            break
        name = {"connectionId": connection_id} if resumed else {"requestId": parts["requestId"]}
        ask = {"type": "resume", "id": "a", "after": len(parts["chunks"]), **name}
        resumed.append(ask["after"])
    must("".join(parts["chunks"]) == "".join(whole["chunks"]), "what was said in parts", parts)

    # It is refused, by the status of the upgrade and by a frame after which the socket lives.
    status = await refused(SERVICE)
    await send(client, {"id": "b", "type": "sing"})
    error = json.loads(await client.recv())
    must(error["type"] == "error" and error["id"] == "b", "an error", error)
    await send(client, {"type": "ping"})
    pong = json.loads(await client.recv())
    must(pong["type"] == "pong", "a sign of life", pong)

    # It is closed, for its own faults and because the service ends.
    ends = []
    try:
        await client.send("x" * (ready["limits"]["maxFrameBytes"] + 1))
    except ConnectionClosed:
        pass  # Before all of it was sent.
    ends.append(await closed(client))
    malformed, _ = await connect(SERVICE)
    for _ in range(ready["limits"]["malformedFramesAllowed"] + 1):
        await malformed.send("{")
    ends.append(await closed(malformed))
    last, _ = await connect(SERVICE)
    await asyncio.to_thread(urllib.request.urlopen, urllib.request.Request(TERMINATE, method="POST"))
    ends.append(await closed(last))

    return {
        "client": f"websockets {websockets.__version__}",
        "deflated": deflated,
        "streamed": len(whole["chunks"]),
        "resumed": resumed,
        "whole": len(parts["chunks"]),
        "refused": status,
        "error": error["error"]["code"],
        "closed": {str(code): reason for code, reason in ends},
    }


print(json.dumps(asyncio.run(run())))
