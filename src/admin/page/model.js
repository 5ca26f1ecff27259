// What is known: the parts of the status, and services with their endpoints. Knows nothing of how it is
// shown.

/** States in which an endpoint is picked as ever. */
const WELL = new Set(['serving', 'warming']);

export const model = {
  parts: {},
  services: new Map(),
  /** The findings of each service. */
  unusual: new Map(),
  /** Texts of the routes to each service. */
  routes: new Map(),
  templates: [],
  /** Counts what has changed of the services. */
  version: 0,
};

export const is_well = (endpoint) => WELL.has(endpoint.state);

/** How many of a service's endpoints may be picked as ever, and how many there are. */
export function health({ states }) {
  let well = 0;
  let all = 0;
  for (const [state, number] of Object.entries(states)) {
    if (state === 'draining') continue;
    all += number;
    if (WELL.has(state)) well += number;
  }
  return { well, all };
}

/** Takes over what has changed; returns the names of the parts that did. */
export function apply(frame) {
  if (frame.whole) {
    model.parts = {};
    const there = new Set(frame.services.map((service) => service.name));
    for (const name of model.services.keys()) if (!there.has(name)) model.services.delete(name);
  }
  Object.assign(model.parts, frame.parts);
  for (const change of frame.services) change_service(change, frame.whole);
  for (const name of frame.gone) model.services.delete(name);
  if (frame.parts.findings) group_findings(frame.parts.findings);
  if (frame.parts.routes) group_routes(frame.parts.routes);
  if (frame.services.length || frame.gone.length) model.version += 1;
  return new Set(Object.keys(frame.parts));
}

function change_service({ name, own, endpoints, gone }, is_whole) {
  let service = model.services.get(name);
  if (!service) {
    service = { name, own: null, endpoints: new Map(), text: '', series: null, version: 0, joined: 0 };
    model.services.set(name, service);
  }
  if (is_whole) {
    service.endpoints.clear();
    service.series = null;
  }
  if (own) {
    service.own = own;
    service.text = [name, own.registered_name, own.balance, ...own.watches.map((watch) => watch.registry)].join(' ').toLowerCase();
  }
  for (const endpoint of endpoints) {
    endpoint.text = [endpoint.instance, endpoint.address, endpoint.state, ...endpoint.tags].join(' ').toLowerCase();
    if (!service.endpoints.has(endpoint.key)) service.joined += 1;
    service.endpoints.set(endpoint.key, endpoint);
  }
  if (gone.length) service.joined += 1;
  for (const key of gone) service.endpoints.delete(key);
  service.version += 1;
}

function group_findings(findings) {
  model.unusual.clear();
  for (const finding of findings) {
    if (!finding.service) continue;
    if (!model.unusual.has(finding.service)) model.unusual.set(finding.service, []);
    model.unusual.get(finding.service).push(finding);
  }
}

/** Host and path of a route, as one reads them. */
export const where = (route) => `${route.host ?? ''}${route.path}`;

function group_routes(routes) {
  model.routes.clear();
  model.templates = [];
  for (const route of routes) {
    const services = route.split?.map((share) => share.service) ?? [route.service];
    for (const service of services) {
      if (service === '{service}') model.templates.push(where(route));
      else if (!model.routes.has(service)) model.routes.set(service, [where(route)]);
      else if (!model.routes.get(service).includes(where(route))) model.routes.get(service).push(where(route));
    }
  }
}

/** The routes to a service: its own, else those that find any service by its name. */
export function routes_to(name) {
  return model.routes.get(name) ?? model.templates.map((template) => template.replace('{service}', name));
}

export const words = (query) => query.toLowerCase().split(/\s+/).filter(Boolean);

/**
 * Whether a service is what is searched for: each word is in what is said of it or of one of its
 * endpoints. Returns how its endpoints are filtered, or `null` where it is none.
 */
export function matches(service, sought) {
  if (sought.length === 0) return () => true;
  const own = `${service.text} ${routes_to(service.name).join(' ').toLowerCase()}`;
  const rest = sought.filter((word) => !own.includes(word));
  if (rest.length === 0) return () => true;
  const is_it = (endpoint) => rest.every((word) => endpoint.text.includes(word));
  for (const endpoint of service.endpoints.values()) if (is_it(endpoint)) return is_it;
  return null;
}
