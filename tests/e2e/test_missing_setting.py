"""The deployment package, without all else: messages wait while a setting is missing, and are sent once it is set."""

from __future__ import annotations

from collections import Counter

import aiohttp

from local.processes import ROOT
from shared.queue_messages import NOTIFICATIONS
from tests.e2e.conftest import Deployment
from tests.support.herald import notification, user
from tests.support.package import link_packages, unpack_package

#: The environment as in Azure: an app with a wrong setting starts there, and not on a developer's machine.
AZURE = {"AZURE_FUNCTIONS_ENVIRONMENT": "Production"}
MESSAGES = 50


async def test_messages_wait_while_a_setting_is_missing_and_are_sent_once_when_it_is_set(
    deployment: Deployment,
) -> None:
    """No trigger takes a message until the setting is there (docs/odd-inputs.md, The platform).

    The app has what `azd deploy` uploads, with what `requirements.txt` installs.
    """
    app, packages = unpack_package(deployment.folder / "app"), link_packages(deployment.folder / "packages")
    (packages / "local").symlink_to(ROOT / "local")  # the function host, which Azure has itself
    queue = await deployment.queues.create_queue(NOTIFICATIONS)  # as an upstream system may
    await deployment.tables.create_table("HeraldConversations")
    people = await deployment.add_people(MESSAGES)
    incomplete = deployment.start_hosts(1, app, packages, **AZURE, MicrosoftAppId="")
    for number in range(MESSAGES):
        await deployment.put(notification(user(people[number]), content={"title": f"Build {number}"}))
    async with aiohttp.request("POST", deployment.endpoint, json={}) as response:
        assert response.status == 503
        assert "MicrosoftAppId" in await response.text()
    [first] = await queue.peek_messages(1)
    assert first.dequeue_count == 0
    assert (await queue.get_queue_properties()).approximate_message_count == MESSAGES
    assert await deployment.teams.received() == []
    incomplete.stop()

    deployment.start_hosts(1, app, packages, **AZURE)
    async with aiohttp.request("POST", deployment.endpoint, json={}) as response:
        assert response.status == 401
    await deployment.wait_until_ended(within=60, count=MESSAGES)
    titles = Counter(str(message.activity["summary"]) for message in await deployment.teams.received())
    assert titles == Counter(f"Build {number}" for number in range(MESSAGES))
    assert set(await deployment.check_counts()) == {"sent"}
