// Stripe's client for Node against the service of tests/http/stripe_clients.rs:
//
//     node stripe_client.mjs PACKAGES HOST PORT
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const [packages, host, port] = process.argv.slice(2);
const module = createRequire(path.resolve(packages) + "/")("stripe");
const Stripe = module.default ?? module.Stripe ?? module;
const stripe = new Stripe("sk_test_1", {
  host, port, protocol: "http", maxNetworkRetries: 4, telemetry: false,
});
const charge = (amount, options) => stripe.charges.create({ amount, currency: "eur" }, options);

// The answer is lost, and the client asks again with the key that it has made.
assert.equal((await charge(100)).id, "ch_1");
assert.equal((await charge(200, { idempotencyKey: "node" })).id, "ch_2");
assert.equal((await charge(200, { idempotencyKey: "node" })).id, "ch_2");
// A refusal is an error, with its kind. (StripeIdempotencyError itself is of a 400.)
await assert.rejects(charge(300, { idempotencyKey: "node" }), (error) => {
  assert.deepEqual([error.type, error.statusCode], ["StripeAPIError", 422]);
  assert.deepEqual([error.rawType, error.code], ["idempotency_error", "key_reused"]);
  assert.match(error.message, /^Idempotency-Key is already used: /);
  return true;
});
await assert.rejects(charge(300, { idempotencyKey: "a b" }), (error) => {
  assert.deepEqual([error.type, error.statusCode], ["StripeInvalidRequestError", 400]);
  assert.equal(error.code, "key_malformed");
  return true;
});
// Its connection is closed while the charge is made: it meets itself in flight, and waits.
assert.equal((await charge(999, { idempotencyKey: "slow-node" })).id, "ch_3");
// Its idle connections would keep the process for the time-out of a request.
process.exit(0);
