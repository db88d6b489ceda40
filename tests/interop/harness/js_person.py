"""A person who uses matrix-js-sdk, in a node process of their own (`js_person.mjs`)."""

import json
import os
from pathlib import Path

from .line_person import LinePerson, verbs

SCRIPT = Path(__file__).with_name("js_person.mjs")


@verbs("set_state heard joins_by knock knocking search reply_in_thread open_threads threads unread read_thread upgrade tag facts")
@verbs("recover keys_in_backup is_ready accept_verification start_sas verification confirm_sas")
class JsPerson(LinePerson):
    kind = "js"

    def command(self):
        settings = {"url": self.url, "label": self.label, "crypto": self.crypto}
        return [os.environ["INGLE_NODE"], str(SCRIPT), json.dumps(settings)]

    def environment(self):
        return {"NODE_EXTRA_CA_CERTS": str(self.server.authority_file)}

    async def create_room(self, name=None, invite=(), encrypted=False, **more):
        options = {"invite": [person.user_id for person in invite], "preset": "private_chat", **more}
        if name:
            options["name"] = name
        if encrypted:
            encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
            options["initial_state"] = [encryption]
        return await self._do("create_room", options)

    async def hierarchy(self, space, page=50, depth=None, suggested=False):
        """Everything in a space: names and join rules, and how many pages it took."""
        return await self._do("hierarchy", space, page, depth, suggested)

    async def bootstrap(self):
        """Makes cross-signing keys, secret storage and a backup, and gives the recovery key."""
        return await self._do("bootstrap", self.name, self.password)

    async def devices_of(self, person):
        """The devices that would be sent keys: ID -> whether this device trusts it."""
        return await self._do("devices_of", person.user_id)

    async def trusts(self, person):
        return await self._do("trusts", person.user_id)

    async def remove_device(self, device):
        await self._do("remove_device", device, self.name, self.password)

    async def ask_verification(self, person, room=None):
        await self._do("ask_verification", person.user_id, room)
