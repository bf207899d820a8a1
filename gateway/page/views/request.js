// One request: its time, its attempts, the ranking that chose each worker, its words.
import { html } from "/page/vendor/htm-preact.js";
import { Badge, Empty, Figure, Problem, Table, Words, useAsked } from "/page/parts.js";
import { count, moment, ms, share, tenantName, usd } from "/page/words.js";

const TERMS = ["cost", "confidence", "load", "resources", "lateness"];
const OUTCOME_KIND = { ok: "good", failed: "bad", truncated: "bad", uncertain: "bad" };

export function RequestView({ name }) {
  const { told, error } = useAsked(`requests/${encodeURIComponent(name)}`, 5000);
  if (!told) return html`<h1>Request</h1><${Problem} error=${error} />${!error && html`<${Empty}>…<//>`}`;
  const answer = told.response;
  return html`
    <h1>Request <small><${Words}>${answer?.task_id ?? told.request_id}<//></small></h1>
    ${answer ? html`<${Summary} answer=${answer} />` : html`<${Empty}>It is not booked yet.<//>`}
    ${told.attempts.length > 0 && html`<h2>Timeline</h2><${Timeline} told=${told} />
      <h2>Attempts</h2><${Table} label="Attempts" columns=${ATTEMPTS} rows=${told.attempts} />`}
    ${told.decisions.map((decision) => html`<${Decision} key=${decision.attempt} decision=${decision} />`)}
    ${answer && html`<${Kept} answer=${answer} />`}`;
}

const Summary = ({ answer }) => html`
  <dl class="figures">
    <${Figure} name="status" value=${answer.status === "ok" ? html`<${Badge} kind="good">ok<//>` : html`<${Badge} kind="bad">${answer.error_code}<//>`} />
    <${Figure} name="asked at" value=${moment(answer.created_at)} />
    <${Figure} name="tenant" value=${html`<${Words}>${tenantName(answer.tenant)}<//>`} />
    <${Figure} name="answered by" value=${html`<${Words}>${answer.worker_id ?? "–"}<//>`} note=${html`<${Words}>${answer.model_id}<//>`} />
    <${Figure} name="whole" value=${ms(answer.duration_ms)} note=${answer.ttft_ms != null && `first token ${ms(answer.ttft_ms)}`} />
    <${Figure} name="queued" value=${ms(answer.queue_ms)} />
    <${Figure} name="tokens" value=${count(answer.tokens_used)} note=${`${count(answer.prompt_tokens)} in, ${count(answer.completion_tokens)} out`} />
    <${Figure} name="cost" value=${answer.cost_usd == null ? "unknown" : usd(answer.cost_usd)} note=${answer.simulated ? "simulated" : null} />
    <${Figure} name="confidence" value=${share(answer.confidence)} note=${answer.confidence_source} />
    <${Figure} name="policy" value=${answer.policy} note=${answer.priority} />
    ${answer.resumed && html`<${Figure} name="resumed" value="yes" note="another worker went on" />`}
  </dl>
  ${answer.error_message && html`<p class="problem"><${Words}>${answer.error_message}<//></p>`}`;

const ATTEMPTS = [
  { name: "attempt", number: true, of: (a) => a.attempt },
  { name: "worker", of: (a) => html`<${Words}>${a.worker_id}<//>` },
  { name: "model", of: (a) => html`<${Words}>${a.model_id}<//>` },
  { name: "outcome", of: (a) => html`<${Badge} kind=${OUTCOME_KIND[a.outcome] ?? "plain"}>${a.outcome}<//>` },
  { name: "took", number: true, of: (a) => ms(a.duration_ms) },
  { name: "first token", number: true, of: (a) => ms(a.ttft_ms) },
  { name: "queued", number: true, of: (a) => ms(a.queue_ms) },
  { name: "tokens", number: true, of: (a) => `${count(a.prompt_tokens)} + ${count(a.completion_tokens)}` },
  { name: "cost", number: true, of: (a) => (a.cost_usd == null ? "unknown" : usd(a.cost_usd)) },
  { name: "why not", of: (a) => html`<${Words}>${a.error_message ?? ""}<//>` },
];

