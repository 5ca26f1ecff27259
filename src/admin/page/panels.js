// Everything but the services: what is unusual, all services together, routes, registries, certificates.

import { json } from './access.js';
import { draw_tiles, tiles } from './detail.js';
import { attribute, find, h, rows, text } from './dom.js';
import { ago, count, day, now, span } from './format.js';
import { model } from './model.js';

const FINDINGS = 8;
const ROUTES = 50;
const LEVELS = { bad: 'Bad', warning: 'Warning', note: 'Note', good: 'All well' };
const view = { findings: FINDINGS, routes: ROUTES, past: null, tiles: null, show: null };

/** Draws the parts that have changed. */
export function render(changed) {
  const draws = {
    ready: readiness, draining: readiness, version: process, listeners: process, started: process, reload: process, connections: process, http2: process,
    findings, routes, tls: certificates, registries, snapshot: registries, recent: traffic,
  };
  new Set([...changed].map((part) => draws[part]).filter(Boolean)).forEach((one) => one());
}

function readiness() {
  const { ready, draining } = model.parts;
  const [level, said] = draining ? ['warning', 'draining'] : ready ? ['good', 'ready'] : ['bad', 'not ready'];
  attribute(find('readiness'), 'data-level', level);
  text(find('readiness'), said);
}

export function process() {
  const { version, started, listeners, connections, http2, reload } = model.parts;
  if (!started) return;
  text(find('version'), `${version}, up ${span(now() - started)}`);
  const last = reload.last && `last reload ${ago(reload.last.at)}${reload.last.error ? ', which failed' : ''}`;
  const clients = `${count(connections)} client connections, ${count(http2.connections)} of them HTTP/2`;
  text(find('process'), [`Listens on ${listeners.join(', ')}`, clients, last].filter(Boolean).join(' · '));
}

function findings() {
  const all = model.parts.findings;
  const list = find('findings');
  const shown = all.slice(0, view.findings);
  const print = JSON.stringify(shown);
  find('more-findings').hidden = all.length <= shown.length;
  text(find('more-findings'), `Show ${count(all.length - shown.length)} more`);
  if (list.print === print) return;
  list.print = print;
  const items = shown.map(({ level, service, text: said }) => {
    const rest = service && said.startsWith(service) ? said.slice(service.length) : said;
    const link = service && h('button', { type: 'button', class: 'plain', onclick: () => view.show(service) }, service);
    return h('li', { 'data-level': level }, h('b', null, LEVELS[level]), h('p', null, link, rest));
  });
  if (items.length === 0) items.push(h('li', { 'data-level': 'good' }, h('b', null, LEVELS.good), h('p', null, 'Nothing is unusual.')));
  list.replaceChildren(...items);
}

function traffic() {
  view.tiles ??= tiles();
  if (!view.tiles[0].isConnected) find('tiles').replaceChildren(...view.tiles);
  let in_flight = 0;
  let tunnels = 0;
  for (const { own } of model.services.values()) {
    in_flight += own?.in_flight ?? 0;
    tunnels += own?.tunnels ?? 0;
  }
  draw_tiles(view.tiles, { ...model.parts.recent, in_flight, tunnels }, view.past);
}

/** Asks for the last fifteen minutes of all services together. */
export async function refresh() {
  view.past = (await json('/api/history'))?.all ?? view.past;
  if (model.parts.recent) traffic();
  process();
}

function routes() {
  const all = model.parts.routes;
  text(find('routes-count'), count(all.length));
  const shown = all.slice(0, view.routes);
  find('more-routes').hidden = all.length <= shown.length;
  text(find('more-routes'), `Show ${count(Math.min(ROUTES, all.length - shown.length))} more of ${count(all.length - shown.length)}`);
  const value = (said) => (said === true ? 'is there' : said === false ? 'is not there' : typeof said === 'object' ? `begins with ${said.prefix}` : said);
  const named = (kind, conditions) => Object.entries(conditions ?? {}).map(([name, said]) => `${kind} ${name}: ${value(said)}`);
  rows(find('route-rows'), shown.map((route) => {
    const only = [...(route.method ?? []), ...named('header', route.header), ...named('query', route.query), ...named('cookie', route.cookie)];
    const goals = route.split?.map((share) => [share.service, ` (${share.weight}${share.weight_of_file === undefined ? '' : ` for a while; ${share.weight_of_file} in the file`})`]) ?? [[route.service, '']];
    const subset = [...(route.tags ?? []), ...Object.entries(route.meta ?? {}).map((pair) => pair.join('='))].join(', ');
    const lead = goals.flatMap(([service, share], place) => [place ? ', ' : '', service.includes('{') ? service
      : h('button', { type: 'button', class: 'plain', onclick: () => view.show(service) }, service), share]);
    const rate = route.rate ? `, ${route.rate.requests} requests in ${route.rate.per_seconds} s` : '';
    const by = route.line === null ? `tags of ${route.tagged_by.join(', ')}` : `line ${route.line}${route.file ? ` of ${route.file}` : ''}`;
    return [{ class: 'mono', content: route.host ?? 'any' }, [h('span', { class: 'mono' }, route.path), only.length ? h('span', { class: 'why' }, only.join(', ')) : null].filter(Boolean),
      [...lead, subset ? ` (${subset})` : '', rate].filter(Boolean), { class: 'mid quiet', content: by }];
  }));
}

