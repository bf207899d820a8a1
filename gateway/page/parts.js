// Pieces that several views share.
import { html, useEffect, useMemo, useRef, useState } from "/page/vendor/htm-preact.js";
import { ask } from "/page/api.js";
import { inert } from "/page/words.js";

// Words of strangers: text, never HTML; each piece keeps its direction to itself.
export const Words = ({ children }) => html`<bdi>${inert(children)}</bdi>`;

export const Badge = ({ kind, children }) => html`<span class=${`badge ${kind}`}>${children}</span>`;

export const Problem = ({ error }) =>
  error && html`<p class="problem" role="alert">${inert(error.message ?? error)}</p>`;

export const Empty = ({ children }) => html`<p class="empty">${children}</p>`;

export const Figure = ({ name, value, note }) => html`
  <div class="figure"><dt>${name}</dt><dd>${value}${note && html` <small>${note}</small>`}</dd></div>`;

// A table in a box that scrolls by itself, also by keyboard. Columns: { name, of, number }.
export const Table = ({ label, columns, rows, rowKey }) => html`
  <div class="scrolls" tabindex="0" role="region" aria-label=${label}>
    <table>
      <thead><tr>${columns.map((c) => html`<th scope="col" class=${c.number ? "number" : ""}>${c.name}</th>`)}</tr></thead>
      <tbody>${rows.map((row, index) => html`
        <${Row} key=${rowKey ? rowKey(row) : index} row=${row} columns=${columns} />`)}</tbody>
    </table>
  </div>`;

// Made anew when its row or the columns are others: of ten thousand rows few are at a time.
const Row = ({ row, columns }) =>
  useMemo(() => html`<tr>${columns.map((c) => html`<td class=${c.number ? "number" : ""}>${c.of(row)}</td>`)}</tr>`, [row, columns]);

export const Bar = ({ of, most, more = 0, label }) => {
  const whole = Math.max(most, of + more, 1);
  return html`
    <svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label=${label}>
      <rect class="rest" width="100" height="6" rx="1" />
      <rect class="used" width=${(100 * of) / whole} height="6" />
      ${more > 0 && html`<rect class="more" x=${(100 * of) / whole} width=${(100 * more) / whole} height="6" />`}
    </svg>`;
};

// Asks now, and again every so many milliseconds while the page is looked at.
export function useAsked(path, every) {
  const [state, setState] = useState({ told: null, error: null });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    if (path == null) return undefined;
    const giving_up = new AbortController();
    let timer = 0;
    const look = async () => {
      if (!document.hidden) {
        try {
          const told = await ask(path, { signal: giving_up.signal });
          setState({ told, error: null });
        } catch (error) {
          if (error.name === "AbortError") return;
          setState((before) => ({ told: error.status === 404 ? null : before.told, error }));
        }
      }
      if (every) timer = setTimeout(look, every);
    };
    look();
    return () => {
      giving_up.abort();
      clearTimeout(timer);
    };
  }, [path, every, turn]);
  return { ...state, again: () => setTurn((before) => before + 1) };
}

// Asks before something is done, and says what happened. `what`: { title, about, danger, fields, act }.
export function Dialog({ what, close }) {
  const [state, setState] = useState({ busy: false, error: null, done: null });
  const box = useRef();
  useEffect(() => {
    box.current.showModal();
  }, []);
  const go = async (event) => {
    event.preventDefault();
    setState({ busy: true, error: null, done: null });
    try {
      const told = await what.act(Object.fromEntries(new FormData(event.target)));
      setState({ busy: false, error: null, done: told.message ?? "done" });
    } catch (error) {
      setState({ busy: false, error, done: null });
    }
  };
  return html`
    <dialog ref=${box} onClose=${close} aria-labelledby="dialog-title">
      <form onSubmit=${go}>
        <h2 id="dialog-title">${what.title}</h2>
        <p>${what.about}</p>
        ${!state.done && what.fields}
        <${Problem} error=${state.error} />
        ${state.done && html`<p class="done" role="status">${inert(state.done)}</p>`}
        ${state.busy && html`<p role="status">${what.busy ?? "working …"}</p>`}
        <p class="buttons">
          <button type="button" onClick=${() => box.current.close()}>${state.done ? "Close" : "Cancel"}</button>
          ${!state.done && html`<button class=${what.danger ? "danger" : "main"} disabled=${state.busy}>${what.verb}</button>`}
        </p>
      </form>
    </dialog>`;
}
