// The ollama package for JavaScript.
import assert from "node:assert/strict";
import { Ollama } from "ollama";
import { PNG, SEES, TEXT, address, key, refused, run } from "./scenarios.mjs";

const client = new Ollama({ host: address, headers: { Authorization: `Bearer ${key}` } });
const messages = [{ role: "user", content: "What is the answer?" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

const scenarios = {
  async chat() {
    const answer = await client.chat({ model: TEXT, messages, options: { num_predict: 7, num_ctx: 4096 }, keep_alive: "5m" });
    assert.equal(answer.message.content.split(" ").length, 7);
    assert.equal(answer.done_reason, "length");
  },
  async stream() {
    const whole = await client.chat({ model: TEXT, messages });
    let text = "";
    for await (const piece of await client.chat({ model: TEXT, messages, stream: true })) text += piece.message.content;
    assert.equal(text, whole.message.content);
  },
  async generate() {
    assert.ok((await client.generate({ model: TEXT, prompt: "What is the answer?" })).response);
  },
  async tools() {
    const tools = [{ type: "function", function: { name: "weather", description: "Of a city", parameters } }];
    const first = await client.chat({ model: TEXT, messages, tools });
    const call = first.message.tool_calls[0].function;
    assert.equal(typeof call.arguments.city, "string");
    const result = { role: "tool", tool_name: call.name, content: "It rains." };
    const last = await client.chat({ model: TEXT, messages: [...messages, first.message, result], tools });
    assert.ok(last.message.content);
  },
  async schema() {
    const answer = await client.chat({ model: TEXT, messages, format: parameters });
    assert.equal(typeof JSON.parse(answer.message.content).city, "string");
  },
  async image() {
    const shown = [{ ...messages[0], images: [PNG] }];
    assert.ok((await client.chat({ model: SEES, messages: shown })).message.content);
    assert.match((await refused(() => client.chat({ model: TEXT, messages: shown }))).message, /vision|image/);
  },
  async models() {
    assert.ok((await client.list()).models.some((model) => model.name === `${SEES}:latest`));
    assert.ok((await client.show({ model: SEES })).capabilities.includes("vision"));
    assert.equal((await client.pull({ model: SEES })).status, "success");
  },
  async unknownModel() {
    const error = await refused(() => client.chat({ model: "nobody", messages }));
    assert.equal(error.status_code, 404);
    assert.match(error.message, /served are/);
  },
  async badKey() {
    const wrong = new Ollama({ host: address, headers: { Authorization: "Bearer bp-wrong" } });
    assert.equal((await refused(() => wrong.list())).status_code, 401);
  },
};

await run(scenarios, async (model, leaves) => {
  const stream = await client.chat({ model, messages, stream: true });
  for await (const piece of stream) {
    if (leaves && piece.message.content) {
      stream.abort();
      break;
    }
  }
});
