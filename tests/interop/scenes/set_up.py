"""The first run on a fresh machine: no configuration, one link in the terminal, one small page."""

import re

from harness.browser import browser_page
from harness.server import FreshIngle

PASSWORD = "the kettle is singing"


async def set_up(stage):
    server = await stage.server("server", FreshIngle)
    link = await server.says(re.compile(r"http://localhost:\S+/set-up/\S+"))
    async with browser_page(stage.folder) as page:

        async def fill(name, password, again):
            await page.get_by_label("Your name").fill(name)
            await page.get_by_label("A password").fill(password)
            await page.get_by_label("The password again").fill(again)

        await page.goto(link)
        await page.picture("1-asks")
        await fill("Grandmother", PASSWORD, "the kettle is silent")
        await page.get_by_role("button").click()
        await page.get_by_role("alert").wait_for()
        await page.picture("2-not-the-same")
        await fill("Grandmother", PASSWORD, PASSWORD)
        await page.get_by_role("button").click()
        await page.get_by_text("@grandmother:localhost").first.wait_for()
        await page.picture("3-welcome")

        # The link worked once.
        again = await page.goto(link)
        assert again.status >= 400, f"the used link answered {again.status}"
        await page.picture("4-used")
        await page.goto(server.url)
        await page.picture("5-landing")

    grandmother = stage.person("grandmother", server, "nio")
    grandmother.password = PASSWORD
    await grandmother.login()
    await grandmother.start()
    await grandmother.create_room("The kitchen")
