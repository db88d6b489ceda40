"""Plays the scenes: `run.py` all of them, `run.py NAME…` some, `run.py --list` says which there are.

A new scene is a story in `scenes/` and a line in SCENES. People's verbs are in `harness/people.py`.

`tests/run` calls this with what it needs in the environment: INGLE_BIN, INGLE_NODE, INGLE_SDK_PERSON and,
for scenes with a Synapse, SYNAPSE_VENV. Logs, data and screenshots of a scene stay in INGLE_ARTEFACTS/<name>
until it is played again. The last line is `interop: N passed, M failed`.
"""

import argparse
import asyncio
import logging
import os
import shutil
import sys
import time
import traceback
from pathlib import Path

from harness.stage import Stage
from scenes.absence import absence
from scenes.conversation import conversation
from scenes.doors import doors
from scenes.element_x import element_x
from scenes.federation import federation
from scenes.keys import keys
from scenes.meeting import meeting
from scenes.moving import moving
from scenes.outages import outages
from scenes.past import past, versions
from scenes.search import search
from scenes.secrets import parted, secrets, trust
from scenes.set_up import set_up
from scenes.sights import sights
from scenes.spaces import spaces
from scenes.threads import threads
from scenes.three import three

# One line a scene: its name, the story, and who plays in it over what.
SCENES = {
    "nio": (conversation, dict(ann="nio", bob="nio")),
    "js": (conversation, dict(ann="js", bob="js")),
    "nio-r0": (conversation, dict(ann="nio-r0", bob="nio-r0", encrypted=True)),
    "nio-js-tls": (conversation, dict(ann="nio", bob="js", tls=True)),
    "js-nio-tls": (conversation, dict(ann="js", bob="nio", tls=True)),
    "nio-js-encrypted": (conversation, dict(ann="nio", bob="js", encrypted=True)),
    "js-nio-encrypted": (conversation, dict(ann="js", bob="nio", encrypted=True, tls=True)),
    "sdk": (conversation, dict(ann="sdk", bob="sdk")),
    "sdk-js-encrypted": (conversation, dict(ann="sdk", bob="js", encrypted=True, tls=True)),
    "element-x": (element_x, dict()),
    "meeting": (meeting, dict()),
    "nio-absence": (absence, dict(ann="nio", bob="nio")),
    "js-absence": (absence, dict(ann="js", bob="js")),
    "spaces": (spaces, dict()),
    "threads": (threads, dict()),
    "search": (search, dict()),
    "moving": (moving, dict()),
    "keys": (keys, dict()),
    "set-up": (set_up, dict()),
    "synapse": (federation, dict(ann="nio", bob="nio")),
    "synapse-js": (federation, dict(ann="js", bob="js")),
    "synapse-doors": (doors, dict()),
    "synapse-sights": (sights, dict()),
    "synapse-past": (past, dict()),
    "synapse-versions": (versions, dict()),
    "synapse-outages": (outages, dict()),
    "synapse-secrets": (secrets, dict(ann="js", bob="nio")),
    "synapse-parted": (parted, dict(ann="js", bob="nio")),
    "synapse-trust": (trust, dict()),
    "synapse-three": (three, dict()),
}

# Scenes for what Ingle does not do yet; they are played when they are named.
NOT_YET = {}


async def play(name, folder):
    story, cast = {**SCENES, **NOT_YET}[name]
    cast = dict(cast)
    async with Stage(folder, tls=cast.pop("tls", False)) as stage:
        await story(stage, **cast)


def passed(name, deadline):
    """Plays one scene and prints its line, and when it failed, why."""
    folder = Path(os.environ["INGLE_ARTEFACTS"]) / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    logging.basicConfig(filename=folder / "run.log", level=logging.INFO, force=True)
    start = time.monotonic()
    try:
        asyncio.run(asyncio.wait_for(play(name, folder), deadline))
    except Exception as failure:
        print(f"interop {name}: FAILED after {time.monotonic() - start:.1f} s, see {folder}")
        print(indented("".join(traceback.format_exception(failure, limit=-4))), flush=True)
        for log in sorted(folder.glob("*/*.log")):
            print(indented(f"{log.name} ends with:\n{tail(log)}"), flush=True)
        return False
    print(f"interop {name}: ok ({time.monotonic() - start:.1f} s)", flush=True)
    return True


def indented(text):
    return "\n".join(f"    {line}" for line in text.splitlines())


def tail(file, lines=15):
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", help="scenes to play (default: all)")
    parser.add_argument("--list", action="store_true", help="print the names of the scenes")
    parser.add_argument("--against", choices=["ingle", "synapse"], default="ingle", help="the server to play against")
    parser.add_argument("--deadline", type=float, default=240, help="seconds that one scene may take")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join([*SCENES, *(f"{name} (not yet)" for name in NOT_YET)]))
        return 0
    known = [*SCENES, *NOT_YET]
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        parser.error(f"no scene {', '.join(unknown)}; there are {', '.join(known)}")
    os.environ["INGLE_TEST_AGAINST"] = arguments.against
    results = [passed(name, arguments.deadline) for name in arguments.names or SCENES]
    print(f"interop: {sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
