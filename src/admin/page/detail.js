// What there is to say of one service: charts, endpoints, watchers, journal, and its pin.

import { change, json } from './access.js';
import { chart, draw, most } from './chart.js';
import { attribute, h, reconcile, rows, text } from './dom.js';
import { ago, count, percent, rate, span, now, time } from './format.js';
import { entries } from './journal.js';
import { is_well } from './model.js';

const PAGE = 50;
const MANY = 0.05;
/** For how long a pin may be asked for here. */
const TIMES = ['10m', '30m', '2h', '8h'];

/** What a chart shows: its title, its series, and the numbers that are said of them. */
export const CHARTS = [
  ['Requests / s', ['requests_per_second'], (own) => rate(own.requests_per_second), rate, []],
  ['Errors', ['errors'], (own) => percent(own.errors), percent, ['bad']],
  ['p50 · p90 · p99', ['p99_seconds', 'p90_seconds', 'p50_seconds'], (own) => `${time(own.p50_seconds)} · ${time(own.p90_seconds)} · ${time(own.p99_seconds)}`, time, ['', 'second', 'third']],
  ['In flight', ['in_flight'], (own) => count(own.in_flight ?? 0), count, []],
  ['Retries / s', ['retries_per_second'], (own) => rate(own.retries_per_second), rate, []],
  ['Tunnels', ['tunnels'], (own) => count(own.tunnels ?? 0), count, []],
];

/** A tile for each chart. */
export function tiles() {
  return CHARTS.map(([title]) => {
    const tile = h('div', { class: title.includes('·') ? 'tile double' : 'tile' }, h('h3', null, title), h('div', { class: 'value' }), h('div', { class: 'most' }, h('span'), h('span')));
    tile.insertBefore(chart('chart'), tile.lastChild);
    return tile;
  });
}

export function draw_tiles(all, own, series) {
  CHARTS.forEach(([title, names, value, format, classes], place) => {
    const tile = all[place];
    text(tile.children[1], value(own));
    const values = names.map((name) => series?.[name] ?? []);
    const top = most(values);
    const said = values[0].length ? `at most ${format(top)}` : '';
    const [left, right] = tile.lastChild.children;
    text(left, said);
    text(right, '15 min');
    draw(tile.children[2], values, { classes, label: `${title}: now ${value(own)}, ${said}` });
  });
}

export function create(service) {
  const parts = {
    facts: h('dl', { class: 'facts' }),
    tiles: tiles(),
    endpoints: h('tbody'),
    none: h('p', { class: 'quiet' }),
    more: h('button', { type: 'button', class: 'more' }),
    watchers: h('tbody'),
    journal: h('ol', { class: 'timeline' }),
    pins: h('div', { class: 'pins' }),
    trouble: h('p', { class: 'trouble', role: 'alert', hidden: true }),
    shown: PAGE,
  };
  const column = (title, kind) => h('th', { scope: 'col', class: kind }, title);
  const table = (label, columns, body) => h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': label },
    h('table', null, h('thead', null, h('tr', null, columns)), body));
  const of = `of ${service.name}`;
  parts.endpoint_table = table(`Endpoints ${of}`, [column('Endpoint'), column('State'), column('Weight', 'n mid'), column('In flight', 'n mid'),
    column('15 min', 'wide'), column('req/s', 'n'), column('Errors', 'n'), column('p50', 'n wide'), column('p90', 'n wide'), column('p99', 'n mid'), column('Tunnels', 'n wide')], parts.endpoints);
  const watchers = table(`Watchers ${of}`, [column('Registry'), column('State'), column('Entries', 'n'), column('Last heard'), column('Failures', 'n mid')], parts.watchers);
  const panes = h('div', { class: 'panes' }, parts.facts, h('div', { class: 'tiles' }, parts.tiles), h('div', null, parts.endpoint_table, parts.none, parts.more),
    h('div', { class: 'columns' }, h('div', null, h('h3', null, 'Watchers'), watchers),
      h('div', null, h('h3', null, 'Journal'), parts.journal, parts.trouble, parts.pins)));
  const row = h('tr', { class: 'detail' }, h('td', { colspan: '11' }, panes));
  row.parts = parts;
  parts.more.addEventListener('click', () => {
    parts.shown += PAGE;
    update(row, row.item);
  });
  pins(parts, service);
  refresh(service, () => update(row, row.item));
  return row;
}

