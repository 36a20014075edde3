"""Security of the web server: request checks, access token, allowed hosts, response headers, reverse proxies."""
