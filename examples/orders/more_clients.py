"""Other Python clients that retry, for retrying_clients.py: requests, httpx, aiohttp.

Each places one order, and returns status, answer and how often a loop around it had to ask again: none
of them retries an answer that breaks off in its body. The loop keeps the key.
"""

import asyncio
import json

import aiohttp
import aiohttp_retry
import httpx
import httpx_retries
import requests
import requests.adapters

TRIES = 12
RETRIED = [409, 429, 500, 502, 503, 504]
# How often a loop asks again.
LOOPS = 6


def looped(ask, broken):
    """What `ask` returns, and how often it was broken off before."""
    for again in range(LOOPS):
        try:
            return (*ask(), again)
        except broken:
            pass
    raise SystemExit("every answer broke off")


def by_requests(patience, retry):
    """`retry` is a urllib3 Retry that knows 409."""

    def send(url, key, order):
        with requests.Session() as session:
            session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retry))

            def ask():
                headers = {"Idempotency-Key": f'"{key}"'}
                answer = session.post(url, json=order, headers=headers, timeout=patience)
                return answer.status_code, answer.json()

            return looped(ask, (requests.ConnectionError, requests.exceptions.ChunkedEncodingError))

    return send


def by_httpx(patience):
    retry = httpx_retries.Retry(
        total=TRIES, allowed_methods=["POST"], status_forcelist=RETRIED, backoff_factor=0.05
    )

    def send(url, key, order):
        transport = httpx_retries.RetryTransport(retry=retry)
        with httpx.Client(transport=transport, timeout=patience) as client:

            def ask():
                answer = client.post(url, json=order, headers={"Idempotency-Key": f'"{key}"'})
                return answer.status_code, answer.json()

            return looped(ask, httpx.TransportError)

    return send


class Patient(aiohttp_retry.ExponentialRetry):
    """aiohttp-retry doesn't read Retry-After itself."""

    def get_timeout(self, attempt, response=None):
        told = response is not None and response.headers.get("Retry-After")
        return float(told) if told else super().get_timeout(attempt, response)


def by_aiohttp(patience):
    async def place(url, key, order):
        options = Patient(
            attempts=TRIES,
            start_timeout=0.05,
            max_timeout=1.0,
            statuses=set(RETRIED),
            exceptions={aiohttp.ClientConnectionError, asyncio.TimeoutError},
            retry_all_server_errors=True,
        )
        timeout = aiohttp.ClientTimeout(total=patience)
        async with aiohttp_retry.RetryClient(retry_options=options, timeout=timeout) as client:
            headers = {"Idempotency-Key": f'"{key}"'}
            for again in range(LOOPS):
                try:
                    async with client.post(url, json=order, headers=headers) as answer:
                        return answer.status, json.loads(await answer.read()), again
                except (aiohttp.ClientPayloadError, asyncio.TimeoutError):
                    pass
        raise SystemExit("every answer broke off")

    def send(url, key, order):
        return asyncio.run(place(url, key, order))

    return send
