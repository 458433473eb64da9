"""Stripe's client for Python against the service of tests/http/stripe_clients.rs:

python3 stripe_client.py ORIGIN
"""

import sys

import stripe

client = stripe.StripeClient(
    "sk_test_1", base_addresses={"api": sys.argv[1]}, max_network_retries=4
)


def charge(amount, key=None):
    options = {"idempotency_key": key} if key else {}
    return client.v1.charges.create({"amount": amount, "currency": "eur"}, options)


def refused(kind, amount, key):
    try:
        charge(amount, key)
    except kind as error:
        return error
    raise SystemExit("it was not refused")


assert charge(100).id == "ch_1"
assert charge(200, "python").id == "ch_2"
assert charge(200, "python").id == "ch_2"
# stripe.IdempotencyError itself is of a 400.
error = refused(stripe.APIError, 300, "python")
assert error.http_status == 422, error
told = error.json_body["error"]
assert (told["type"], told["code"]) == ("idempotency_error", "key_reused"), told
assert error.user_message.startswith("Idempotency-Key is already used: "), error
error = refused(stripe.InvalidRequestError, 300, "a b")
assert (error.http_status, error.code) == (400, "key_malformed"), error
assert charge(999, "slow-python").id == "ch_3"
