"""For WSGI servers such as gunicorn: `dashtop.wsgi:server`, with settings from the environment."""

from dashtop.factory import create_app
from dashtop.settings import load

server = create_app(load()).server
