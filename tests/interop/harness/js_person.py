"""A person who uses matrix-js-sdk, in a node process of their own (`js_person.mjs`)."""

import asyncio
import json
import os
from pathlib import Path

from .people import Person
from .wait import DEADLINE

SCRIPT = Path(__file__).with_name("js_person.mjs")


class Failed(AssertionError):
    """The verb failed in the client; the text is the client's."""


class JsPerson(Person):
    kind = "js"

    def __init__(self, *args, **named):
        super().__init__(*args, **named)
        self.process = None
        self.waiting = {}
        self.reader = None

    async def _do(self, verb, *args, deadline=DEADLINE):
        if self.process is None:
            await self._begin()
        number = len(self.waiting)
        self.waiting[number] = answer = asyncio.get_running_loop().create_future()
        self.process.stdin.write(json.dumps({"id": number, "verb": verb, "args": args}).encode() + b"\n")
        try:
            return await asyncio.wait_for(answer, deadline)
        except asyncio.TimeoutError:
            raise Failed(f"{self!r}: {verb} did not end within {deadline:.0f} s") from None

    async def _begin(self):
        settings = {"url": self.url, "label": self.label, "crypto": self.crypto}
        with (self.folder / f"js-{self.label}.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                os.environ["INGLE_NODE"],
                str(SCRIPT),
                json.dumps(settings),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=1 << 24,
                env={**os.environ, "NODE_EXTRA_CA_CERTS": str(self.server.authority_file)},
            )
        self.reader = asyncio.ensure_future(self._listen())

    async def _listen(self):
        async for line in self.process.stdout:
            answer = json.loads(line)
            waiting = self.waiting[answer["id"]]
            if waiting.done():
                continue
            if "error" in answer:
                waiting.set_exception(Failed(f"{self!r}: {answer['error']}"))
            else:
                waiting.set_result(answer["value"])
        for waiting in self.waiting.values():
            if not waiting.done():
                waiting.set_exception(Failed(f"{self!r}: the client's process ended"))

    async def close(self):
        if self.process:
            self.process.stdin.close()
            await self.process.wait()
            await self.reader
            self.process = None

    async def register(self):
        session = await self._do("register", self.name, self.password)
        assert session["user_id"] == self.user_id, session
        self.device_id = session["device_id"]

    async def login(self):
        self.device_id = (await self._do("login", self.name, self.password))["device_id"]

    async def create_room(self, name=None, invite=(), encrypted=False, **more):
        options = {"invite": [person.user_id for person in invite], "preset": "private_chat", **more}
        if name:
            options["name"] = name
        if encrypted:
            encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
            options["initial_state"] = [encryption]
        return await self._do("create_room", options)

    async def invite(self, room, person):
        await self._do("invite", room, person.user_id)

    async def profile_name(self, person):
        return await self._do("profile_name", person.user_id)

    async def typing(self, room, on=True):
        await self._do("typing", room, on)

    async def scroll_up(self, room, limit=20):
        return await self._do("scroll_up", room, limit)

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


def _as_it_is(verb):
    async def do(self, *args):
        return await self._do(verb, *args)

    return do


ROOMS = "logout start pause join leave say edit react remove read rename view deliveries"
KEYS = "recover keys_in_backup is_ready accept_verification start_sas verification confirm_sas"
for _verb in f"{ROOMS} {KEYS}".split():
    setattr(JsPerson, _verb, _as_it_is(_verb))
