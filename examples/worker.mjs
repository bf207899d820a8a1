// A worker in JavaScript with nothing but the npm package "nats": Managers choose it for infer.auto, callers may ask it on
// infer.mjs. What it has to say is in docs/a-worker-in-any-language.md.   NATS_URL=… node examples/worker.mjs
import { connect, headers, JSONCodec } from "nats";
import { hostname } from "node:os";

const backend = "mjs", id = process.argv[2] ?? "mjs-1", model = "echo-1";
const client = await connect({
  servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222",
  name: `worker:${backend}:${id}`, // the server tells Managers when a connection of this name ends
});
const json = JSONCodec();
const started = new Date(), epoch = String(started.getTime());
let inflight = 0, seq = 0, state = "ready";

function beat() {
  const told = json.encode({
    worker_id: id, backend, state, inflight, queued: 0, capacity: 4, epoch, seq: seq++, interval_ms: 1000,
    models: [{ model_id: model, aliases: [], context_window: 8192, capabilities: ["chat", "stream"], price: null, local: true }],
    started_at: started.toISOString(), host: hostname(),
  });
  client.publish(`worker.heartbeat.${backend}.${id}`, told); // for Managers: nobody else may speak there
  client.publish("worker.heartbeat", told); // for whoever looks on
}

function read(message) { // a body that is no JSON object is a bare prompt
  const body = message.string();
  return body.startsWith("{") ? JSON.parse(body) : { prompt: body };
}

async function answer(message) {
  const began = Date.now(), asked = read(message);
  const say = (fields, extra) => message.respond(json.encode({ task_id: asked.task_id, ...fields }), extra);
  inflight++;
  try {
    const words = (asked.prompt ?? asked.messages.at(-1).content).split(" ");
    if (asked.stream) words.forEach((word, seq) => say({ type: "chunk", seq, delta: seq ? ` ${word}` : word }));
    say({
      ...(asked.stream && { type: "response" }), model_id: model, output: words.join(" "), finish_reason: "stop", confidence: 0.5, confidence_source: "prior",
      tokens_used: 2 * words.length, prompt_tokens: words.length, completion_tokens: words.length, duration_ms: Date.now() - began,
    });
    if (asked.stream) message.respond();
  } catch (error) {
    const failure = headers();
    failure.set("Nats-Service-Error", error.message);
    failure.set("Nats-Service-Error-Code", "502");
    say({ error: { code: "upstream_error", status: 502, message: error.message, retryable: true } }, { headers: failure });
  } finally {
    inflight--;
  }
}

async function serve(subject, options) {
  for await (const message of client.subscribe(subject, options)) answer(message);
}

serve(`infer.${backend}`, { queue: "q" });
serve(`infer.${backend}.w.${id}`);
setInterval(beat, 1000);
beat();
process.on("SIGTERM", async () => {
  state = "stopped"; // Managers send nothing more
  beat();
  await client.drain();
  process.exit(0);
});
