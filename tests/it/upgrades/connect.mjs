// Goes over by an extended CONNECT, sends three million bytes and ends, and says the status and how many bytes came
// back as they were sent, up to the other side's end.

import assert from 'node:assert';
import { connect } from 'node:http2';

const [url, path] = process.argv.slice(2);
const session = connect(url, { rejectUnauthorized: false });
session.on('error', (error) => { throw error; });
session.on('remoteSettings', ({ enableConnectProtocol }) => {
  assert(enableConnectProtocol);
  const stream = session.request(
    { ':method': 'CONNECT', ':protocol': 'websocket', ':path': path, 'sec-websocket-version': '13' },
    { endStream: false },
  );
  const sent = Buffer.alloc(3_000_000, 'all of these bytes');
  const came = [];
  let status;
  stream.on('response', (headers) => {
    status = headers[':status'];
    stream.end(sent);
  });
  stream.on('data', (data) => came.push(data));
  stream.on('end', () => {
    assert(sent.equals(Buffer.concat(came)));
    process.stdout.write(`${status} ${sent.length}\n`);
    session.close();
  });
});
