// A plain conversation: who answered, at what cost, how sure, and what happened when a worker was lost.
import { html, useEffect, useRef, useState } from "/page/vendor/htm-preact.js";
import { chat, servedModels } from "/page/api.js";
import { Badge, Problem, Words } from "/page/parts.js";
import { share, usd } from "/page/words.js";

export function ChatView({ query }) {
  const [models, setModels] = useState(["auto"]);
  const [model, setModel] = useState(query.model ?? "auto");
  const [turns, setTurns] = useState([]);
  const [error, setError] = useState(null);
  const [asking, setAsking] = useState(null);
  const end = useRef();
  useEffect(() => {
    servedModels().then(setModels, setError);
  }, []);
  useEffect(() => () => asking?.abort(), [asking]);
  useEffect(() => end.current?.scrollIntoView({ block: "nearest" }), [turns]);

  const change = (more) => setTurns((before) => [...before.slice(0, -1), more(before.at(-1))]);
  const heard = (event) =>
    change((turn) => ({
      ...turn,
      text: turn.text + (event.text ?? ""),
      thought: turn.thought + (event.reasoning ?? ""),
      about: event.about ?? turn.about,
      reroutes: event.reroute ? [...turn.reroutes, { ...event.reroute, at: turn.text.length }] : turn.reroutes,
    }));
  const send = async (event) => {
    event.preventDefault();
    const form = event.target;
    const words = new FormData(form).get("words").trim();
    if (!words || asking) return;
    form.reset();
    const stop = new AbortController();
    const sent = [...turns.filter((turn) => turn.text), { role: "user", text: words }];
    setTurns([...sent, { role: "assistant", text: "", thought: "", reroutes: [], about: null }]);
    setError(null);
    setAsking(stop);
    try {
      await chat(model, sent.map((turn) => ({ role: turn.role, content: turn.text })), heard, stop.signal);
    } catch (failed) {
      if (failed.name !== "AbortError") setError(failed);
    }
    setAsking(null);
  };
  const keys = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      event.target.form.requestSubmit();
    }
  };
  return html`
    <h1>Chat</h1>
    <section class="chat" aria-label="Conversation">
      <div class="turns" role="log" aria-live="polite" aria-busy=${asking != null}>
        ${turns.map((turn, number) => html`<${Turn} key=${number} turn=${turn} waits=${asking && number === turns.length - 1} />`)}
        <div ref=${end}></div>
      </div>
      <${Problem} error=${error} />
      <form onSubmit=${send}>
        <label class="which">Model <select value=${model} onChange=${(event) => setModel(event.target.value)}>
          ${[...new Set([model, ...models])].map((one) => html`<option value=${one}>${one}</option>`)}</select></label>
        <label class="says"><span class="unseen">Your words</span>
          <textarea name="words" rows="3" placeholder="Ask something; Enter sends, Shift+Enter makes a new line" onKeyDown=${keys} maxlength="100000">${query.prompt ?? ""}</textarea></label>
        ${asking ? html`<button type="button" onClick=${() => asking.abort()}>Stop</button>` : html`<button class="main">Send</button>`}
        ${turns.length > 0 && !asking && html`<button type="button" onClick=${() => { setTurns([]); setError(null); }}>Begin anew</button>`}
      </form>
    </section>`;
}

function Turn({ turn, waits }) {
  if (turn.role === "user") return html`<div class="turn user"><h2 class="unseen">You</h2><p class="words"><${Words}>${turn.text}<//></p></div>`;
  const about = turn.about;
  return html`
    <div class="turn model">
      <h2 class="unseen">Answer</h2>
      ${turn.thought && html`<details><summary>Thoughts</summary><p class="words"><${Words}>${turn.thought}<//></p></details>`}
      <p class="words">${pieces(turn).map((piece) => (piece.reroute ? html`<${Moved} ...${piece.reroute} />` : html`<${Words}>${piece.text}<//>`))}${waits && html`<span class="waits" aria-label="more is to come">▍</span>`}</p>
      ${about && html`<p class="about">
        <span><${Words}>${about.worker}<//></span> <span><${Words}>${about.model}<//></span>
        <span>${about["cost-usd"] == null ? "cost unknown" : usd(Number(about["cost-usd"]))}${about.simulated ? " (simulated)" : ""}</span>
        ${about.confidence && html`<span>confidence ${share(Number(about.confidence))}</span>`}
        ${Number(about.attempts) > 1 && html`<span>${about.attempts} attempts</span>`}
        ${about["request-id"] && html`<a href=${`#/requests/${about["request-id"]}`}>what happened</a>`}</p>`}
    </div>`;
}

const Moved = ({ from, to }) => html` <${Badge} kind="weak"><${Words}>${from}<//> was lost, <${Words}>${to}<//> goes on<//> `;

// The text, cut where another worker went on.
function pieces({ text, reroutes }) {
  const found = [];
  let from = 0;
  for (const reroute of reroutes) {
    found.push({ text: text.slice(from, reroute.at) }, { reroute });
    from = reroute.at;
  }
  return [...found, { text: text.slice(from) }];
}
