"""A person who uses matrix-sdk and matrix-sdk-ui as Element X does (`rust/`), over sliding sync."""

import json
import os

from .line_person import LinePerson, verbs
from .wait import until_equal


@verbs("stop mark_unread favour room_list sync_state notification make_recovery_key recover is_verified")
class SdkPerson(LinePerson):
    kind = "sdk"

    def command(self):
        settings = {
            "url": self.url,
            "folder": str(self.folder / f"sdk-{self.label}"),
            "authority": str(self.server.authority_file),
        }
        return [os.environ["INGLE_SDK_PERSON"], json.dumps(settings)]

    async def create_room(self, name=None, invite=(), encrypted=False, **more):
        options = {"invite": [person.user_id for person in invite], "name": name, "encrypted": encrypted, **more}
        return await self._do("create_room", options)

    async def devices_of(self, person):
        """The devices that would be sent keys: ID -> whether this device trusts it."""
        return await self._do("devices_of", person.user_id)

    async def notices(self):
        await self.sees_sync("Offline")

    async def comes_back(self):
        # What is said before it has caught up, the SDK may show in another order.
        await self.start()

    async def filter_list(self, name, text=""):
        """Shows some rooms in the list only."""
        await self._do("filter_list", name, text)

    async def sees_list(self, *names):
        """The room list shows these rooms, in this order."""

        async def names_shown():
            return [room["name"] for room in await self.room_list()]

        await until_equal(f"{self!r} sees the rooms", names_shown, list(names))

    async def sees_in_list(self, room, **facts):
        """The row of a room in the list says this."""

        async def row():
            rows = [row for row in await self.room_list() if row["id"] == room]
            return {name: rows[0][name] for name in facts} if rows else None

        await until_equal(f"{self!r} sees in the list", row, facts)

    async def sees_sync(self, state):
        """The sync service comes to this state."""
        await until_equal(f"{self!r} is", self.sync_state, state)
