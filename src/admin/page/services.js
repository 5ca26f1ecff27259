// The table of services: a row for each, which opens to what there is to say of it.

import { json } from './access.js';
import { chart, draw, most } from './chart.js';
import * as detail from './detail.js';
import { attribute, find, h, reconcile, text } from './dom.js';
import { count, percent, rate, time } from './format.js';
import { health, matches, model, routes_to, words } from './model.js';

const PAGE = 100;
const STATES = ['serving', 'warming', 'doubted', 'held', 'ejected', 'failing', 'unhealthy', 'maintenance', 'draining'];
/** A share of errors that is marked. */
const MANY = 0.05;

const view = { sought: [], order: 'name', shown: PAGE, opened: new Set() };

/** Opens a service, and goes to it. */
export function show(name) {
  view.opened.add(name);
  const search = find('search');
  if (!matches(model.services.get(name) ?? { text: name, name, endpoints: new Map() }, view.sought)) {
    search.value = '';
    view.sought = [];
  }
  render();
  const row = find('service-table').tBodies[0].byKey.get(name);
  row?.scrollIntoView({ block: 'start' });
  row?.querySelector('button').focus({ preventScroll: true });
}

function sorted(found) {
  const by_name = (a, b) => (a.service.name < b.service.name ? -1 : 1);
  const rank = ({ service }) => {
    const levels = (model.unusual.get(service.name) ?? []).map((finding) => ['bad', 'warning', 'note'].indexOf(finding.level));
    return Math.min(3, ...levels);
  };
  const busy = ({ service }) => -service.own.requests_per_second;
  const of = { unusual: rank, busy }[view.order];
  return found.sort((a, b) => (of ? of(a) - of(b) : 0) || by_name(a, b));
}

/** Draws what has changed. */
export function render() {
  let endpoints = 0;
  const found = [];
  for (const service of model.services.values()) {
    if (!service.own) continue;
    endpoints += health(service.own).all;
    const filter = matches(service, view.sought);
    if (filter) found.push({ service, filter });
  }
  sorted(found);
  const shown = found.slice(0, view.shown);
  const items = shown.flatMap((item) => (view.opened.has(item.service.name) ? [item, { ...item, detail: true }] : [item]));
  reconcile(find('service-table').tBodies[0], items, {
    key: (item) => (item.detail ? `detail of ${item.service.name}` : item.service.name),
    create: (item) => (item.detail ? detail.create(item.service) : create(item.service)),
    update: (element, item) => (item.detail ? detail.update(element, item) : update(element, item.service)),
  });
  said(found, shown, endpoints);
  want_series(shown.map((item) => item.service));
}

function said(found, shown, endpoints) {
  const all = model.services.size;
  const of = view.sought.length ? `${count(found.length)} of ${count(all)}` : count(all);
  text(find('services-count'), `${of}, with ${count(endpoints)} endpoints`);
  const more = find('more-services');
  more.hidden = found.length <= shown.length;
  text(more, `Show ${count(Math.min(PAGE, found.length - shown.length))} more of ${count(found.length - shown.length)}`);
  const none = find('no-service');
  none.hidden = found.length > 0;
  text(none, all ? 'No service, route or endpoint is called so.' : 'There is no service yet.');
  const names = (model.parts.listed ?? []).filter((name) => view.sought.every((word) => name.toLowerCase().includes(word)));
  const listed = find('listed');
  listed.hidden = names.length === 0;
  const some = names.slice(0, 30).join(', ') + (names.length > 30 ? ' …' : '');
  text(listed, `Registered, and not yet asked for by any request (${count(names.length)}): ${some}`);
}

function create(service) {
  const { name } = service;
  const cells = {
    button: h('button', { type: 'button', class: 'plain name', 'aria-expanded': 'false', onclick: () => toggle(name) }, name),
    tags: h('span'),
    routes: h('td', { class: 'wide routes-of' }),
    bar: h('span', { class: 'bar', 'aria-hidden': 'true' }),
    health: h('span'),
    spark: chart('spark'),
  };
  for (const key of ['rate', 'errors', 'p50', 'p90', 'p99', 'busy', 'retries']) cells[key] = h('td', { class: 'n' });
  for (const key of ['p50', 'p90', 'retries']) cells[key].classList.add('wide');
  for (const key of ['p99', 'busy']) cells[key].classList.add('mid');
  const row = h('tr', null, h('th', { scope: 'row' }, cells.button, cells.tags), cells.routes,
    h('td', null, h('span', { class: 'share' }, cells.bar, cells.health)), h('td', { class: 'wide' }, cells.spark),
    cells.rate, cells.errors, cells.p50, cells.p90, cells.p99, cells.busy, cells.retries);
  row.cells_of = cells;
  return row;
}

