"""What every test does with the console's page."""

from playwright.sync_api import Page, expect


def wait_for_stream(page: Page) -> None:
    """Returns when the page gets what happens as it happens."""
    expect(page.locator(".connection")).to_have_text("live")


def give_token(page: Page, token: str) -> None:
    """Answers the dialog that asks for a token."""
    page.get_by_label("Token", exact=True).fill(token)
    page.get_by_role("button", name="Use it").click()
