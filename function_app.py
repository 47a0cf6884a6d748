"""The function app: registers the triggers of messages/, notify/ and timer_digest/."""

import logging
import os

import azure.functions as func

import messages.functions
import notify.functions
import timer_digest.functions
from shared import settings
from shared.preferences import categories
from shared.states import SettingsError

# It logs each storage request at INFO, with ids of people in the URL. Python workers set the root logger to INFO.
logging.getLogger("azure.core.pipeline.policies.http_logging_policy").setLevel(logging.WARNING)

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
try:
    categories.load_categories(settings.load_settings().categories_file)
except SettingsError as error:
    # On a developer's machine this line is shown. Azure swallows it, and only says that there are no functions.
    if os.environ.get("AZURE_FUNCTIONS_ENVIRONMENT") == "Development":
        raise
    logging.getLogger("herald").error("Nothing is sent or received until a setting is corrected: %s", error)
    app.register_functions(messages.functions.create_refusing_blueprint(str(error)))
else:
    app.register_functions(messages.functions.blueprint)
    app.register_functions(notify.functions.blueprint)
    app.register_functions(timer_digest.functions.blueprint)
