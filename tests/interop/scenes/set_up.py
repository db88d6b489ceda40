"""The first run on a fresh machine: no configuration, one link in the terminal, one small page."""

import re

from harness.browser import browser_page
from harness.server import FreshIngle


async def set_up(stage):
    server = await stage.server("server", FreshIngle)
    link = await server.says(re.compile(r"https?://\S+/\S*set-?up\S*"))
    async with browser_page(stage.folder) as page:
        await page.goto(link)
        await page.picture("1-asks")
        await page.get_by_label("name").first.fill("grandmother")
        for field in await page.locator("input[type=password]").all():
            await field.fill("the kettle is singing")
        await page.picture("2-filled")
        await page.get_by_role("button").first.click()
        await page.get_by_text("@grandmother:localhost").first.wait_for()
        await page.picture("3-done")

        # The link worked once.
        again = await page.goto(link)
        assert again.status >= 400, f"the used link answered {again.status}"
        await page.picture("4-again")

    grandmother = stage.person("grandmother", server, "nio")
    grandmother.password = "the kettle is singing"
    await grandmother.login()
    await grandmother.start()
    await grandmother.create_room("The kitchen")
