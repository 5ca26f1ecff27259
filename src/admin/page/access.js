// Asks the admin server, with the token where there is one. The token stays in this tab.

import { find, text } from './dom.js';

const PLACE = 'callboard-token';

export const token = () => sessionStorage.getItem(PLACE);

/** Asks for a path. */
export function ask(path, { method = 'GET', body, signal } = {}) {
  const headers = {};
  if (token()) headers.authorization = `Bearer ${token()}`;
  if (body !== undefined) headers['content-type'] = 'application/json';
  return fetch(path, { method, headers, body, signal, cache: 'no-store' });
}

/** Asks for JSON; `null` where there is none. */
export async function json(path) {
  try {
    const answer = await ask(path);
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

/** Has the proxy change something. Returns why it did not. */
export async function change(path, method, body) {
  const send = () => ask(path, { method, body: body && JSON.stringify(body) });
  try {
    let answer = await send();
    if (answer.status === 401 && (await askForToken('This change needs the token.'))) answer = await send();
    if (answer.ok) return null;
    const said = await answer.text();
    try {
      return JSON.parse(said).error ?? said;
    } catch {
      return said;
    }
  } catch (error) {
    return `the proxy did not answer: ${error.message}`;
  }
}

let asking = null;

/** Asks the person for the token. Returns whether one was given. */
export function askForToken(why) {
  asking ??= new Promise((answered) => {
    const dialog = find('token-dialog');
    text(find('token-why'), `${why} It stays in this tab, and goes with it.`);
    find('token-text').value = '';
    const closed = () => {
      dialog.removeEventListener('close', closed);
      const given = find('token-text').value.trim();
      const is_given = dialog.returnValue === 'ok' && given !== '';
      if (is_given) sessionStorage.setItem(PLACE, given);
      find('token-text').value = '';
      asking = null;
      answered(is_given);
    };
    dialog.returnValue = '';
    dialog.addEventListener('close', closed);
    dialog.showModal();
  });
  return asking;
}

export function prepare() {
  find('token-cancel').addEventListener('click', () => find('token-dialog').close('cancel'));
}
