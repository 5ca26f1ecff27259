// The journal as a timeline.

import { json } from './access.js';
import { find, h, reconcile } from './dom.js';
import { moment } from './format.js';

const WORDS = {
  added: ['+', 'plus'], removed: ['−', 'minus'], held: ['held', ''], let_go: ['let go', 'minus'], returned: ['back', 'plus'],
  healthy: ['healthy', 'plus'], unhealthy: ['unhealthy', 'minus'], weight_changed: ['weight of', ''], tags_changed: ['tags of', ''],
  meta_changed: ['metadata of', ''], tls_changed: ['TLS of', ''],
};
/** As many changes of an entry are said. */
const CHANGES = 4;

/** Why a set changed, in words. */
function why(entry) {
  switch (entry.why) {
    case 'registry': return `${entry.registry} says so`;
    case 'away': return `${entry.registry} cannot be read`;
    case 'snapshot': return `${entry.registry} had said so before the start`;
    case 'proxy_toml': return 'it stands in proxy.toml';
    case 'guard': return 'the guard has let go';
    case 'pinned': return `pinned to set ${entry.set}`;
    case 'unpinned': return 'no longer pinned';
    case 'drained': return `${entry.endpoint} is drained`;
    case 'undrained': return `${entry.endpoint} is no longer drained`;
    case 'reweighed': return `${entry.endpoint} has the weight ${entry.weight} for a while`;
    case 'unweighed': return `${entry.endpoint} has its own weight again`;
    case 'drain_expired': return `the drain of ${entry.endpoint} is over`;
    case 'pin_expired': return 'the pin’s time is over';
    default: return entry.why;
  }
}

function changes(entry) {
  const said = entry.changes.slice(0, CHANGES).flatMap((change) => {
    const [word, kind] = WORDS[change.what] ?? [change.what, ''];
    const weight = change.what === 'weight_changed' ? `: ${change.weight}` : '';
    return [h('span', { class: kind }, `${word} ${change.address}${weight}`), '  '];
  });
  const more = entry.changes.length - CHANGES + (entry.more ?? 0);
  if (more > 0) said.push(`and ${more} more`);
  return said;
}

function item(entry, { pin, show }) {
  const at = new Date(entry.at * 1000);
  const parts = [h('time', { datetime: at.toISOString() }, moment(entry.at))];
  if (entry.service && show) parts.push(h('button', { type: 'button', class: 'plain', onclick: () => show(entry.service) }, entry.service), ' ');
  parts.push(h('span', null, changes(entry)), h('span', { class: 'quiet' }, ` ${why(entry)}; ${entry.healthy} of ${entry.healthy + entry.unhealthy} healthy${entry.applied ? '' : ', not followed'} `));
  if (pin) parts.push(h('button', { type: 'button', class: 'plain', onclick: () => pin(entry.number) }, `pin to set ${entry.number}`));
  return h('li', null, parts);
}

/** Draws entries, the latest first. */
export function entries(list, all, actions) {
  reconcile(list, all, { key: (entry) => `${entry.service ?? ''} ${entry.number}`, create: (entry) => item(entry, actions) });
}

/** Asks for the latest entries of all services. */
export async function refresh(show) {
  const all = await json('/api/journal?limit=40');
  if (!all) return;
  entries(find('timeline'), all, { show });
  find('no-entry').hidden = all.length > 0;
}
