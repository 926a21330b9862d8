"""``python -m unimq_contract.brokers.kafka_mock_front LIBRARY PORT OTHER ANNOUNCED``: librdkafka's mock behind a front.

Requests go through to the mock, except those of administration, which it does not know: these are answered here, by
the mock's own functions. Answers that name the mock's address name the front's instead, which listens at two ports; at
the second one they name a third, where a proxy may be. All is in one event loop.
"""

import asyncio
import contextlib
import ctypes
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from .kafka_mock_wire import Reader, compact_array, compact_string, string

HOST = "127.0.0.1"
NODE = 1
DEFAULT_PARTITIONS = 4
METADATA_WITH_TAGS, OFFSET_FETCH_WITH_TAGS = 9, 6
"""The first versions that are written with tagged fields; the client speaks these or newer ones."""
METADATA, OFFSET_COMMIT, OFFSET_FETCH, FIND_COORDINATOR, API_VERSIONS = 3, 8, 9, 10, 18
HEARTBEAT, LEAVE_GROUP, GROUP_HEARTBEAT = 12, 13, 68
DESCRIBE_GROUPS, LIST_GROUPS, CREATE_TOPICS, DELETE_TOPICS, DESCRIBE_CONFIGS, DELETE_GROUPS = 15, 16, 19, 20, 32, 42
ANSWERED = {
    DESCRIBE_GROUPS: 4,
    LIST_GROUPS: 2,
    CREATE_TOPICS: 4,
    DELETE_TOPICS: 1,
    DESCRIBE_CONFIGS: 1,
    DELETE_GROUPS: 1,
}
"""Requests that the mock does not know, and their newest versions here: the last ones without tagged fields."""
UNKNOWN_TOPIC, INVALID_REPLICATION_FACTOR, NON_EMPTY_GROUP, NO_SUCH_GROUP = 3, 38, 68, 69
LARGEST = 104_857_600
MAX_MESSAGE_BYTES = 1_048_588
SESSION = 6.0
"""Seconds without a word after which a member counts as gone; the mock has its own clock for it."""
HEARTBEAT_MS = 100


Answer: TypeAlias = Callable[[Reader, int], bytes]
"""From the body of a request and its version to the body of the answer."""


class Mock:
    """One node of the mock, by its C functions."""

    def __init__(self, library: str) -> None:
        self._c = ctypes.CDLL(library)
        for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
            getattr(self._c, name).restype = ctypes.c_void_p
        self._c.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        error = ctypes.create_string_buffer(256)
        settings = ctypes.c_void_p(self._c.rd_kafka_conf_new())
        self._c.rd_kafka_conf_set(settings, b"log_level", b"0", error, 256)
        handle = self._c.rd_kafka_new(0, settings, error, 256)
        if not handle:
            raise RuntimeError(error.value.decode())
        self._cluster = ctypes.c_void_p(self._c.rd_kafka_mock_cluster_new(ctypes.c_void_p(handle), 1))
        self._c.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        self._c.rd_kafka_mock_set_group_consumer_heartbeat_interval_ms(self._cluster, HEARTBEAT_MS)
        self._c.rd_kafka_mock_set_group_consumer_session_timeout_ms(self._cluster, int(SESSION * 1000))
        address: bytes = self._c.rd_kafka_mock_cluster_bootstraps(self._cluster)
        self.port = int(address.decode().partition(",")[0].rpartition(":")[2])

    def create(self, topic: str, partitions: int) -> int:
        """Make a topic; returns the code of an error."""
        return int(self._c.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1))

    def delete(self, topic: str) -> int:
        """Delete a topic with what its groups have committed; returns the code of an error."""
        return int(self._c.rd_kafka_mock_topic_delete(self._cluster, topic.encode()))


