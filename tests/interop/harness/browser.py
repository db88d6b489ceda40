"""Debian's Chromium, driven by playwright; what it saw is kept as a picture."""

import contextlib
import os
import shutil

from playwright.async_api import async_playwright

from .wait import DEADLINE


@contextlib.asynccontextmanager
async def browser_page(folder):
    """A page of a fresh browser; `await page.picture("name")` keeps `name.png` in the folder."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("chromium-browser"),
            # Its sandbox refuses to run as root, which a container's user often is.
            chromium_sandbox=os.getuid() != 0,
        )
        page = await browser.new_page(viewport={"width": 1000, "height": 800})
        page.set_default_timeout(DEADLINE * 1000)

        async def picture(name):
            await page.screenshot(path=str(folder / f"{name}.png"), full_page=True)

        page.picture = picture
        try:
            yield page
        finally:
            await browser.close()
