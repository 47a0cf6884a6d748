"""The function app: registers the triggers of messages/, notify/ and timer_digest/."""

import azure.functions as func

import messages.functions
import notify.functions
import timer_digest.functions
from shared import settings
from shared.preferences import categories

# A missing or contradictory setting stops the start, and says which.
categories.load_categories(settings.load_settings().categories_file)

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
app.register_functions(messages.functions.blueprint)
app.register_functions(notify.functions.blueprint)
app.register_functions(timer_digest.functions.blueprint)
