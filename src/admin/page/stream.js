// What changes, as it does: server-sent events, read by hand since an EventSource sends no token.

import { ask, askForToken } from './access.js';

/** The server says something at least each ten seconds. */
const SILENCE = 25_000;
const LONGEST = 10_000;

const pause = (time) => new Promise((done) => setTimeout(done, time));

/** Reads events to their end. */
async function read(body, hear, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pieces = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    alive();
    let rest = value;
    for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n')) {
      pieces.push(rest.slice(0, end));
      rest = rest.slice(end + 1);
      const line = pieces.join('');
      pieces = [];
      if (line.startsWith('data: ')) hear(JSON.parse(line.slice(6)));
    }
    if (rest) pieces.push(rest);
  }
}

/** Follows the events for ever. `say` is told how that goes: a state, and why it is so. */
export async function follow(hear, say) {
  let wait = 500;
  for (;;) {
    const ending = new AbortController();
    let silence;
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(() => ending.abort(), SILENCE);
    };
    let why = 'the proxy does not answer';
    try {
      alive();
      const answer = await ask('/api/events', { signal: ending.signal });
      if (answer.status === 401) {
        clearTimeout(silence);
        say('lost', null);
        if (!(await askForToken('This server needs its token to show anything.'))) {
          say('lost', 'Without the token nothing is shown. The button “Token” asks again.');
          await new Promise((again) => addEventListener('token', again, { once: true }));
        }
        continue;
      }
      if (answer.ok) {
        await read(answer.body, (frame) => {
          wait = 500;
          say('live', null);
          hear(frame);
        }, alive);
      } else why = await answer.text();
    } catch {
      // Gone, or silent for too long: it is tried again.
    }
    clearTimeout(silence);
    say('lost', `${why.trim()}: what is shown is as it was.`);
    await pause(wait);
    wait = Math.min(wait * 2, LONGEST);
  }
}
