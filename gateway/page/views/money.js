// What it cost, what budgets have left, and how the models do.
import { html, useState } from "/page/vendor/htm-preact.js";
import { Lines } from "/page/chart.js";
import { Bar, Empty, Figure, Problem, Table, Words, useAsked } from "/page/parts.js";
import { count, ms, percent, rate, share, tenantName, usd } from "/page/words.js";

const PERIODS = [["1", "a day"], ["7", "a week"], ["30", "30 days"], ["90", "90 days"]];
const MEASURES = [
  ["first_ms", "time to first token", ms], ["whole_ms", "time of a whole answer", ms], ["queue_ms", "time in queue", ms],
  ["tokens_per_second", "tokens per second", rate], ["errors", "error rate", percent], ["confidence", "confidence", share],
];
const EVERY = 15_000;
const MOST_LINES = 6;

export function MoneyView({ query, now }) {
  const days = PERIODS.some(([id]) => id === query.days) ? query.days : "7";
  const since = new Date(Math.floor(now / 3_600_000) * 3_600_000 - days * 86_400_000).toISOString();
  const cost = useAsked(`cost?since=${encodeURIComponent(since)}`, EVERY);
  const models = useAsked(`models?since=${encodeURIComponent(since)}`, EVERY);
  const budgets = useAsked("budgets", EVERY);
  return html`
    <h1>Money and models</h1>
    <p class="periods" role="group" aria-label="Period">${PERIODS.map(([id, name]) => html`
      <a class="button" href=${`#/money?days=${id}`} aria-current=${id === days ? "true" : null}>${name}</a>`)}</p>
    <${Problem} error=${cost.error ?? models.error} />
    ${!cost.told && !cost.error && html`<${Empty}>Reading the books …<//>`}
    ${cost.told && html`<${Cost} rows=${cost.told.cost} since=${Date.parse(since) / 1000} />`}
    <h2>Budgets</h2>
    ${budgets.told && html`<${Budgets} budgets=${budgets.told.budgets} />`}
    ${budgets.error && html`<${Problem} error=${budgets.error} />`}
    <h2>Models</h2>
    ${models.told && html`<${Models} told=${models.told} since=${Date.parse(since) / 1000} />`}`;
}

function Cost({ rows, since }) {
  const known = rows.filter((row) => row.cost_usd != null);
  const sum = (field) => known.reduce((total, row) => total + (row[field] ?? 0), 0);
  const unpriced = rows.reduce((total, row) => total + row.unpriced, 0);
  if (!rows.length) return html`<${Empty}>Nothing was asked in this time.<//>`;
  return html`
    <dl class="figures">
      <${Figure} name="cost" value=${usd(known.length ? sum("cost_usd") : null)} note=${sum("simulated_usd") ? `${usd(sum("simulated_usd"))} of it simulated` : null} />
      <${Figure} name="of unknown cost" value=${count(unpriced)} note=${unpriced ? "attempts, not in the sums" : null} />
      <${Figure} name="tokens" value=${count(rows.reduce((all, row) => all + row.prompt_tokens + row.completion_tokens, 0))} />
    </dl>
    <h2>Cost by day</h2>
    <${Lines} label="Cost by day and model, US dollars; the table has the same figures" ...${byDay(rows)} since=${since - (since % 86_400)} shown=${usd} bars />
    <${Table} label="Cost by day, model and tenant" columns=${COST} rows=${rows} rowKey=${(r) => `${r.day}/${r.model_id}/${r.tenant}`} />`;
}

function byDay(rows) {
  const days = [...new Set(rows.map((row) => row.day))].sort();
  const models = [...new Set(rows.map((row) => row.model_id))];
  const spent = (model, day) => {
    const known = rows.filter((row) => row.model_id === model && row.day === day && row.cost_usd != null);
    return known.length ? known.reduce((sum, row) => sum + row.cost_usd, 0) : null;
  };
  return {
    times: days.map((day) => Date.parse(day) / 1000),
    lines: models.slice(0, MOST_LINES).map((model) => ({ name: model, values: days.map((day) => spent(model, day)) })),
  };
}