function toggle(name) {
  if (!view.opened.delete(name)) view.opened.add(name);
  render();
}

function update(row, service) {
  const { own, name } = service;
  const cells = row.cells_of;
  attribute(cells.button, 'aria-expanded', String(view.opened.has(name)));
  update_spark(cells.spark, service);
  const unusual = model.unusual.get(name);
  const routes = routes_to(name).join('\n');
  if (row.version === service.version && row.unusual === unusual && row.routes === routes) return;
  Object.assign(row, { version: service.version, unusual, routes });
  text(cells.routes, routes.split('\n').slice(0, 3).join(', ') + (routes.split('\n').length > 3 ? ' …' : ''));
  const { well, all } = health(own);
  text(cells.health, `${count(well)} / ${count(all)}`);
  update_bar(cells.bar, own.states);
  text(cells.rate, rate(own.requests_per_second));
  text(cells.errors, percent(own.errors));
  cells.errors.classList.toggle('error', own.errors >= MANY);
  for (const part of ['p50', 'p90', 'p99']) text(cells[part], time(own[`${part}_seconds`]));
  text(cells.busy, count(own.in_flight) + (own.limits?.waiting ? ` + ${count(own.limits.waiting)}` : ''));
  text(cells.retries, rate(own.retries_per_second));
  update_tags(cells.tags, own, unusual);
}

function update_bar(bar, states) {
  const there = STATES.filter((state) => states[state]);
  const print = there.map((state) => `${state}${states[state]}`).join();
  if (bar.print === print) return;
  bar.print = print;
  bar.replaceChildren(...there.map((state) => {
    const part = h('i', { 'data-state': state });
    part.style.flexGrow = states[state];
    return part;
  }));
}

function update_tags(tags, own, unusual) {
  const wanted = [];
  const level = ['bad', 'warning'].find((one) => unusual?.some((finding) => finding.level === one));
  if (level) wanted.push([level === 'bad' ? 'ill' : 'unusual', level]);
  if (own.pin) wanted.push([`pinned to ${own.pin.set}`, 'warning']);
  if (own.drains.length) wanted.push([`${own.drains.length} drained`, 'warning']);
  if (own.weights.length) wanted.push([`${own.weights.length} reweighed`, 'warning']);
  if (own.tunnels) wanted.push([`${count(own.tunnels)} tunnels`, null]);
  const print = JSON.stringify(wanted);
  if (tags.print === print) return;
  tags.print = print;
  tags.replaceChildren(...wanted.map(([what, level]) => h('span', { class: 'tag', 'data-level': level }, what)));
}

function update_spark(spark, { series, own }) {
  const rates = series?.requests_per_second ?? [];
  const label = rates.length ? `now ${rate(own.requests_per_second)} requests a second, at most ${rate(most([rates]))}` : 'no requests yet';
  draw(spark, [rates], { label });
}

/** Services whose past is asked for. */
const asked = new Set();

async function want_series(services) {
  const names = services.filter((service) => !service.series && service.own.requests > 0 && !asked.has(service)).slice(0, 50);
  if (names.length === 0) return;
  names.forEach((service) => asked.add(service));
  const query = new URLSearchParams(names.map((service) => ['service', service.name]));
  const past = await json(`/api/history?${query}`);
  for (const service of names) {
    asked.delete(service);
    service.series = past?.services[service.name] ?? { requests_per_second: [] };
  }
  render();
}

/** Every five seconds: charts move on. */
export function tick() {
  for (const service of model.services.values()) {
    const rates = service.series?.requests_per_second;
    if (!rates) continue;
    rates.push(service.own.requests_per_second);
    if (rates.length > 180) rates.shift();
  }
  for (const name of view.opened) {
    if (model.services.has(name)) detail.refresh(model.services.get(name), render);
  }
  render();
}

export function prepare() {
  const search = find('search');
  search.addEventListener('input', () => {
    view.sought = words(search.value);
    view.shown = PAGE;
    render();
  });
  find('order').addEventListener('change', (event) => {
    view.order = event.target.value;
    render();
  });
  find('more-services').addEventListener('click', () => {
    view.shown += PAGE;
    render();
  });
  addEventListener('keydown', (event) => {
    if (event.key === '/' && !event.target.matches('input, textarea, select')) {
      event.preventDefault();
      search.focus();
    }
  });
}
