"""The real world: asyncio, sockets and files around the shared core."""
