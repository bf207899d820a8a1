// Ask with nothing but the npm package "nats" (npm install nats): node examples/ask.mjs "What is the capital of France?"
import { connect } from "nats";

const client = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });
const reply = await client.request("infer.auto", JSON.stringify({ prompt: process.argv[2] }), { timeout: 60_000 });
const answer = reply.json();
console.log(answer.output ?? answer.error.message);
await client.close();
