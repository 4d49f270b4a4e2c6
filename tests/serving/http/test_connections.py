from __future__ import annotations

import asyncio
import socket

from serving.http.connections import accept_one_at_a_time


def test_a_server_takes_one_connection_a_tick_and_all_in_the_end() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        batches: list[int] = []
        accept = loop._accept_connection  # type: ignore[attr-defined]
        loop._accept_connection = lambda f, s, c, v, backlog, *more: (
            batches.append(backlog),
            accept(f, s, c, v, backlog, *more),
        )  # type: ignore[attr-defined]
        accept_one_at_a_time(loop)
        answered: list[int] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            answered.append(1)
            writer.write(b"hello")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=100)
        address = server.sockets[0].getsockname()
        clients = [socket.create_connection(address) for _ in range(10)]
        for _ in range(100):
            await asyncio.sleep(0.01)
            if len(answered) == 10:
                break
        for client in clients:
            assert client.recv(5) == b"hello"
            client.close()
        assert set(batches) == {1}
        server.close()

    asyncio.run(main())


def test_another_kind_of_loop_is_left_alone() -> None:
    class Loop:
        pass

    loop = Loop()
    accept_one_at_a_time(loop)  # type: ignore[arg-type]
    assert vars(loop) == {}
