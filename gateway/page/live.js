// The mesh as it is now: one stream of events, applied as they come, closed while nobody looks.

const AGAIN_AFTER = [500, 1000, 2000, 5000];
const OLD_AFTER = 5000; // milliseconds without an event; one comes every two seconds at least
const MOST_ROUTES = 60;

const EMPTY = { workers: {}, managers: [], accountants: [], gateways: [], totals: null, routes: [] };

export function liveMesh(changed) {
  let mesh = EMPTY;
  let source = null;
  let heardAt = 0;
  let failures = 0;
  let again = 0;
  let stopped = false;

  const told = (fresh) => changed({ ...mesh, heardAt, known: heardAt > 0, fresh });

  function open() {
    clearTimeout(again);
    source?.close();
    if (document.hidden || stopped) return;
    source = new EventSource("/api/v1/events");
    source.addEventListener("mesh", (event) => hear(() => ({ ...EMPTY, ...JSON.parse(event.data) })));
    source.addEventListener("delta", (event) => {
      const delta = JSON.parse(event.data);
      hear(() => merged(mesh, delta), delta.routes);
    });
    source.addEventListener("alive", () => hear(() => mesh));
    source.onerror = () => {
      source.close();
      again = setTimeout(open, AGAIN_AFTER[Math.min(failures++, AGAIN_AFTER.length - 1)]);
      told([]);
    };
  }

  function hear(next, routes = []) {
    mesh = next();
    heardAt = Date.now();
    failures = 0;
    told(routes);
  }

  function look() {
    if (document.hidden) {
      source?.close();
      clearTimeout(again);
    } else open();
  }

  document.addEventListener("visibilitychange", look);
  open();
  return () => {
    stopped = true;
    document.removeEventListener("visibilitychange", look);
    clearTimeout(again);
    source?.close();
  };
}

export const isOld = (mesh, now) => mesh.known && now - mesh.heardAt > OLD_AFTER;

export function merged(mesh, delta) {
  const next = { ...mesh, ...delta };
  if (delta.workers) {
    next.workers = { ...mesh.workers };
    for (const [id, card] of Object.entries(delta.workers)) {
      if (card === null) delete next.workers[id];
      else next.workers[id] = card;
    }
  }
  next.routes = delta.routes ? [...mesh.routes, ...delta.routes].slice(-MOST_ROUTES) : mesh.routes;
  return next;
}
