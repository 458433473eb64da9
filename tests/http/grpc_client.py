"""Calls the shop of tests/http/grpc.rs by grpcio: python3 grpc_client.py HOST:PORT

Methods are called by their paths, and messages are texts, so that nothing is generated.
"""

import json
import sys

import grpc

RETRIES = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "shop.Orders"}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.1s",
                    "backoffMultiplier": 1,
                    "retryableStatusCodes": ["UNAVAILABLE", "ABORTED"],
                },
            }
        ]
    }
)


def main():
    options = [("grpc.service_config", RETRIES), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(sys.argv[1], options=options) as channel:
        create = channel.unary_unary("/shop.Orders/Create", str.encode, bytes.decode)
        watch = channel.unary_stream("/shop.Orders/Watch", str.encode, bytes.decode)

        def call(message, key):
            metadata = [("idempotency-key", key)] if key else []
            answer, told = create.with_call(message, metadata=metadata, timeout=30)
            head = dict(told.initial_metadata())
            return answer, head.get("taken-by"), head.get("idempotent-replayed")

        def refused(message, key):
            try:
                return call(message, key)
            except grpc.RpcError as error:
                return error.code().name, error.details()

        # The client tries again by itself, with the same metadata: nothing had been done.
        first = call("flaky once", "k")
        assert first == ("order 2", "till 7", None), first
        again = call("flaky once", "k")
        assert again == ("order 2", "till 7", "true"), again
        other, why = refused("a pen", "k")
        assert other == "FAILED_PRECONDITION" and "Idempotency-Key is already used" in why, why
        none, why = refused("a pen", None)
        assert none == "INVALID_ARGUMENT", why
        # A failure that is final comes back as it was.
        for _ in range(2):
            assert refused("fails 5", "l") == ("NOT_FOUND", "so")
        metadata = [("idempotency-key", "m")]
        assert list(watch("all", metadata=metadata, timeout=30)) == ["one", "two", "three"]
        try:
            list(watch("all", metadata=metadata, timeout=30))
            raise SystemExit("the stream was executed again")
        except grpc.RpcError as error:
            assert error.code().name == "ALREADY_EXISTS", error


if __name__ == "__main__":
    main()