// One bar per attempt: waiting, until the first token, the rest.
function Timeline({ told }) {
  const start = Math.min(Date.parse(told.response?.created_at ?? told.attempts[0].created_at), ...told.attempts.map((a) => Date.parse(a.created_at)));
  const bars = told.attempts.map((a) => {
    const from = Date.parse(a.created_at) - start;
    return { ...a, from, to: from + a.duration_ms, queued: Math.min(a.queue_ms ?? 0, a.duration_ms), first: Math.min(a.ttft_ms ?? a.duration_ms, a.duration_ms) };
  });
  const end = Math.max(told.response?.duration_ms ?? 0, ...bars.map((bar) => bar.to), 1);
  const x = (time) => (100 * time) / end;
  return html`
    <div class="timeline">${bars.map((bar) => html`
      <div key=${bar.attempt}>
        <span>${bar.attempt} <${Words}>${bar.worker_id}<//></span>
        <svg viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label=${`attempt ${bar.attempt}: from ${ms(bar.from)} to ${ms(bar.to)}, ${bar.outcome}`}>
          <rect class="rest" width="100" height="8" />
          <rect class="queued" x=${x(bar.from)} width=${x(bar.queued)} height="8" />
          <rect class="prefill" x=${x(bar.from + bar.queued)} width=${x(Math.max(0, bar.first - bar.queued))} height="8" />
          <rect class=${bar.outcome === "ok" ? "decode" : "lost"} x=${x(bar.from + bar.first)} width=${Math.max(0.5, x(bar.duration_ms - bar.first))} height="8" />
        </svg>
      </div>`)}
      <p class="legend"><i class="queued"></i>queued <i class="prefill"></i>until the first token <i class="decode"></i>answer <i class="lost"></i>lost; ${ms(end)} in all</p>
    </div>`;
}

function Decision({ decision }) {
  const columns = [
    { name: "candidate", of: (c) => html`<${Words}>${c.worker_id}<//>${c.worker_id === decision.winner && c.model_id === decision.model_id ? html` <${Badge} kind="good">chosen<//>` : ""}` },
    { name: "model", of: (c) => html`<${Words}>${c.model_id}<//>` },
    ...TERMS.map((term) => ({
      name: html`${term} <small>× ${decision.weights?.[term] ?? 0}</small>`, number: true, of: (c) => share(c.terms?.[term]),
    })),
    { name: "score", number: true, of: (c) => (c.score == null ? "–" : c.score.toFixed(3)) },
    { name: "passed over because", of: (c) => html`<${Words}>${c.passed_over ?? ""}<//>` },
  ];
  return html`
    <h2>Choice for attempt ${decision.attempt} <small>${decision.why ?? ""}, policy ${decision.policy}; the lowest score wins</small></h2>
    <${Table} label=${`Candidates for attempt ${decision.attempt}`} columns=${columns} rows=${decision.candidates} />
    ${decision.considered > decision.candidates.length && html`<p><small>${decision.considered - decision.candidates.length} more were considered.</small></p>`}`;
}

const Kept = ({ answer }) => html`
  <h2>Words</h2>
  ${answer.prompt == null && answer.output == null ? html`<${Empty}>The books keep no words of it (content: ${answer.content}).<//>` : html`
    <h3>Question</h3><pre class="words"><${Words}>${answer.prompt}<//></pre>
    <h3>Answer</h3><pre class="words"><${Words}>${answer.output ?? ""}<//></pre>
    <p><a class="button" href=${`#/chat?${new URLSearchParams({ prompt: (answer.prompt ?? "").slice(0, 4000) })}`}>Ask again</a></p>`}`;
