// Asks by each of Node's clients, some requests side by side: GET, and POST with and without a length. Fails with the
// first answer that is not the one that was to come.
//
//   client.mjs CLEAR SECURE AUTHORITY REQUESTS

import assert from 'node:assert';
import { Agent, request } from 'node:http';
import { constants, connect } from 'node:http2';
import { Agent as SecureAgent, request as secureRequest } from 'node:https';
import { Readable } from 'node:stream';

const [clear, secure, , requests] = process.argv.slice(2);
const AT_ONCE = 8;

/** Requests by their number: GET, or a body with its length or without. */
const kinds = ['GET', 'GET', 'length', 'pieces'];

const pieces = (body) => Readable.from([body.subarray(0, 100), body.subarray(100)]);

async function text(stream) {
  const read = [];
  for await (const piece of stream) read.push(piece);
  return Buffer.concat(read);
}

function byHttp1(ask, agent, url) {
  return (kind, path, body) => new Promise((done, fail) => {
    const headers = kind === 'length' ? { 'content-length': body.length } : {};
    const method = kind === 'GET' ? 'GET' : 'POST';
    const asked = ask(url + path, { agent, method, headers }, (answer) => {
      text(answer).then((came) => done([answer.statusCode, came]), fail);
    });
    asked.on('error', fail);
    if (kind === 'pieces') pieces(body).pipe(asked);
    else asked.end(kind === 'GET' ? undefined : body);
  });
}

function byFetch(url) {
  return async (kind, path, body) => {
    const more = kind === 'pieces' ? { body: Readable.toWeb(pieces(body)), duplex: 'half' } : { body };
    const answer = await fetch(url + path, kind === 'GET' ? {} : { method: 'POST', ...more });
    return [answer.status, Buffer.from(await answer.arrayBuffer())];
  };
}

function byHttp2(session) {
  return (kind, path, body) => new Promise((done, fail) => {
    const { HTTP2_HEADER_CONTENT_LENGTH: LENGTH } = constants;
    const length = kind === 'length' ? { [LENGTH]: body.length } : {};
    const stream = session.request({ ':method': kind === 'GET' ? 'GET' : 'POST', ':path': path, ...length });
    let status;
    stream.on('response', (headers) => { status = headers[':status']; });
    stream.on('error', fail);
    if (kind === 'pieces') pieces(body).pipe(stream);
    else stream.end(kind === 'GET' ? undefined : body);
    text(stream).then((came) => done([status, came]), fail);
  });
}

async function asks(name, ask) {
  let next = 0;
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    while (next < requests) {
      const number = next++;
      const kind = kinds[number % kinds.length];
      const path = `/cart/${number}`;
      const body = Buffer.alloc(1_000 + number * 7, `${name} ${number} `);
      let came;
      try {
        came = await ask(kind, path, body);
      } catch (error) {
        throw new Error(`${name}: ${kind} ${number}`, { cause: error });
      }
      const [status, answer] = came;
      assert.strictEqual(status, 200, `${name}: ${kind} ${number}`);
      const expected = kind === 'GET' ? Buffer.from(path) : body;
      assert(expected.equals(answer), `${name}: ${kind} ${number}: ${answer.length} bytes`);
    }
  }));
}

const kept = { keepAlive: true, maxSockets: AT_ONCE };
const agents = [new Agent(kept), new SecureAgent(kept)];
await asks('http', byHttp1(request, agents[0], clear));
await asks('https', byHttp1(secureRequest, agents[1], secure));
await asks('fetch', byFetch(secure));
for (const url of [clear, secure]) {
  const session = connect(url);
  await asks(`http2 ${url}`, byHttp2(session));
  session.close();
}
agents.forEach((agent) => agent.destroy());