class Front:
    """Answers, and what they need to know. The event loop's alone."""

    def __init__(self, mock: Mock) -> None:
        self._mock = mock
        self._settings: dict[str, dict[str, str]] = {}
        """Of topics, as given at their creation."""
        self._partitions: dict[str, int] = {}
        """Of topics that were made here."""
        self._groups: dict[str, dict[str, float]] = {}
        """Members of each group that committed or has members, with when they were heard last."""
        self._answers: dict[int, Answer] = {
            DESCRIBE_GROUPS: self._describe_groups,
            LIST_GROUPS: self._list_groups,
            CREATE_TOPICS: self._create_topics,
            DELETE_TOPICS: self._delete_topics,
            DESCRIBE_CONFIGS: self._describe_configs,
            DELETE_GROUPS: self._delete_groups,
        }

    async def serve(self, announced: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Be between one client and the mock until either is gone; the client is told this port."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            theirs, to_mock = await asyncio.open_connection(HOST, self._mock.port, limit=LARGEST)
            asked: dict[int, tuple[int, int]] = {}
            back = asyncio.create_task(self._back(theirs, writer, asked, announced))
            try:
                while True:
                    await self._forward(await _frame(reader), writer, to_mock, asked)
            finally:
                back.cancel()
                to_mock.close()
                writer.close()

    async def _forward(
        self,
        request: bytes,
        writer: asyncio.StreamWriter,
        to_mock: asyncio.StreamWriter,
        asked: dict[int, tuple[int, int]],
    ) -> None:
        api, version, number = struct.unpack_from(">hhi", request)
        answer = self._answers.get(api)
        if answer is not None:
            body = Reader(request, 8)
            body.string()
            writer.write(_framed(struct.pack(">i", number) + answer(body, version)))
            await writer.drain()
            return
        if api in {API_VERSIONS, METADATA, FIND_COORDINATOR}:
            asked[number] = api, version
        self._take_note(api, version, request)
        if api == OFFSET_FETCH and version >= OFFSET_FETCH_WITH_TAGS:
            request = self._of_all_topics(request)
        to_mock.write(_framed(request))
        await to_mock.drain()

    async def _back(
        self,
        theirs: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        asked: dict[int, tuple[int, int]],
        announced: int,
    ) -> None:
        try:
            while True:
                answer = await _frame(theirs)
                api, version = asked.pop(int.from_bytes(answer[:4], signed=True), (-1, 0))
                if api == API_VERSIONS:
                    answer = _with_versions(answer, version)
                elif api >= 0:
                    answer = answer.replace(_address(self._mock.port), _address(announced))
                    if api == METADATA and version >= METADATA_WITH_TAGS:
                        answer = _with_controller(answer)
                writer.write(_framed(answer))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    # Groups.

    def _take_note(self, api: int, version: int, request: bytes) -> None:
        """Notice who is a member of what, as the mock does not tell."""
        if api not in {OFFSET_COMMIT, HEARTBEAT, LEAVE_GROUP, GROUP_HEARTBEAT}:
            return
        body = Reader(request, 8)
        body.string()
        flexible = version >= {OFFSET_COMMIT: 8, HEARTBEAT: 4, LEAVE_GROUP: 4, GROUP_HEARTBEAT: 0}[api]
        if flexible:
            body.tags()
        text = body.compact_string if flexible else body.string
        members = self._groups.setdefault(text() or "", {})
        if api == OFFSET_COMMIT:
            return
        epoch = body.int32() if api == HEARTBEAT else 0
        if api == LEAVE_GROUP and version >= 3:
            # Several members; librdkafka does not speak this version.
            return
        member = text() or ""
        if api == GROUP_HEARTBEAT:
            epoch = body.int32()
        if api == LEAVE_GROUP or epoch < 0:
            members.pop(member, None)
        else:
            members[member] = time.monotonic()

    def _of_all_topics(self, request: bytes) -> bytes:
        """Name all topics where a client asks for all by naming none, which the mock takes for none."""
        body = Reader(request, 8)
        body.string()
        body.tags()
        body.compact_string()
        if request[body.at]:
            return request
        topics = [
            compact_string(name) + compact_array([struct.pack(">i", number) for number in range(count)]) + b"\0"
            for name, count in self._partitions.items()
        ]
        return request[: body.at] + compact_array(topics) + request[body.at + 1 :]

    def _members(self, group: str) -> list[str]:
        limit = time.monotonic() - SESSION
        return [member for member, heard in self._groups.get(group, {}).items() if heard >= limit]

    def _everything(self) -> bytes:
        """Return an assignment of all there is: who has what is the mock's secret, and nobody is to wait for it."""
        topics = [
            string(name) + _array([struct.pack(">i", number) for number in range(count)])
            for name, count in self._partitions.items()
        ]
        return struct.pack(">h", 0) + _array(topics) + struct.pack(">i", -1)

    def _describe_groups(self, body: Reader, version: int) -> bytes:
        def described(group: str) -> bytes:
            members = self._members(group)
            state = "Stable" if members else "Empty" if group in self._groups else "Dead"
            entry = struct.pack(">h", 0) + string(group) + string(state) + string("consumer") + string("range")
            entry += struct.pack(">i", len(members))
            for member in members:
                instance = string(None) if version >= 4 else b""
                entry += string(member) + instance + string("unimq") + string(HOST) + struct.pack(">i", 0)
                entry += _framed(self._everything())
            return entry + (struct.pack(">i", -(2**31)) if version >= 3 else b"")

        groups = [described(body.string() or "") for _ in body.array()]
        return (_THROTTLE if version >= 1 else b"") + _array(groups)

    def _list_groups(self, body: Reader, version: int) -> bytes:
        groups = [string(group) + string("consumer") for group in self._groups]
        return (_THROTTLE if version >= 1 else b"") + struct.pack(">h", 0) + _array(groups)

    def _delete_groups(self, body: Reader, version: int) -> bytes:
        def deleted(group: str) -> bytes:
            if group not in self._groups:
                return string(group) + struct.pack(">h", NO_SUCH_GROUP)
            if self._members(group):
                return string(group) + struct.pack(">h", NON_EMPTY_GROUP)
            del self._groups[group]
            return string(group) + struct.pack(">h", 0)

        return _THROTTLE + _array([deleted(body.string() or "") for _ in body.array()])

    # Topics.

    def _create_topics(self, body: Reader, version: int) -> bytes:
        results: list[bytes] = []
        for _ in body.array():
            name, partitions, replication = body.string() or "", body.int32(), body.int16()
            for _ in body.array():
                body.int32()
                for _ in body.array():
                    body.int32()
            settings = {body.string() or "": body.string() or "" for _ in body.array()}
            if replication > 1:
                error, why = INVALID_REPLICATION_FACTOR, "replication factor larger than available brokers: 1"
            else:
                partitions = partitions if partitions > 0 else DEFAULT_PARTITIONS
                error, why = self._mock.create(name, partitions), None
            if not error:
                self._settings[name], self._partitions[name] = settings, partitions
            results.append(string(name) + struct.pack(">h", error) + (string(why) if version >= 1 else b""))
        return (_THROTTLE if version >= 2 else b"") + _array(results)

    def _delete_topics(self, body: Reader, version: int) -> bytes:
        def deleted(name: str) -> bytes:
            self._settings.pop(name, None)
            self._partitions.pop(name, None)
            return string(name) + struct.pack(">h", UNKNOWN_TOPIC if self._mock.delete(name) else 0)

        return (_THROTTLE if version >= 1 else b"") + _array([deleted(body.string() or "") for _ in body.array()])

    def _describe_configs(self, body: Reader, version: int) -> bytes:
        def entry(name: str, value: str) -> bytes:
            source, synonyms = (b"\x05", struct.pack(">i", 0)) if version >= 1 else (b"\0", b"")
            return string(name) + string(value) + b"\0" + source + b"\0" + synonyms

        results: list[bytes] = []
        for _ in body.array():
            kind, name = body.int8(), body.string() or ""
            for _ in body.array():
                body.string()
            settings = {"max.message.bytes": str(MAX_MESSAGE_BYTES), **self._settings.get(name, {})}
            if kind == _BROKER:
                protocols = {"group.coordinator.rebalance.protocols": "classic,consumer"}
                settings = {"message.max.bytes": str(MAX_MESSAGE_BYTES), **protocols}
            entries = _array([entry(each, value) for each, value in settings.items()])
            results.append(struct.pack(">h", 0) + string(None) + struct.pack(">b", kind) + string(name) + entries)
        return _THROTTLE + _array(results)


_THROTTLE = struct.pack(">i", 0)
_BROKER = 4
"""The kind of thing that the settings of a broker are."""


def _array(entries: list[bytes]) -> bytes:
    return struct.pack(">i", len(entries)) + b"".join(entries)


def _framed(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


async def _frame(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4)))