export function registries() {
  const watches = new Map();
  for (const { own } of model.services.values()) {
    for (const watch of own?.watches ?? []) {
      const of = watches.get(watch.registry) ?? { all: 0, failing: 0, error: null, heard: 0 };
      of.all += 1;
      if (!watch.healthy) of.failing += 1;
      of.error ??= watch.healthy ? null : watch.error;
      of.heard = Math.max(of.heard, watch.heard ?? 0);
      watches.set(watch.registry, of);
    }
  }
  rows(find('registry-rows'), (model.parts.registries ?? []).map((registry) => {
    const of = watches.get(registry.name) ?? { all: 0, failing: 0, error: null, heard: 0 };
    const catalog = registry.catalog;
    const error = of.error ?? catalog?.watch.error;
    const is_idle = of.all === 0 && !catalog;
    const is_away = of.failing > 0 || (catalog && !catalog.watch.healthy);
    const heard = Math.max(of.heard, catalog?.watch.heard ?? 0);
    const state = h('span', { class: 'state', 'data-state': is_idle ? 'idle' : is_away ? 'warning' : 'good' }, is_idle ? 'not asked' : is_away ? 'away' : 'healthy');
    const said = is_away ? [error, heard && `last heard ${ago(heard)}`].filter(Boolean).join('; ') : '';
    const held = registry.watches ? ` (${registry.watches.held} of ${registry.watches.limit} at once)` : '';
    return [registry.name, registry.kind, [state, said ? h('span', { class: 'why' }, said) : null].filter(Boolean), { class: 'n mid', content: count(of.all) + held },
      { class: 'n mid', content: count(of.failing) }, catalog ? `${count(catalog.services)} services` : '–'];
  }));
  const { snapshot } = model.parts;
  find('snapshot').hidden = !snapshot;
  if (snapshot) text(find('snapshot'), `Snapshot on disk: ${snapshot.file}, ${snapshot.error ? `cannot be written: ${snapshot.error}` : snapshot.written ? `written ${ago(snapshot.written)}` : 'not written yet'}.`);
}

function certificates() {
  const all = (model.parts.tls ?? []).flatMap((tls) => tls.certificates.map((certificate) => ({ listener: tls.listener, ...certificate })));
  find('certificate-table').hidden = all.length === 0;
  find('no-certificate').hidden = all.length > 0;
  all.sort((a, b) => a.not_after - b.not_after);
  rows(find('certificate-rows'), all.map((one) => {
    const left = one.not_after - now();
    const state = left <= 0 || one.error || one.not_before > now() ? 'bad' : left < 14 * 86400 ? 'warning' : 'good';
    const said = left <= 0 ? 'expired' : one.not_before > now() ? 'not yet valid' : one.error ? 'its new file is not used' : state === 'warning' ? 'expires soon' : 'in use';
    return [one.hosts.join(', '), { class: 'mono mid', content: one.listener }, `${day(one.not_after)} (${ago(one.not_after)})`, { class: 'mono mid', content: one.file },
      [h('span', { class: 'state', 'data-state': state }, said), one.error ? h('span', { class: 'why' }, one.error) : null].filter(Boolean)];
  }));
}

export function prepare(show) {
  view.show = show;
  find('more-findings').addEventListener('click', () => {
    view.findings = Infinity;
    findings();
  });
  find('more-routes').addEventListener('click', () => {
    view.routes += ROUTES;
    routes();
  });
}