/** Asks for the past of a service that is open, and for its journal where its set has changed. */
export async function refresh(service, then) {
  const path = `/api/services/${service.name.split('/').map(encodeURIComponent).join('/')}`;
  service.past = (await json(`${path}/history`)) ?? service.past;
  if (service.journal_of !== service.joined || !service.journal) {
    service.journal_of = service.joined;
    service.journal = (await json(`${path}/journal`)) ?? [];
  }
  then();
}

function pins(parts, service) {
  const path = `/api/services/${service.name.split('/').map(encodeURIComponent).join('/')}`;
  const tell = async (method, body, to = 'pin') => {
    const error = await change(`${path}/${to}`, method, body);
    parts.trouble.hidden = !error;
    text(parts.trouble, error ?? '');
    service.journal = null;
  };
  parts.time = h('select', { 'aria-label': 'For how long it is pinned, or an endpoint drained' }, TIMES.map((one) => h('option', { value: one, selected: one === '30m' }, one)));
  parts.pin = h('button', { type: 'button', onclick: () => tell('POST', { for: parts.time.value }) }, 'Pin the set it has');
  parts.unpin = h('button', { type: 'button', onclick: () => tell('DELETE') }, 'Unpin');
  parts.pinned = h('span', { class: 'quiet' });
  parts.drain = (endpoint) => (is_drained(service.own, endpoint) ? tell('DELETE', undefined, `drain?endpoint=${encodeURIComponent(endpoint.address)}`)
    : tell('POST', { endpoint: endpoint.address, for: parts.time.value }, 'drain'));
  parts.pin_to = (set) => tell('POST', { set, for: parts.time.value });
  parts.pins.append(parts.pinned, parts.unpin, parts.pin, parts.time);
}

/** One that yields is drained, too, and in the state that it would be in. */
const is_drained = (own, endpoint) => own.drains.some((one) => one.endpoint === endpoint.address);

export function update(row, item) {
  row.item = item;
  const { service, filter } = item;
  const { own } = service;
  const { parts } = row;
  draw_facts(parts.facts, own, service);
  draw_tiles(parts.tiles, own, service.past?.service);
  const found = [...service.endpoints.values()].filter(filter);
  found.sort((a, b) => is_well(a) - is_well(b) || (a.key < b.key ? -1 : 1));
  const series = new Map(service.past?.endpoints.map((one) => [`${one.instance} ${one.address}`, one]) ?? []);
  reconcile(parts.endpoints, found.slice(0, parts.shown), {
    key: (endpoint) => endpoint.key,
    create: (endpoint) => create_endpoint(endpoint, parts.drain),
    update: (element, endpoint) => update_endpoint(element, endpoint, series.get(endpoint.key), own),
  });
  parts.endpoint_table.hidden = found.length === 0;
  parts.none.hidden = found.length > 0;
  const counted = Object.values(own.states).reduce((sum, number) => sum + number, 0);
  text(parts.none, counted > service.endpoints.size ? `Its ${count(counted)} endpoints are too many to be shown here.` : 'It has no endpoint.');
  parts.more.hidden = found.length <= parts.shown;
  text(parts.more, `Show more endpoints: ${count(found.length - parts.shown)} are not shown`);
  draw_watchers(parts.watchers, own);
  entries(parts.journal, (service.journal ?? []).slice(0, 8), { pin: parts.pin_to });
  parts.unpin.hidden = !own.pin;
  parts.pinned.hidden = !own.pin;
  if (own.pin) text(parts.pinned, `Pinned to set ${own.pin.set} for another ${span(own.pin.ends - now())}.`);
}

function draw_facts(list, own, service) {
  const limits = own.limits && [own.limits.concurrent && `${own.limits.in_use} of ${own.limits.concurrent} requests`, own.limits.per_endpoint && `${own.limits.per_endpoint} at an endpoint`, own.limits.waiting && `${own.limits.waiting} wait`].filter(Boolean).join(', ');
  const facts = [
    ['Balance', own.balance],
    ['Registered as', own.registered_name !== service.name && own.registered_name],
    ['Zone', own.zone],
    ['Limits', limits],
    ['Fallback', own.fallback],
    ['Served by', own.chosen],
    ['Subsets', own.subsets.join('; ')],
    ['Requests', count(own.requests)],
    ['Retries', `${count(own.retries)}, ${count(own.retries_left)} left in the budget${own.retries_refused ? `, ${count(own.retries_refused)} refused` : ''}`],
    ['Answered by the proxy', own.failed && count(own.failed)],
    ['Given up by clients', own.abandoned && count(own.abandoned)],
  ].filter(([, value]) => value);
  reconcile(list, facts, {
    key: ([name]) => name,
    create: ([name]) => h('div', null, h('dt', null, name), h('dd')),
    update: (element, [, value]) => text(element.lastChild, value),
  });
}

