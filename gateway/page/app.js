// The page: who looks, which view, and the mesh's events for all of them.
import { html, render, useEffect, useState } from "/page/vendor/htm-preact.js";
import { ask, tell } from "/page/api.js";
import { isOld, liveMesh } from "/page/live.js";
import { Problem } from "/page/parts.js";
import { ChatView } from "/page/views/chat.js";
import { KeysView } from "/page/views/keys.js";
import { MeshView } from "/page/views/mesh.js";
import { MoneyView } from "/page/views/money.js";
import { RequestView } from "/page/views/request.js";
import { RequestsView } from "/page/views/requests.js";

const VIEWS = [
  ["mesh", "Mesh", MeshView],
  ["requests", "Requests", RequestsView],
  ["money", "Money and models", MoneyView],
  ["chat", "Chat", ChatView],
  ["keys", "Keys and health", KeysView],
];

// `#/requests/ID?status=error` → { view, name, query }
function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, name] = path.split("/").map(decodeURIComponent);
  return { view: view || "mesh", name, query: Object.fromEntries(new URLSearchParams(query)) };
}

function App() {
  const [at, setAt] = useState(place());
  const [session, setSession] = useState({ asked: false });
  const [mesh, setMesh] = useState({ workers: {}, routes: [], fresh: [], managers: [], accountants: [], gateways: [], totals: null });
  const [now, setNow] = useState(Date.now());

  const enter = () =>
    ask("session").then(
      (who) => setSession({ asked: true, who }),
      (error) => setSession({ asked: true, error }),
    );
  useEffect(() => {
    enter();
    const moved = () => setAt(place());
    addEventListener("hashchange", moved);
    const clock = setInterval(() => setNow(Date.now()), 1000);
    return () => {
      removeEventListener("hashchange", moved);
      clearInterval(clock);
    };
  }, []);
  const who = session.who;
  useEffect(() => (who ? liveMesh(setMesh) : undefined), [who?.key_id, who?.role]);
  useEffect(() => {
    document.title = `${VIEWS.find(([id]) => id === at.view)?.[1] ?? "Bullpen"} – Bullpen`;
  }, [at.view]);
  // Keys are revoked while a page is open: ask who we are when events fail for long.
  const old = isOld(mesh, now);
  useEffect(() => {
    if (old && who && !document.hidden) ask("session").catch((error) => error.status === 401 && setSession({ asked: true, error }));
  }, [old, Math.floor(now / 10_000)]);

  if (!session.asked) return html`<p class="empty">…</p>`;
  if (!who) return html`<${SignIn} error=${session.error} enter=${enter} />`;
  const View = at.view === "requests" && at.name ? RequestView : VIEWS.find(([id]) => id === at.view)?.[2];
  const leave = () => ask("session", { method: "DELETE" }).then(() => location.reload());
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main").focus(); }}>To the content</a>
    <header>
      <a class="brand" href="#/mesh"><img src="/page/icon.svg" alt="" width="24" height="24" />Bullpen</a>
      <nav aria-label="Views">${VIEWS.map(([id, name]) => html`
        <a href=${`#/${id}`} aria-current=${at.view === id ? "page" : null}>${name}</a>`)}</nav>
      <div class="who">
        ${who.open ? html`<span title="no key is needed on this machine">on this machine</span>` : html`
          <span>${who.role}${who.tenant ? ` of ${who.tenant}` : ""}</span>
          <button onClick=${leave}>Sign out</button>`}
      </div>
    </header>
    ${old && html`<p class="old" role="status">What you see is ${Math.round((now - mesh.heardAt) / 1000)} s old: the gateway says nothing. Trying again …</p>`}
    <main id="main" tabindex="-1">
      ${View ? html`<${View} ...${at} who=${who} mesh=${mesh} now=${now} />` : html`<p class="empty">There is nothing here. <a href="#/mesh">To the mesh</a></p>`}
    </main>`;
}

function SignIn({ error, enter }) {
  const [refused, setRefused] = useState(null);
  const send = async (event) => {
    event.preventDefault();
    try {
      await tell("session", { key: new FormData(event.target).get("key").trim() });
      setRefused(null);
      enter();
    } catch (failed) {
      setRefused(failed);
    }
  };
  return html`
    <main id="main" class="sign-in">
      <h1><img src="/page/icon.svg" alt="" width="32" height="32" /> Bullpen</h1>
      <form onSubmit=${send}>
        <label>API key <input name="key" type="password" autocomplete="current-password" required autofocus /></label>
        <button class="main">Sign in</button>
        <${Problem} error=${refused ?? (error?.status === 401 ? null : error)} />
      </form>
      <p>Make one with <code>bullpen keys create --tenant ops --role viewer</code>, or <code>operator</code> for one that may also act. A tenant's key shows that tenant's requests.</p>
    </main>`;
}

render(html`<${App} />`, document.getElementById("app"));
