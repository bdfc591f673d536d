"""A seat: which of the journal's servers a server is, as it says itself.

    onhand:server    {"format":1,"cluster_id":"5f0c…","servers":2,"server":1,"shards":8} 1b2c3d4e

Shard `k` lives on server `k mod n`, so n servers that are named in another order, or one of them
left out, would be journals of other shards: a shard that is not found is begun anew, and its stock
is zero. Therefore each server is told once who it is, before anything is claimed, and every
connection asks it first. The checksum at the end is there because the server's files have none.

An installation on one server may be older than this word: there its absence is no news. Where there
are several, a server that has none is another one, or was emptied, and nothing is asked of it.
"""

from typing import Final
from zlib import crc32

import msgspec
from msgspec import Struct

KEY: Final = b"onhand:server"
FORMAT: Final = 1


class SeatError(Exception):
    """It is not the server that it is taken for; the message says what it is."""


class Seat(Struct, frozen=True, forbid_unknown_fields=True):
    """Server number `server` of `servers`, for the `shards` shards of one installation.

    `cluster_id` may be empty: not known.
    """

    cluster_id: str
    servers: int
    server: int
    shards: int
    format: int = FORMAT

    def encode(self) -> bytes:
        """As it stands on the server."""
        text = msgspec.json.encode(self)
        return b"%b %08x" % (text, crc32(text))

    @staticmethod
    def decode(data: bytes) -> "Seat":
        """Raises SeatError."""
        text, _, checksum = data.rpartition(b" ")
        if checksum != b"%08x" % crc32(text):
            raise SeatError(f"what it says of itself is damaged: {data!r:.200}")
        try:
            return msgspec.json.decode(text, type=Seat)
        except msgspec.MsgspecError as error:
            raise SeatError(f"what it says of itself is not understood: {error}") from error

    def check(self, said: bytes | None) -> None:
        """Raise SeatError if a server that says this of itself is not to sit here."""
        if said is None:
            if self.servers > 1:
                raise SeatError(f"it does not know that it is {self}; it is another, or emptied")
            return
        found = Seat.decode(said)
        known = self.cluster_id and found.cluster_id
        if known and self.cluster_id != found.cluster_id:
            raise SeatError(
                f"it is {found} of installation {found.cluster_id}, this is {self.cluster_id}"
            )
        if (found.servers, found.server, found.shards) != (self.servers, self.server, self.shards):
            raise SeatError(f"it is {found}, and was named as {self}")

    def __str__(self) -> str:
        return f"server {self.server} of {self.servers} for {self.shards} shards"
