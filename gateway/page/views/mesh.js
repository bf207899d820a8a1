// Every worker as a card, Managers and gateways beside them, and requests as they move.
import { html, useEffect, useRef, useState } from "/page/vendor/htm-preact.js";
import { tell } from "/page/api.js";
import { Badge, Bar, Dialog, Empty, Figure, Table, Words, useAsked } from "/page/parts.js";
import { bytes, count, moment, ms, percent, rate, usd } from "/page/words.js";

const LAST_MINUTES = 10;
const SHOWN_MODELS = 4;
const OTHER_MODEL = "another model was asked for"; // as the Manager says it
const FLIGHTS = 8; // dots at once: more than that nobody follows
const GRADE_KIND = { senior: "good", regular: "plain", probation: "weak", benched: "bad" };
const STATE_KIND = { ready: "good", degraded: "weak", starting: "weak", draining: "weak", stopped: "plain", lost: "bad", silent: "bad" };

export function MeshView({ mesh, who, now }) {
  const [asking, setAsking] = useState(null);
  const since = new Date(Math.floor(now / 5000) * 5000 - LAST_MINUTES * 60_000).toISOString();
  const { told: recent } = useAsked(`totals?since=${encodeURIComponent(since)}`);
  const workers = Object.values(mesh.workers).sort((a, b) => a.id.localeCompare(b.id, "en", { numeric: true }));
  useFlights(mesh);
  return html`
    <h1 class="unseen">Mesh</h1>
    <${Totals} totals=${mesh.totals} recent=${recent} />
    <${Roles} mesh=${mesh} who=${who} ask=${setAsking} />
    <h2>Workers <small>${workers.length}</small></h2>
    ${!mesh.known && html`<${Empty}>Looking for workers …<//>`}
    ${mesh.known && !workers.length && html`<${Empty}>No worker is here. <code>bullpen up</code> starts some.<//>`}
    <ul class="cards">${workers.map((card) => html`<${Worker} key=${card.id} card=${card} who=${who} ask=${setAsking} />`)}</ul>
    ${who.tenant == null && html`<${Routes} routes=${mesh.routes} />`}
    ${asking && html`<${Dialog} what=${asking} close=${() => setAsking(null)} />`}`;
}

const Totals = ({ totals, recent }) => html`
  <dl class="figures">
    ${totals && html`
      <${Figure} name="requests" value=${rate(totals.per_second)} note="per s" />
      <${Figure} name="running" value=${count(totals.inflight)} note=${`of ${count(totals.capacity)}`} />
      <${Figure} name="waiting" value=${count(totals.waiting)} />
      <${Figure} name="rerouted" value=${count(totals.rerouted)} note="since start" />`}
    <${Figure} name=${`errors, ${LAST_MINUTES} min`} value=${count(recent?.errors)} note=${recent?.requests ? `of ${count(recent.requests)}` : null} />
    <${Figure} name="first token" value=${ms(recent?.first_ms?.[0])} note=${recent?.first_ms && `p95 ${ms(recent.first_ms[1])}`} />
    <${Figure} name="whole answer" value=${ms(recent?.whole_ms?.[0])} note=${recent?.whole_ms && `p95 ${ms(recent.whole_ms[1])}`} />
    <${Figure} name="cost per hour" value=${usd(recent?.cost_usd == null ? null : (recent.cost_usd * 60) / LAST_MINUTES)}
      note=${recent?.unpriced ? `+ ${count(recent.unpriced)} unknown` : null} />
  </dl>`;

const Roles = ({ mesh, who, ask }) => html`
  <ul class="roles">
    ${mesh.gateways.map((one) => html`<li key=${one.id}><b>${one.id}</b> gateway <${Words}>${one.url}<//></li>`)}
    ${mesh.managers.map((one) => html`
      <li key=${one.id} data-manager=${one.id}><b>${one.id}</b> Manager, ${rate(one.per_second)} per s, ${count(one.inflight)} running, ${count(one.waiting)} waiting
        ${one.outbox_refusal && html` <${Badge} kind="bad">books: <${Words}>${one.outbox_refusal}<//><//>`}
        <${Actions} id=${one.id} actions=${managerActions(one)} who=${who} ask=${ask} /></li>`)}
    ${mesh.accountants.map((one) => html`
      <li key=${one.id}><b>${one.id}</b> telemetry, ${rate(one.per_second)} booked per s${one.waiting ? `, ${count(one.waiting)} to book` : ""}
        ${one.database_away && html` <${Badge} kind="bad">Postgres is away<//>`}</li>`)}
    ${mesh.known && who.tenant == null && !mesh.managers.length && html`<li><${Badge} kind="bad">no Manager says anything<//></li>`}
  </ul>`;

function Worker({ card, who, ask }) {
  const full = card.inflight != null;
  const models = card.models.slice(0, SHOWN_MODELS);
  return html`
    <li class=${`card ${STATE_KIND[card.state] ?? ""}`} data-worker=${card.id}>
      <h3><${Words}>${card.id}<//> <${Badge} kind=${STATE_KIND[card.state] ?? "plain"}>${card.state}<//></h3>
      ${card.reason && html`<p class="reason"><${Words}>${card.reason}<//></p>`}
      ${full && html`
        <${Bar} of=${card.inflight} more=${card.queued} most=${card.capacity} label=${`${card.inflight} running, ${card.queued} queued, room for ${card.capacity}`} />
        <p class="load">${card.inflight} running${card.queued ? `, ${card.queued} queued` : ""} <span>of ${card.capacity}</span></p>`}
      <ul class="models">${models.map((model) => html`<${Model} key=${model.id} model=${model} />`)}
        ${card.models.length > SHOWN_MODELS && html`<li>and ${card.models.length - SHOWN_MODELS} more</li>`}</ul>
      ${full && html`
        <p class="facts">
          <span>${card.backend}</span>
          ${card.tokens_per_second != null && html`<span>${rate(card.tokens_per_second)} tokens/s</span>`}
          ${card.ewma_ms != null && html`<span>${ms(card.ewma_ms)} each</span>`}
          <span>${bytes(card.memory_used)}${card.memory_limit ? ` of ${bytes(card.memory_limit)}` : ""}</span>
          <span>${card.cpu_percent} % CPU</span>
          ${card.gpus.map((gpu) => html`<span>${gpu.name}: ${bytes(gpu.memory_used)} of ${bytes(gpu.memory_total)}, ${Math.round(gpu.utilization)} %</span>`)}
        </p>
        <${Actions} id=${card.id} actions=${workerActions(card)} who=${who} ask=${ask} />`}
    </li>`;
}

const Model = ({ model }) => html`
  <li>
    <${Words}>${model.id}<//>
    ${model.grade && html` <${Badge} kind=${GRADE_KIND[model.grade] ?? "plain"}>${model.grade}${model.by_hand ? ", by hand" : ""}<//>`}
    ${model.stand_in && html` <${Badge} kind="weak">stand-in<//>`}
    <small>${price(model)}</small>
    ${model.trouble && html`<p class="reason"><${Words}>${model.trouble}<//></p>`}
  </li>`;

const price = (model) =>
  model.input_per_mtok == null ? (model.local ? "local" : "price unknown")
    : model.input_per_mtok + model.output_per_mtok === 0 ? "free" : `${usd(model.input_per_mtok)} in, ${usd(model.output_per_mtok)} out per M`;

// What may be done

const Actions = ({ id, actions, who, ask }) => html`
  <details class="actions" onToggle=${closeOthers}>
    <summary aria-label=${`Actions for ${id}`}>Actions</summary>
    <div>${actions.map((action) => html`
      <button disabled=${who.role !== "operator"} title=${who.role === "operator" ? null : "an operator's key may do this"}
        onClick=${(event) => { event.target.closest("details").open = false; ask(action); }}>${action.verb}</button>`)}</div>
  </details>`;

function closeOthers(event) {
  if (!event.target.open) return;
  for (const other of document.querySelectorAll("details.actions[open]")) if (other !== event.target) other.open = false;
}

const order = (kind, id, verb, op, about, more = {}) => ({
  verb, about, title: `${verb}: ${id}`, act: (fields) => tell(`${kind}/${id}/${op}`, fields), ...more,
});

function managerActions({ id }) {
  return [
    order("managers", id, "Drain", "drain", "It finishes what runs and takes no new requests."),
    order("managers", id, "Resume", "resume", "It takes requests again."),
    order("managers", id, "Reload", "reload", "It reads its config again."),
  ];
}

function workerActions({ id, models }) {
  const named = html`<label>Model <select name="model">${models.map((model) => html`<option value=${model.id}>${model.id}</option>`)}</select></label>`;
  const free = html`<label>Model to serve <input name="model" required maxlength="256" /></label>`;
  return [
    order("workers", id, "Drain", "drain", "It finishes what runs and takes nothing new, until it is resumed."),
    order("workers", id, "Resume", "resume", "It takes requests again."),
    order("workers", id, "Swap", "swap", "It loads another model beside the one it serves, then changes over. Nothing that runs is lost.",
      { fields: free, busy: "loading; the worker's card says how far it is …" }),
    order("workers", id, "Bench", "bench", "The model gets a question only now and then, whatever the books say.", { fields: named, danger: true }),
    order("workers", id, "Promote", "promote", "The model has its full share again, whatever the books say.", { fields: named }),
    order("workers", id, "Let the books decide", "ungrade", "Ends a decision by hand.", { fields: named }),
  ];
}

// Requests as they move

function Routes({ routes }) {
  const moved = routes.filter((route) => route.why && route.why !== "first").slice(-12).reverse();
  const columns = [
    { name: "at", of: (r) => moment(r.at) },
    { name: "request", of: (r) => html`<a href=${`#/requests/${r.request_id}`}>…${r.request_id.slice(-8)}</a>` },
    { name: "why", of: (r) => html`<${Badge} kind=${r.why === "failover" ? "bad" : "plain"}>${r.why}<//> attempt ${r.attempt}` },
    { name: "to", of: (r) => (r.winner ? html`<${Words}>${r.winner}<//>` : "nobody") },
    { name: "not to", of: (r) => telling(r.passed_over).map((one) => html`<div><${Words}>${one.worker}<//>: <${Words}>${one.why}<//></div>`) },
  ];
  return html`
    <h2>Reroutes <small>as they happen</small></h2>
    ${moved.length ? html`<${Table} label="Reroutes" columns=${columns} rows=${moved} rowKey=${(r) => `${r.request_id}/${r.attempt}`} />`
      : html`<${Empty}>None while you have been looking.<//>`}`;
}

// Why others did not get it: those that could have answered first, for that is why it moved.
function telling(passedOver) {
  const could = passedOver.filter((one) => one.why !== OTHER_MODEL);
  return (could.length ? could : passedOver).slice(0, 3);
}

// A dot from the Manager to the chosen worker; of a reroute from the worker that was lost.
function useFlights(mesh) {
  const before = useRef(new Map());
  useEffect(() => {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    for (const route of mesh.fresh.slice(-FLIGHTS)) {
      const last = before.current.get(route.request_id);
      before.current.set(route.request_id, route.winner);
      if (before.current.size > 500) before.current.delete(before.current.keys().next().value);
      const from = (last && spot("worker", last)) || spot("manager", route.manager);
      const to = route.winner && spot("worker", route.winner);
      if (from && to) fly(from, to, route.why === "first" ? "dot" : "dot moved");
    }
  }, [mesh.fresh]);
}

const spot = (kind, id) => document.querySelector(`[data-${kind}="${CSS.escape(id)}"]`)?.getBoundingClientRect();

function fly(from, to, name) {
  const dot = document.createElement("i");
  dot.className = name;
  document.body.append(dot);
  const at = (box) => `translate(${box.left + Math.min(box.width / 2, 60)}px, ${box.top + 14}px)`;
  dot.animate([{ transform: at(from) }, { transform: at(to) }], { duration: 500, easing: "ease-in-out" }).finished.finally(() => dot.remove());
}