const COST = [
  { name: "day", of: (r) => r.day },
  { name: "model", of: (r) => html`<${Words}>${r.model_id}<//>` },
  { name: "tenant", of: (r) => html`<${Words}>${tenantName(r.tenant)}<//>` },
  { name: "requests", number: true, of: (r) => count(r.requests) },
  { name: "tokens in", number: true, of: (r) => count(r.prompt_tokens) },
  { name: "tokens out", number: true, of: (r) => count(r.completion_tokens) },
  { name: "cost", number: true, of: (r) => html`${r.cost_usd == null ? "unknown" : usd(r.cost_usd)}${r.simulated_usd ? " (simulated)" : ""}` },
  { name: "of unknown cost", number: true, of: (r) => (r.unpriced ? count(r.unpriced) : "") },
];

const Budgets = ({ budgets }) =>
  budgets.length
    ? html`<ul class="budgets">${budgets.map((budget) => html`
        <li><b><${Words}>${budget.tenant == null ? "everybody" : tenantName(budget.tenant)}<//></b>
          ${budget.model_id && html` <${Words}>${budget.model_id}<//>`} per ${budget.per}
          <${Bar} of=${Number(budget.spent_usd ?? 0)} most=${Number(budget.limit_usd)} label="spent" />
          <small>${budget.spent_usd == null ? "spent: unknown" : `${usd(Number(budget.spent_usd))} spent, ${usd(Math.max(0, budget.limit_usd - budget.spent_usd))} left`} of ${usd(Number(budget.limit_usd))}</small></li>`)}</ul>`
    : html`<${Empty}>There are none. <code>bullpen keys create --budget 5/day</code> makes one with a key.<//>`;

const MODELS = [
  { name: "model", of: (m) => html`<${Words}>${m.model_id}<//>` },
  { name: "answers", number: true, of: (m) => count(m.answers) },
  { name: "errors", number: true, of: (m) => percent(m.error_rate) },
  { name: "median", number: true, of: (m) => ms(m.p50_ms) },
  { name: "p95", number: true, of: (m) => ms(m.p95_ms) },
  { name: "confidence", number: true, of: (m) => share(m.confidence) },
  { name: "judged", number: true, of: (m) => (m.judgements ? `${share(m.feedback)} (${count(m.judgements)})` : "–") },
  { name: "cost", number: true, of: (m) => (m.cost_usd == null ? "unknown" : usd(m.cost_usd)) },
  { name: "per answer", number: true, of: (m) => usd(m.cost_per_answer) },
  { name: "of unknown cost", number: true, of: (m) => (m.unpriced ? count(m.unpriced) : "") },
];

function Models({ told, since }) {
  const [measure, setMeasure] = useState("first_ms");
  if (!told.models.length) return html`<${Empty}>No model was asked in this time.<//>`;
  const [, name, shown] = MEASURES.find(([id]) => id === measure);
  const starts = [...new Set(told.over_time.map((row) => row.start))].sort();
  const value = (row) => (measure !== "errors" ? row?.[measure] : row && row.failures / Math.max(1, row.failures + row.answers)) ?? null;
  const lines = told.models.slice(0, MOST_LINES).map(({ model_id }) => ({
    name: model_id,
    values: starts.map((start) => value(told.over_time.find((row) => row.start === start && row.model_id === model_id))),
  }));
  return html`
    <${Table} label="Models" columns=${MODELS} rows=${told.models} rowKey=${(m) => m.model_id} />
    <p><label>Over time <select value=${measure} onChange=${(event) => setMeasure(event.target.value)}>
      ${MEASURES.map(([id, text]) => html`<option value=${id}>${text}</option>`)}</select></label></p>
    <${Lines} label=${`${name}, by model, over time`} since=${since} times=${starts.map((start) => Date.parse(start) / 1000)} lines=${lines} shown=${shown} />`;
}
