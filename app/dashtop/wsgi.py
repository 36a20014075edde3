"""For WSGI servers such as gunicorn: `dashtop.wsgi:server`, with settings from the environment.

Every worker imports this. One of them collects, and the others follow it.
"""

import hashlib
import logging
import os

from dashtop.app import create_app
from dashtop.collector.siblings import join
from dashtop.settings import load

settings = load()
if "host" not in settings.model_fields_set:
    # Only the server that imports this knows where it listens: unless told, take it that others can connect.
    settings = settings.model_copy(update={"host": "0.0.0.0"})  # noqa: S104
# Workers of one server have the same parent and the same settings.
told = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()
dashtop = create_app(settings, siblings=join(f"{os.getppid()}-{told[:16]}"))
server = dashtop.server
if dashtop.entrance != settings.url_prefix:
    logging.getLogger("dashtop").warning("The page opens at %s", dashtop.entrance)