def _with_versions(answer: bytes, version: int) -> bytes:
    """Add what is answered here to what the mock says that it knows."""
    number, error, count = struct.unpack_from(">ihi", answer)
    if error or version > 2:
        return answer
    end = 10 + 6 * count
    more = b"".join(struct.pack(">hhh", api, 0, newest) for api, newest in ANSWERED.items())
    return struct.pack(">ihi", number, error, count + len(ANSWERED)) + answer[10:end] + more + answer[end:]


def _with_controller(answer: bytes) -> bytes:
    """Name the node as the controller: the mock names none, and clients would wait for it for ever."""
    body = Reader(answer, 4)
    body.tags()
    body.int32()
    for _ in body.compact_array():
        body.int32()
        body.compact_string()
        body.int32()
        body.compact_string()
        body.tags()
    body.compact_string()
    return answer[: body.at] + struct.pack(">i", NODE) + answer[body.at + 4 :]


def _address(port: int) -> bytes:
    """Return how answers name a broker, in all versions: the length before the host differs."""
    return HOST.encode() + struct.pack(">i", port)


async def _main(library: str, port: int, other: int, announced: int) -> None:
    front = Front(Mock(library))
    async with (
        await asyncio.start_server(partial(front.serve, port), HOST, port, limit=LARGEST) as server,
        await asyncio.start_server(partial(front.serve, announced), HOST, other, limit=LARGEST),
    ):
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], *map(int, sys.argv[2:])))