function draw_watchers(body, own) {
  rows(body, own.watches.map((watch) => {
    const state = watch.given_up ? 'bad' : watch.healthy ? 'good' : watch.read ? 'warning' : 'bad';
    const said = watch.given_up ? 'given up' : watch.healthy ? 'healthy' : watch.read ? 'away' : 'not read yet';
    const why = [watch.error, watch.skipped && `${watch.skipped} entries cannot be called`].filter(Boolean).join('; ');
    return [watch.registry, [h('span', { class: 'state', 'data-state': state }, said), why ? h('span', { class: 'why' }, why) : null].filter(Boolean),
      { class: 'n', content: count(watch.entries) }, watch.heard ? ago(watch.heard) : '–', { class: 'n mid', content: count(watch.failures) }];
  }));
  if (own.watches.length === 0) rows(body, [['proxy.toml', 'its endpoints stand in the file', '', '', { class: 'mid', content: '' }]]);
}

function create_endpoint(endpoint, drain) {
  const cells = { state: h('span', { class: 'state' }), why: h('span', { class: 'why' }), spark: chart('spark') };
  for (const key of ['weight', 'busy', 'rate', 'errors', 'p50', 'p90', 'p99', 'tunnels']) cells[key] = h('td', { class: 'n' });
  for (const key of ['p50', 'p90', 'tunnels']) cells[key].classList.add('wide');
  for (const key of ['weight', 'busy', 'p99']) cells[key].classList.add('mid');
  cells.more = h('span', { class: 'why' });
  cells.drain = h('button', { type: 'button', class: 'plain', onclick: () => drain(row.endpoint) });
  const row = h('tr', null, h('th', { scope: 'row' }, h('span', { class: 'mono' }, endpoint.address), cells.more), h('td', null, cells.state, ' ', cells.drain, cells.why), cells.weight, cells.busy,
    h('td', { class: 'wide' }, cells.spark), cells.rate, cells.errors, cells.p50, cells.p90, cells.p99, cells.tunnels);
  row.cells_of = cells;
  return row;
}

function update_endpoint(row, endpoint, series, own) {
  const cells = row.cells_of;
  const rates = series?.requests_per_second ?? [];
  const label = rates.length ? `now ${rate(endpoint.requests_per_second)} requests a second, at most ${rate(most([rates]))}` : 'no requests yet';
  draw(cells.spark, [rates], { label });
  const drains = is_drained(own, endpoint) ? 'Undrain' : 'Drain';
  text(cells.drain, drains);
  attribute(cells.drain, 'aria-label', `${drains} ${endpoint.address}`);
  const other = own.weights.find((one) => one.endpoint === endpoint.address);
  text(cells.weight, other ? `${count(endpoint.weight)} for a while` : count(endpoint.weight));
  // One that has not changed is the same object.
  if (row.endpoint === endpoint) return;
  row.endpoint = endpoint;
  attribute(cells.state, 'data-state', endpoint.state);
  text(cells.state, endpoint.state);
  cells.drain.hidden = endpoint.state === 'draining';
  const registry = endpoint.registry === 'passing' ? null : `registry: ${endpoint.registry}`;
  text(cells.why, [endpoint.why, registry].filter(Boolean).join('; '));
  text(cells.more, [endpoint.instance, endpoint.tls && 'TLS', ...endpoint.tags].filter(Boolean).join(' · '));
  text(cells.busy, count(endpoint.in_flight));
  text(cells.rate, rate(endpoint.requests_per_second));
  text(cells.errors, percent(endpoint.errors));
  cells.errors.classList.toggle('error', endpoint.errors >= MANY);
  for (const part of ['p50', 'p90', 'p99']) text(cells[part], time(endpoint[`${part}_seconds`]));
  text(cells.tunnels, count(endpoint.tunnels));
  row.classList.toggle('gone', endpoint.state === 'draining');
}
