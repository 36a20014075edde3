"""For WSGI servers such as gunicorn: `dashtop.wsgi:server`, with settings from the environment."""

import logging

from dashtop.factory import create_app
from dashtop.settings import load

settings = load()
if "host" not in settings.model_fields_set:
    # Only the server that imports this knows where it listens: unless told, take it that others can connect.
    settings = settings.model_copy(update={"host": "0.0.0.0"})  # noqa: S104
dashtop = create_app(settings)
server = dashtop.server
if dashtop.entrance != settings.url_prefix:
    logging.getLogger("dashtop").warning("The page opens at %s", dashtop.entrance)
