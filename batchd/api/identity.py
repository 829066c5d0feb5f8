"""What is known of a request before its handler runs."""

from aiohttp import web

REQUEST_ID = web.RequestKey("request_id", str)
OWNER = web.RequestKey("owner", str)
