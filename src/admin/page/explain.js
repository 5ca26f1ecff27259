// What would become of a request: asked of the proxy, which does what it does for a real one and makes none.

import { ask } from './access.js';
import { find, h } from './dom.js';
import { percent, span } from './format.js';

const said = (answer) => `${answer.status} ${answer.why}`;

function route({ host, path, conditions, line, file, why }) {
  const at = line === null ? 'by tags' : `line ${line}${file ? ` of ${file}` : ''}`;
  return [h('span', { class: 'mono' }, `${host ?? ''}${path}`), ` ${[conditions, at].filter(Boolean).join(', ')}`, why ? h('span', { class: 'why' }, why) : null];
}

const fact = (name, ...content) => h('div', null, h('dt', null, name), h('dd', null, content));

function endpoints(all, more) {
  const rows = all.map((one) => h('tr', null, h('td', { class: 'n' }, percent(one.chance)), h('td', { class: 'mono' }, one.address),
    h('td', null, h('span', { class: 'state', 'data-state': one.state }, one.state), one.why ? h('span', { class: 'why' }, one.why) : null)));
  if (more) rows.push(h('tr', null, h('td', { colspan: '3', class: 'quiet' }, `and ${more} more`)));
  const titles = [['Chance', 'n'], ['Endpoint', ''], ['State', '']];
  return h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Endpoints that may have the request' },
    h('table', null, h('thead', null, h('tr', null, titles.map(([title, kind]) => h('th', { scope: 'col', class: kind }, title)))), h('tbody', null, rows)));
}

function limits({ concurrent, per_endpoint, in_use, waiting }) {
  const most = [concurrent && `${concurrent} at once`, per_endpoint && `${per_endpoint} at an endpoint`].filter(Boolean).join(', ');
  return `${most}: ${in_use} at work, ${waiting} wait`;
}

function destination(one, show) {
  const go = h('button', { type: 'button', class: 'plain', onclick: () => show(one.service) }, one.service);
  const times = Object.entries(one.timeout).map(([name, seconds]) => `${name} ${seconds === null ? 'none' : span(seconds)}`);
  const from = one.registries.length ? `${one.registered_name} at ${one.registries.join(', ')}` : 'its endpoints stand in the file';
  return h('div', { class: 'panes' }, h('dl', { class: 'facts' },
    fact('Service', go, one.chance < 1 ? `, ${percent(one.chance)} of the requests` : '', one.instead_of ? `, the fallback of ${one.instead_of}` : '', ` (${from})`),
    fact('Balance', `${one.balance}${one.subset ? `, of those with ${one.subset}` : ''}`),
    one.answer ? fact('Answer', said(one.answer)) : null, one.limits ? fact('Limits', limits(one.limits)) : null,
    fact('Attempts', `${one.retry.attempts} at most; ${one.retry.left} retries left`), fact('Times', times.join(', '))),
  one.is_read ? endpoints(one.endpoints, one.more_endpoints) : h('p', { class: 'quiet' }, `Its endpoints are not known: ${one.is_watched ? 'its registry was not read' : 'no request has named it yet'}.`),
  h('div', { class: 'columns' },
    h('div', null, h('h3', null, 'Forwarded as'), h('pre', { tabindex: '0' }, one.head.trimEnd())),
    h('div', null, h('h3', null, 'What would be tried again'), h('ul', { class: 'follow' }, one.retry.follow_ups.map(({ event, then }) => h('li', null, `${event}: `, h('span', { class: 'quiet' }, then)))))));
}

function result(found, show) {
  const parts = [];
  if (found.answer) parts.push(h('p', { class: 'answer' }, `Answered by the proxy: ${said(found.answer)}`));
  const facts = [
    found.route && fact('Route', route(found.route)),
    ...found.passed_over.map((one) => fact('Not', route(one))),
    ...found.near_misses.map((one) => fact('Nearly', route(one))),
    found.rate && fact('Rate', `${found.rate.requests} in ${span(found.rate.per_seconds)}, by ${found.rate.by ?? 'all together'}: ${found.rate.left} left`),
    found.unlisted && fact('Service', `${found.unlisted}: whether there is such a service is not known`),
  ].filter(Boolean);
  if (facts.length) parts.push(h('dl', { class: 'facts stacked' }, facts));
  return [...parts, ...found.destinations.map((one) => destination(one, show))];
}

export function prepare(show) {
  find('explain-form').addEventListener('submit', async (event) => {
    event.preventDefault();
    const query = new URLSearchParams({ method: find('explain-method').value, url: find('explain-url').value.trim() });
    for (const header of find('explain-headers').value.split('\n')) if (header.trim()) query.append('header', header.trim());
    const into = find('explained');
    try {
      const answer = await ask(`/api/explain?${query}`);
      into.replaceChildren(...(answer.ok ? result(await answer.json(), show) : [h('p', { class: 'trouble' }, (await answer.text()).trim())]));
    } catch (error) {
      into.replaceChildren(h('p', { class: 'trouble' }, `the proxy did not answer: ${error.message}`));
    }
    into.hidden = false;
  });
}
