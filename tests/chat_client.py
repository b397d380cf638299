"""A client of the chat endpoint without a package: what it sends is exactly what stands here."""

import json
import urllib.error
import urllib.request
from typing import Any


def send(url: str, body: dict[str, Any], key: str = "") -> dict[str, Any]:
    """Send a request. Raises ConnectionError with the status and the message of a refusal."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            raise ConnectionError(f"{error.code}: {json.load(error)['error']['message']}") from None


def ask(url: str, messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Ask an endpoint as a client of OpenAI's API does. -> the message of the answer"""
    return send(f"{url}/chat/completions", {"messages": messages, **more})["choices"][0]["message"]
