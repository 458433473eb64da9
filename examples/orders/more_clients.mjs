// Clients of Node that retry, for retrying_clients.py.
//
//     node more_clients.mjs PACKAGES CLIENT URL PATIENCE_MS < orders > answers
//
// PACKAGES is a folder with node_modules. Reads a JSON list of {key, order}; writes one of {status, answer,
// again}: how often a loop around the client had to ask again, because most retry no answer that breaks
// off in its body. The loop keeps the key.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const [packages, name, url, patience] = process.argv.slice(2);
const require = createRequire(path.resolve(packages) + "/");
const load = (module) => import(pathToFileURL(require.resolve(module)));
const timeout = Number(patience);
const tries = 12;
const retried = [408, 409, 429, 500, 502, 503, 504];
const wait = { min: 50, max: 1000 };

// Each takes what is to be sent; returns status and answer.
const clients = {
  async got() {
    const { default: got } = await load("got");
    return async (headers, order) => {
      const answer = await got.post(url, {
        headers,
        json: order,
        timeout: { request: timeout },
        retry: {
          limit: tries,
          methods: ["POST"],
          statusCodes: retried,
          // What got would wait, which is Retry-After if there is one; but no longer than a second else.
          calculateDelay: ({ computedValue, retryAfter }) =>
            computedValue && (retryAfter ?? Math.min(computedValue, wait.max)),
        },
      });
      return [answer.statusCode, JSON.parse(answer.body)];
    };
  },
  async ky() {
    const { default: ky } = await load("ky");
    return async (headers, order) => {
      const answer = await ky.post(url, {
        headers,
        json: order,
        timeout: false,
        signal: undefined,
        fetch: (request) => fetch(request, { signal: AbortSignal.timeout(timeout) }),
        retry: {
          limit: tries,
          methods: ["post"],
          statusCodes: retried,
          afterStatusCodes: [409, 413, 429, 503],
          backoffLimit: wait.max,
        },
      });
      return [answer.status, await answer.json()];
    };
  },
  async "axios-retry"() {
    const { default: axios } = await load("axios");
    const { default: module } = await load("axios-retry");
    const retry = module.default ?? module;
    const client = axios.create({ timeout });
    // An answer that breaks off is an error with a status of success.
    const isLost = ({ response }) =>
      !response || response.status < 400 || retried.includes(response.status);
    retry(client, {
      retries: tries,
      shouldResetTimeout: true,
      retryCondition: isLost,
      retryDelay: (count, error) => {
        const told = error.response?.headers["retry-after"];
        return told ? told * 1000 : Math.min(wait.min * 2 ** count, wait.max);
      },
    });
    return async (headers, order) => {
      const answer = await client.post(url, order, { headers });
      return [answer.status, answer.data];
    };
  },
  async undici() {
    const { Agent, RetryAgent, request } = await load("undici");
    const agent = new Agent({ headersTimeout: timeout, bodyTimeout: timeout });
    const dispatcher = new RetryAgent(agent, {
      maxRetries: tries,
      methods: ["POST"],
      statusCodes: retried,
      minTimeout: wait.min,
      maxTimeout: 2000,
      errorCodes: [
        "ECONNRESET", "ECONNREFUSED", "EPIPE", "UND_ERR_SOCKET", "UND_ERR_HEADERS_TIMEOUT",
        "UND_ERR_BODY_TIMEOUT",
      ],
    });
    return async (headers, order) => {
      const answer = await request(url, {
        method: "POST",
        headers: { ...headers, "content-type": "application/json" },
        body: JSON.stringify(order),
        dispatcher,
      });
      return [answer.statusCode, await answer.body.json()];
    };
  },
};

let text = "";
for await (const chunk of process.stdin) text += chunk;
const send = await clients[name]();
const answers = await Promise.all(
  JSON.parse(text).map(async ({ key, order }) => {
    let why;
    for (let again = 0; again < 6; again += 1) {
      try {
        const [status, answer] = await send({ "Idempotency-Key": `"${key}"` }, order);
        return { status, answer, again };
      } catch (error) {
        why = error;
      }
    }
    throw why;
  }),
);
process.stdout.write(JSON.stringify(answers));
process.exit(0);
