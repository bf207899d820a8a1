// Asking the gateway: JSON in and out, and errors with the words that it says.

const OURS = { "x-bullpen-page": "1" }; // what no other site's page can send

export class Failed extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export async function ask(path, { method = "GET", body, signal } = {}) {
  const headers = body === undefined ? OURS : { ...OURS, "content-type": "application/json" };
  const sent = body === undefined ? undefined : JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(`/api/v1/${path}`, { method, headers, body: sent, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failed(0, "away", "the gateway does not answer");
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Failed(answer.status, told.error?.code, told.error?.message ?? `status ${answer.status}`);
  return told;
}

export const tell = (path, body = {}) => ask(path, { method: "POST", body });

// A streamed chat answer: `heard` gets { text }, { reasoning }, { reroute }, { about }, as they come.
export async function chat(model, messages, heard, signal) {
  const answer = await fetch("/v1/chat/completions", {
    method: "POST",
    signal,
    headers: { ...OURS, "content-type": "application/json" },
    body: JSON.stringify({ model, messages, stream: true }),
  });
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Failed(answer.status, told.error?.code, told.error?.message ?? `status ${answer.status}`);
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const about = {};
  let rest = "";
  let ended = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") ended = true;
      else if (line.startsWith("data: ")) piece(JSON.parse(line.slice(6)), heard);
      else if (line.startsWith(": x-")) comment(line.slice(2), about, heard);
    }
  }
  if (!ended) throw new Failed(0, "cut_off", "the stream ended before the answer did");
}

function piece(told, heard) {
  if (told.error) throw new Failed(told.error.status ?? 0, told.error.code, told.error.message);
  const delta = told.choices?.[0]?.delta;
  if (delta?.reasoning_content) heard({ reasoning: delta.reasoning_content });
  if (delta?.content) heard({ text: delta.content });
}

function comment(line, about, heard) {
  const at = line.indexOf(": ");
  const [name, value] = [line.slice(0, at), line.slice(at + 2)];
  if (name === "x-bullpen-rerouted") {
    const [from, to] = value.split(" ");
    heard({ reroute: { from, to } });
  } else {
    about[name.replace(/^x-(bullpen-)?/, "")] = value;
    heard({ about: { ...about } });
  }
}

export async function servedModels() {
  const answer = await fetch("/v1/models", { headers: OURS });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Failed(answer.status, told.error?.code, told.error?.message ?? "");
  return told.data.map((model) => model.id);
}
