// API keys, and what the doctor finds.
import { html, useState } from "/page/vendor/htm-preact.js";
import { tell } from "/page/api.js";
import { Badge, Dialog, Empty, Problem, Table, Words, useAsked } from "/page/parts.js";
import { moment, usd } from "/page/words.js";

const HEALTH_KIND = { ok: "good", warn: "weak", fail: "bad", off: "plain" };
const WORST_FIRST = ["fail", "warn", "ok", "off"];

export function KeysView({ who }) {
  if (who.tenant != null) return html`<h1>Keys and health</h1><${Empty}>Keys and the mesh's health are for viewers and operators.<//>`;
  return html`<h1>Keys and health</h1><${Health} /><${Keys} who=${who} />`;
}

function Health() {
  const { told, error, again } = useAsked("health", 30_000);
  const found = [...(told?.findings ?? [])].sort((a, b) => WORST_FIRST.indexOf(a.state) - WORST_FIRST.indexOf(b.state));
  return html`
    <h2>Health <button onClick=${again}>Look again</button></h2>
    <${Problem} error=${error} />
    ${!told && !error && html`<${Empty}>The doctor looks …<//>`}
    <ul class="findings">${found.map((one) => html`
      <li key=${one.part}><${Badge} kind=${HEALTH_KIND[one.state]}>${one.state}<//> <div><b>${one.part}</b> <${Words}>${one.detail}<//>
        ${one.cure && html`<p><${Words}>${one.cure}<//></p>`}</div></li>`)}</ul>`;
}

function Keys({ who }) {
  const { told, error, again } = useAsked("keys", 10_000);
  const [made, setMade] = useState(null);
  const [refused, setRefused] = useState(null);
  const [asking, setAsking] = useState(null);
  const may = who.role === "operator";
  const create = async (event) => {
    event.preventDefault();
    const form = event.target;
    try {
      setMade(await tell("keys", Object.fromEntries(new FormData(form))));
      setRefused(null);
      form.reset();
      again();
    } catch (failed) {
      setRefused(failed);
    }
  };
  const revoke = (key) => ({
    title: `Revoke ${key.key_id}`, verb: "Revoke", danger: true,
    about: html`Every gateway refuses this key of <b><${Words}>${key.tenant}<//></b> within a second. It cannot be undone.`,
    act: async () => { await tell(`keys/${key.key_id}/revoke`); again(); return { message: `${key.key_id} is revoked` }; },
  });
  const columns = [
    { name: "key", of: (k) => k.key_id },
    { name: "tenant", of: (k) => html`<${Words}>${k.tenant}<//>` },
    { name: "role", of: (k) => k.role },
    { name: "state", of: (k) => html`<${Badge} kind=${state(k) === "open" ? "good" : "plain"}>${state(k)}<//>` },
    { name: "models", of: (k) => html`<${Words}>${k.models.join(", ") || "all"}<//>` },
    { name: "limits", of: (k) => [k.rpm && `${k.rpm} rpm`, k.tpm && `${k.tpm} tpm`, k.budget && `${usd(k.budget.limit_usd)}/${k.budget.per}`].filter(Boolean).join(", ") || "–" },
    { name: "made", of: (k) => moment(k.created_at) },
    { name: "ends", of: (k) => moment(k.expires_at) },
    { name: "", of: (k) => state(k) === "open" && html`<button disabled=${!may} onClick=${() => setAsking(revoke(k))} aria-label=${`Revoke ${k.key_id}`}>Revoke</button>` },
  ];
  return html`
    <h2>Keys</h2>
    <${Problem} error=${error ?? refused} />
    ${who.open && html`<p class="note">No key is needed on this machine as long as there is none. With the first one everybody needs one, this page too: make an operator's first.</p>`}
    <form class="filters" onSubmit=${create}>
      <label>Tenant <input name="tenant" required maxlength="128" disabled=${!may} /></label>
      <label>Role <select name="role" disabled=${!may}>${(who.open ? ["operator", "viewer", "tenant"] : ["tenant", "viewer", "operator"]).map((one) => html`<option>${one}</option>`)}</select></label>
      <button class="main" disabled=${!may} title=${may ? null : "an operator's key may do this"}>Make a key</button>
    </form>
    ${made && html`<p class="secret" role="status">The secret of ${made.key_id}, shown this once: <code>${made.secret}</code>
      <button onClick=${() => navigator.clipboard?.writeText(made.secret)}>Copy</button> <button onClick=${() => setMade(null)}>I have it</button></p>`}
    ${told && (told.keys.length ? html`<${Table} label="Keys" columns=${columns} rows=${told.keys} rowKey=${(k) => k.key_id} />` : html`<${Empty}>There are none.<//>`)}
    ${asking && html`<${Dialog} what=${asking} close=${() => setAsking(null)} />`}`;
}

const state = (key) => (key.revoked_at ? "revoked" : key.expires_at && Date.parse(key.expires_at) <= Date.now() ? "expired" : "open");
