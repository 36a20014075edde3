"""For WSGI servers such as gunicorn: `dashtop.wsgi:server`, with settings from the environment.

Run one worker with threads: each worker collects for itself.
"""

import logging

from dashtop.app import create_app, data_folder
from dashtop.settings import load

log = logging.getLogger("dashtop")

settings = load()
if "host" not in settings.model_fields_set:
    # Only the WSGI server knows the address it listens on. Assume that other machines can connect.
    settings = settings.model_copy(update={"host": "0.0.0.0"})  # noqa: S104
dashtop = create_app(settings)
server = dashtop.server
if dashtop.path != settings.url_prefix:
    log.warning("The page opens at %s", dashtop.path)
    if data_folder(settings) is None:
        log.warning("Each worker generates its own access token. Set DASHTOP_TOKEN if there are several workers.")
