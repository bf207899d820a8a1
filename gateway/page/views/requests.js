// Everything in the books: the newest as they come, searched by what the address says.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "/page/vendor/htm-preact.js";
import { ask } from "/page/api.js";
import { Badge, Empty, Problem, Table, Words, useAsked } from "/page/parts.js";
import { count, moment, ms, share, tenantName, usd } from "/page/words.js";

const FILTERS = [
  ["name", "Request or task id"], ["text", "Words"], ["model", "Model"], ["worker", "Worker"], ["tenant", "Tenant"], ["code", "Error code"],
];
const PAGE = 100;
const EVERY = 2000;
const KEPT = "bullpen.columns";

const COLUMNS = {
  at: { name: "asked at", of: (r) => html`<a href=${`#/requests/${r.request_id}`}>${moment(r.created_at)}</a>` },
  status: { name: "status", of: (r) => (r.status === "ok" ? html`<${Badge} kind="good">ok<//>` : html`<${Badge} kind="bad">${r.error_code ?? "error"}<//>`) },
  task: { name: "task", of: (r) => html`<span class="cut"><${Words}>${r.task_id}<//></span>` },
  tenant: { name: "tenant", of: (r) => html`<${Words}>${tenantName(r.tenant)}<//>` },
  model: { name: "model", of: (r) => html`<${Words}>${r.model_id}<//>` },
  worker: { name: "worker", of: (r) => html`<${Words}>${r.worker_id}<//>` },
  attempts: { name: "attempts", number: true, of: (r) => count(r.attempts) },
  first: { name: "first token", number: true, of: (r) => ms(r.ttft_ms) },
  whole: { name: "whole", number: true, of: (r) => ms(r.duration_ms) },
  tokens: { name: "tokens", number: true, of: (r) => count(r.tokens_used) },
  cost: { name: "cost", number: true, of: (r) => html`${usd(r.cost_usd)}${r.simulated ? " (simulated)" : ""}` },
  confidence: { name: "confidence", number: true, of: (r) => share(r.confidence) },
  question: { name: "question", of: (r) => html`<span class="cut wide"><${Words}>${r.prompt}<//></span>` },
  answer: { name: "answer", of: (r) => html`<span class="cut wide"><${Words}>${r.output ?? r.error_message}<//></span>` },
};
const USUAL = ["at", "status", "tenant", "model", "worker", "attempts", "whole", "tokens", "cost", "question"];

export function RequestsView({ query, who }) {
  const [older, setOlder] = useState({ rows: [], next: undefined, error: null });
  const [chosen, setChosen] = useState(kept);
  const filter = new URLSearchParams({ ...query, limit: PAGE }).toString();
  const { told, error } = useAsked(`requests?${filter}`, EVERY);
  useEffect(() => setOlder({ rows: [], next: undefined, error: null }), [filter]);

  const more = async () => {
    try {
      const first = older.next === undefined;
      const after = first ? told.next : older.next;
      const page = await ask(`requests?${new URLSearchParams({ ...query, limit: PAGE, after })}`);
      // The newest page moves on meanwhile: what it had is kept with the older ones.
      setOlder({ rows: [...(first ? told.requests : older.rows), ...page.requests], next: page.next, error: null });
    } catch (failed) {
      setOlder((before) => ({ ...before, error: failed }));
    }
  };
  const choose = (id) => {
    const next = Object.keys(COLUMNS).filter((one) => (one === id ? !chosen.includes(id) : chosen.includes(one)));
    localStorage.setItem(KEPT, JSON.stringify(next));
    setChosen(next);
  };

  const rows = useMemo(() => unique([...(told?.requests ?? []), ...older.rows]), [told, older]);
  const columns = useMemo(() => chosen.map((id) => COLUMNS[id]), [chosen]);
  // The mesh's events are not its concern: they draw the page four times a second, and it may be long.
  const table = useMemo(() => html`<${Table} label="Requests" columns=${columns} rows=${rows} rowKey=${(r) => r.request_id} />`, [rows, columns]);
  const next = older.next === undefined ? told?.next : older.next;
  return html`
    <h1>Requests</h1>
    <${Filters} query=${query} who=${who} />
    <details class="choose"><summary>Columns</summary><div>${Object.entries(COLUMNS).map(([id, column]) => html`
      <label><input type="checkbox" checked=${chosen.includes(id)} onChange=${() => choose(id)} /> ${column.name}</label>`)}</div></details>
    <${Problem} error=${error ?? older.error} />
    ${!told && !error && html`<${Empty}>Reading the books …<//>`}
    ${told && !rows.length && html`<${Empty}>${Object.keys(query).length ? "Nothing in the books is like that." : "The books are empty: ask something."}<//>`}
    ${rows.length > 0 && html`
      ${table}
      <p class="more">${count(rows.length)} shown ${next ? html`<button onClick=${more}>Older ones</button>` : "– that is all"}</p>`}`;
}

// Its words are the person's once it is shown: `value` as a property would be put back at each event of the mesh.
function Field({ name, label, value }) {
  const box = useRef();
  useLayoutEffect(() => { box.current.value = value; }, []);
  return html`<label>${label} <input ref=${box} name=${name} maxlength="256" /></label>`;
}

function Filters({ query, who }) {
  const search = (event) => {
    event.preventDefault();
    const told = [...new FormData(event.target)].filter(([, value]) => value.trim());
    location.hash = `#/requests?${new URLSearchParams(told.map(([name, value]) => [name, value.trim()]))}`;
  };
  const shown = FILTERS.filter(([name]) => name !== "tenant" || who.tenant == null);
  return html`
    <form class="filters" role="search" onSubmit=${search} key=${JSON.stringify(query)}>
      ${shown.map(([name, label]) => html`<${Field} name=${name} label=${label} value=${query[name] ?? ""} />`)}
      <label>Status <select name="status">${["", "ok", "error"].map((one) => html`
        <option value=${one} selected=${(query.status ?? "") === one}>${one || "any"}</option>`)}</select></label>
      <button class="main">Search</button>
      ${Object.keys(query).length > 0 && html`<a class="button" href="#/requests">Clear</a>`}
    </form>`;
}

function kept() {
  try {
    const told = JSON.parse(localStorage.getItem(KEPT)).filter((id) => id in COLUMNS);
    return told.length ? told : USUAL;
  } catch {
    return USUAL;
  }
}

function unique(rows) {
  const seen = new Set();
  return rows.filter((row) => !seen.has(row.request_id) && seen.add(row.request_id));
}
